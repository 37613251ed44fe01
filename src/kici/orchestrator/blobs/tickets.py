"""What a blob URL allows, signed: one method on one object, for a while, up to a size (AG-76)."""

import base64
import binascii
import hmac
from typing import ClassVar, Literal

import msgspec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from kici.runtime.clock import Clock
from kici.spec.errors import KiciError

_SIGNATURE_BYTES = 32


class TicketRefused(KiciError):
    """Not signed by us, or for another method."""

    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403


class TicketExpired(KiciError):
    code: ClassVar[str] = "expired"
    status: ClassVar[int] = 410


class Ticket(Struct, frozen=True, array_like=True):
    method: Literal["GET", "PUT"]
    key: str
    expires_s: int  # Unix time
    max_bytes: int  # of what is put


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Ticket).decode


class TicketOffice:
    """Signs and checks. `secret_key`: KICI_SECRET_KEY, from which an own key is derived."""

    def __init__(self, secret_key: bytes, clock: Clock) -> None:
        self._key = HKDF(algorithm=SHA256(), length=32, salt=None, info=b"kici/blobs").derive(secret_key)
        self._clock = clock

    def issue(self, method: Literal["GET", "PUT"], key: str, *, valid_s: int, max_bytes: int = 0) -> str:
        """Letters, digits, `-` and `_` only."""
        ticket = Ticket(method, key, self._clock.now_ms() // 1000 + valid_s, max_bytes)
        body = _encode(ticket)
        return base64.urlsafe_b64encode(self._sign(body) + body).decode().rstrip("=")

    def check(self, token: str, method: str) -> Ticket:
        """Raises TicketRefused or TicketExpired."""
        try:
            raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError) as error:
            raise TicketRefused("this URL was not made here") from error
        signature, body = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(body)):
            raise TicketRefused("this URL was not made here, or was changed")
        ticket = _decode(body)
        if ticket.method != method:
            raise TicketRefused(f"this URL is for {ticket.method}")
        if self._clock.now_ms() // 1000 >= ticket.expires_s:
            raise TicketExpired("this URL has expired; ask for a new one")
        return ticket

    def _sign(self, body: bytes) -> bytes:
        return hmac.digest(self._key, body, "sha256")
