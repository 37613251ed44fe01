"""The working tree as one compressed file, in a temporary folder of this user's (AU-124)."""

import gzip
import hashlib
import io
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import msgspec
from msgspec import Struct

from kici.cli.remote.difference import Base, Difference
from kici.cli.remote.tree import Tree
from kici.protocol.overlay import MANIFEST_PATH, MAX_BYTES, PACK_PATH, Manifest, link_checksum, sealed_size
from kici.spec.errors import InvalidInput

WARN_BYTES = 50 << 20
_LARGEST = 10
_PIECE = 1 << 20
_LEVEL = 4  # packs and pictures are compressed already; text is at a good price


class TreeTooLarge(InvalidInput):
    """More than a server takes."""


class Packed(Struct, frozen=True, kw_only=True):
    """`file_count` without those of `.git`. `over`: it is only the difference to that commit."""

    path: Path
    size_bytes: int  # of `path`
    file_count: int
    over: Base | None = None

    @property
    def sealed_bytes(self) -> int:
        return sealed_size(self.size_bytes)


def summary(tree: Tree, packed: Packed) -> str:
    """`12 files changed, 3 new, 1 deleted (2.3 MB compressed)`; a difference says what it lies over."""
    over = "" if packed.over is None else f" over {packed.over.shown}"
    return (
        f"{tree.changed} file{'' if tree.changed == 1 else 's'} changed, {tree.new} new,"
        f" {tree.deleted} deleted{over} ({megabytes(packed.size_bytes)} compressed)"
    )


def megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB" if size >= 50_000 else f"{size / 1e3:.1f} kB"


def pack(tree: Tree, git: Path, place: Path) -> Packed:
    """Everything, with the `.git` that was made for it. Raises TreeTooLarge, InvalidInput when a file changes
    meanwhile."""
    members = [*_members(tree.root, tree.files), *_members_below(git, ".git")]
    manifest = Manifest(sha=tree.sha, deletions=tree.deletions, checksums=_checksums(members))
    return Packed(path=place, size_bytes=_write(place, manifest, members), file_count=len(tree.files))


def pack_difference(found: Difference, place: Path) -> Packed:
    """Raises as `pack` does."""
    tree = found.tree
    members = list(_members(tree.root, tree.files))
    if found.objects is not None:
        members.append((PACK_PATH, found.objects))
    manifest = Manifest(
        sha=tree.sha,
        base=found.base.commit,
        git=found.git,
        deletions=tree.deletions,
        checksums=_checksums(members),
    )
    size = _write(place, manifest, members)
    return Packed(path=place, size_bytes=size, file_count=len(tree.files), over=found.base)


def _write(place: Path, manifest: Manifest, members: list[tuple[str, Path]]) -> int:
    """How large it became."""
    encoded = msgspec.json.encode(manifest)
    with open(place, "wb", opener=_private) as raw:
        limited = _Limited(raw, lambda: _too_large(members))
        # No name and no time: the same tree is the same bytes.
        with (
            gzip.GzipFile("", "wb", compresslevel=_LEVEL, fileobj=limited, mtime=0) as packed,
            tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as archive,
        ):
            head = tarfile.TarInfo(MANIFEST_PATH)
            head.size = len(encoded)
            head.mode = 0o644
            archive.addfile(head, io.BytesIO(encoded))
            for name, path in members:
                _add(archive, name, path, manifest.checksums[name])
    return place.stat().st_size


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o600)


def _members(root: Path, names: list[str]) -> Iterator[tuple[str, Path]]:
    for name in names:
        yield name, root / name


def _members_below(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        below = os.path.relpath(parent, folder).replace(os.sep, "/")
        for name in sorted(names):
            yield f"{prefix}/{name}" if below == "." else f"{prefix}/{below}/{name}", Path(parent) / name


def _checksums(members: list[tuple[str, Path]]) -> dict[str, str]:
    return {name: _checksum(path) for name, path in members}


def _checksum(path: Path) -> str:
    if path.is_symlink():
        return link_checksum(os.readlink(path))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(archive: tarfile.TarFile, name: str, path: Path, checksum: str) -> None:
    info = tarfile.TarInfo(name)
    found = os.lstat(path)
    info.mtime = int(found.st_mtime)
    if path.is_symlink():
        info.type = tarfile.SYMTYPE
        info.linkname = os.readlink(path)
        archive.addfile(info)
        return
    info.size = found.st_size
    info.mode = 0o755 if found.st_mode & 0o100 else 0o644
    with open(path, "rb") as file:
        hashed = _Hashed(file)
        try:
            archive.addfile(info, hashed)
        except OSError as error:
            raise _changed(name) from error
    if hashed.digest.hexdigest() != checksum:
        raise _changed(name)


def _changed(name: str) -> InvalidInput:
    return InvalidInput(f"{name} changed while the working tree was packed: run it again")


class _Hashed:
    """A file that notes what was read of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        return data


class _Limited(io.RawIOBase):
    """Stops a tree that is too large as soon as that is known."""

    def __init__(self, file: IO[bytes], refuse: Callable[[], TreeTooLarge]) -> None:
        super().__init__()
        self._file = file
        self._refuse = refuse
        self._size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self._size += len(data)
        if sealed_size(self._size) > MAX_BYTES:
            raise self._refuse()
        self._file.write(data)
        return len(data)


def _too_large(members: list[tuple[str, Path]]) -> TreeTooLarge:
    """With the ten largest; what belongs to git counts as one."""
    sizes: dict[str, int] = {}
    for name, path in members:
        shown = ".git" if name.startswith(".git/") or name == PACK_PATH else name
        sizes[shown] = sizes.get(shown, 0) + os.lstat(path).st_size
    largest = sorted(sizes.items(), key=lambda entry: -entry[1])[:_LARGEST]
    lines = "".join(f"\n  {megabytes(size):>10}  {name}" for name, size in largest)
    return TreeTooLarge(
        f"the working tree has more than {MAX_BYTES >> 20} MB compressed. Leave files out with .kiciignore or"
        f" .gitignore; the largest:{lines}"
    )


def pieces(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            yield piece
