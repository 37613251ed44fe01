"""Secrets at rest: AES-256-GCM under a key derived from KICI_SECRET_KEY, bound to what they belong to."""

import os
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kici.spec.errors import KiciError

_VERSION = b"\x01"
_NONCE_BYTES = 12


class Unsealable(KiciError):
    """The key is not the one it was sealed with, or the bytes were changed."""

    code: ClassVar[str] = "unsealable"


class Sealer:
    """One purpose, one derived key. Sealed: version byte, nonce, ciphertext with tag."""

    def __init__(self, secret_key: bytes, purpose: str) -> None:
        """`secret_key`: 32 bytes."""
        key = HKDF(algorithm=SHA256(), length=32, salt=None, info=f"kici/{purpose}".encode()).derive(
            secret_key
        )
        self._cipher = AESGCM(key)
        self._purpose = purpose

    def _bound(self, owner: str) -> bytes:
        return f"{self._purpose}:{owner}".encode()

    def seal(self, owner: str, plain: bytes) -> bytes:
        """`owner` (a row's id) is authenticated: a sealed value moved to another row does not open."""
        nonce = os.urandom(_NONCE_BYTES)
        return _VERSION + nonce + self._cipher.encrypt(nonce, plain, self._bound(owner))

    def unseal(self, owner: str, sealed: bytes) -> bytes:
        """Raises Unsealable."""
        if sealed[:1] != _VERSION or len(sealed) <= 1 + _NONCE_BYTES:
            raise Unsealable("a sealed value of an unknown form")
        nonce, body = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return self._cipher.decrypt(nonce, body, self._bound(owner))
        except InvalidTag as error:
            raise Unsealable("a sealed value does not open: was KICI_SECRET_KEY changed?") from error
