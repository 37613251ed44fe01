"""The working tree of a remote run as it travels: packed by the CLI, opened by the agent (AU-124, AU-125).

The plain text is a gzip-compressed tar (pax). Its first member is `MANIFEST_PATH`; all other members are
regular files, directories and symbolic links below the repository's root, each file and link with its
checksum in the manifest. Nothing else may be in it: no hard links (a file with two names comes twice), no
devices, no absolute links and none that lead out of the tree. Either everything comes, `.git` included; or only
what differs from the commit `base`, then without `.git`, but with `PACK_PATH` where git has objects of its own.

Sealed, it is a stream of records, so that neither side ever holds more than one chunk:

    MAGIC, 8 bytes
    record: length of the ciphertext as u32, big-endian ‖ IV 12 ‖ tag 16 ‖ ciphertext (AES-256-GCM)
    …
    last record: as the others, possibly empty

An IV is a random prefix of 7 bytes, equal in all records, then the record's number as u32, then 1 in the
last record and 0 before. Swapped, repeated, missing and cut-off records therefore do not open. A key seals
one stream.
"""

import hashlib
import secrets
import struct
from collections.abc import Iterable, Iterator
from typing import ClassVar

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from kici.spec.errors import KiciError

MANIFEST_PATH = ".kici-overlay-tmp/manifest.json"
PACK_PATH = ".kici-overlay-tmp/objects.pack"
FOLDER = ".kici-overlay-tmp"  # of these two; it is never part of a work tree
MAX_MANIFEST = 64 << 20
CHUNK = 1 << 20  # plain bytes of every record but the last
MAX_BYTES = 500 << 20  # of a sealed overlay
MAGIC = b"kiciovl\x01"
KEY_INFO = b"kici-upload-encryption"

_LENGTH = struct.Struct(">I")
_COUNTER = struct.Struct(">7sIB")
_IV, _TAG = 12, 16
_HEAD = _LENGTH.size + _IV + _TAG


class OverlayBroken(KiciError):
    """Not what was packed: wrong key, changed, cut off, or not an overlay at all."""

    code: ClassVar[str] = "overlay_broken"


class GitState(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a `.git` of the author's would say, when only a difference is sent. `branch` is checked out; None:
    HEAD is detached. `refs`: full names below refs/heads, refs/tags, refs/remotes → object ids. `remotes`:
    name → address without credentials. Objects that the base's repository does not have are in `PACK_PATH`, a
    thin pack."""

    branch: str | None
    refs: dict[str, str]
    remotes: dict[str, str]


class Manifest(Struct, frozen=True, kw_only=True, rename="camel"):
    """`base`: the commit to check out first, when only the difference to it is sent; `deletions` are paths
    of it that are gone, and `git` is there. `checksums`: path → SHA-256 in hex of a file's bytes, or of a
    link's target in UTF-8. Paths have `/` and no leading `./`."""

    sha: str  # HEAD of the author's work tree
    base: str | None = None
    git: GitState | None = None
    deletions: list[str] = []
    checksums: dict[str, str]


def link_checksum(target: str) -> str:
    return hashlib.sha256(target.encode("utf-8", "surrogateescape")).hexdigest()


def upload_key(private: X25519PrivateKey, peer: bytes) -> bytes:
    """The AES key that both sides of an upload come to; `peer` is the other's raw public key."""
    shared = private.exchange(X25519PublicKey.from_public_bytes(peer))
    return HKDF(algorithm=SHA256(), length=32, salt=None, info=KEY_INFO).derive(shared)


def seal(key: bytes, plain: Iterable[bytes]) -> Iterator[bytes]:
    """The sealed stream of `plain`, which comes in pieces of any size."""
    cipher, prefix = AESGCM(key), secrets.token_bytes(7)
    number = 0
    held = bytearray()
    yield MAGIC
    for piece in plain:
        held += piece
        while len(held) > CHUNK:
            yield _record(cipher, _COUNTER.pack(prefix, number, 0), bytes(held[:CHUNK]))
            del held[:CHUNK]
            number += 1
    yield _record(cipher, _COUNTER.pack(prefix, number, 1), bytes(held))


def sealed_size(plain_bytes: int) -> int:
    """How long the sealed stream of so many bytes is."""
    records = max(1, -(-plain_bytes // CHUNK))
    return len(MAGIC) + records * _HEAD + plain_bytes


def _record(cipher: AESGCM, iv: bytes, plain: bytes) -> bytes:
    sealed = cipher.encrypt(iv, plain, MAGIC)
    body, tag = sealed[:-_TAG], sealed[-_TAG:]
    return b"".join((_LENGTH.pack(len(body)), iv, tag, body))


class Opener:
    """`feed` sealed bytes as they come, in order, of any size; then `finish`."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)
        self._held = bytearray()
        self._started = False
        self._ended = False
        self._prefix: bytes | None = None
        self._number = 0

    def feed(self, data: bytes) -> bytes:
        """The plain text that has become complete. Raises OverlayBroken."""
        held = self._held
        held += data
        plain: list[bytes] = []
        if not self._started:
            if len(held) < len(MAGIC):
                return b""
            if not held.startswith(MAGIC):
                raise OverlayBroken("this is not a sealed overlay, or one of another version")
            del held[: len(MAGIC)]
            self._started = True
        while len(held) >= _HEAD:
            if self._ended:
                raise OverlayBroken("the overlay goes on after its end")
            (length,) = _LENGTH.unpack_from(held)
            if length > CHUNK:
                raise OverlayBroken("a record of the overlay is too long")
            end = _HEAD + length
            if len(held) < end:
                break
            plain.append(self._open(bytes(held[:end])))
            del held[:end]
        return b"".join(plain)

    def finish(self) -> None:
        """Raises OverlayBroken when the stream was cut off."""
        if not self._ended or self._held:
            raise OverlayBroken("the overlay is incomplete")

    def _open(self, record: bytes) -> bytes:
        iv = record[_LENGTH.size : _LENGTH.size + _IV]
        tag, body = record[_LENGTH.size + _IV : _HEAD], record[_HEAD:]
        prefix, number, last = _COUNTER.unpack(iv)
        if self._prefix is None:
            self._prefix = prefix
        if prefix != self._prefix or number != self._number or last > 1:
            raise OverlayBroken("the records of the overlay are out of order")
        try:
            plain = self._cipher.decrypt(iv, body + tag, MAGIC)
        except InvalidTag as error:
            raise OverlayBroken("the overlay does not open: another key, or changed on its way") from error
        self._number += 1
        self._ended = last == 1
        return plain
