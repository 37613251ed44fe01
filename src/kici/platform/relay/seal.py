"""AES-256-GCM under KICI_SECRET_KEY for webhooks that wait: their headers carry signatures."""

import os

_NONCE_BYTES = 12


class Seal:
    """The row's id is authenticated with its content, so rows can't be exchanged. The cipher library
    loads on first use."""

    def __init__(self, key_hex: str) -> None:
        self._key = bytes.fromhex(key_hex)

    def close(self, row_id: str, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, data, row_id.encode())

    def open(self, row_id: str, sealed: bytes) -> bytes:
        """Raises cryptography.exceptions.InvalidTag when the key changed or the row was tampered with."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], row_id.encode())
