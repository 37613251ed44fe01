"""How a secret output travels: sealed on the agent, opened only to deliver it to a job that needs it (AG-52).

Base64 of: ephemeral X25519 public key 32 ‖ IV 12 ‖ tag 16 ‖ ciphertext. The AES-256-GCM key is
HKDF-SHA256 of the exchange with the run's public key. Run, job, attempt and name are authenticated, so
that one sealed value cannot be passed off as another (SE-40).
"""

import base64
import binascii
import secrets
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kici.spec.errors import KiciError

MAX_OUTPUTS = 20  # per job
MAX_VALUE = 64 << 10  # bytes of UTF-8
INFO = b"kici-run-secret-outputs"

_KEY, _IV, _TAG = 32, 12, 16


class SecretOutputBroken(KiciError):
    """It cannot be sealed for this key, or does not open with it."""

    code: ClassVar[str] = "secret_output_broken"


def seal(run_public_key: str, *, run_id: str, job_id: str, attempt: int, name: str, value: str) -> str:
    """`run_public_key`: raw, base64. Raises SecretOutputBroken."""
    try:
        peer = base64.b64decode(run_public_key, validate=True)
        mine = X25519PrivateKey.generate()
        cipher = AESGCM(_derived(mine, peer))
    except (binascii.Error, ValueError) as error:
        raise SecretOutputBroken(f"the run's public key is of no use: {error}") from error
    iv = secrets.token_bytes(_IV)
    sealed = cipher.encrypt(iv, value.encode(), _bound(run_id, job_id, attempt, name))
    body, tag = sealed[:-_TAG], sealed[-_TAG:]
    return base64.b64encode(mine.public_key().public_bytes_raw() + iv + tag + body).decode()


def unseal(
    private: X25519PrivateKey, sealed: str, *, run_id: str, job_id: str, attempt: int, name: str
) -> str:
    """Raises SecretOutputBroken."""
    try:
        raw = base64.b64decode(sealed, validate=True)
        peer, rest = raw[:_KEY], raw[_KEY:]
        iv, tag, body = rest[:_IV], rest[_IV : _IV + _TAG], rest[_IV + _TAG :]
        plain = AESGCM(_derived(private, peer)).decrypt(
            iv, body + tag, _bound(run_id, job_id, attempt, name)
        )
        return plain.decode()
    except (binascii.Error, ValueError, InvalidTag) as error:
        raise SecretOutputBroken(f"the secret output {name!r} does not open") from error


def _derived(private: X25519PrivateKey, peer: bytes) -> bytes:
    shared = private.exchange(X25519PublicKey.from_public_bytes(peer))
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=INFO).derive(shared)


def _bound(run_id: str, job_id: str, attempt: int, name: str) -> bytes:
    return "\0".join((run_id, job_id, str(attempt), name)).encode()
