"""The author's own working tree instead of a checkout: fetched, opened, checked, put in place (AU-124, AU-125).

Nothing of it is trusted: each member is written below the target only, through folders that are no links,
and must have the checksum that the manifest promises. `.git` is kept aside until `install_git`, because our own
git must never read the configuration of a stranger's repository (AG-35).
"""

import base64
import binascii
import hashlib
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from typing import Self

import msgspec

from kici.agent.transfer import Transfers
from kici.agent.workspace import Workspace
from kici.protocol import overlay
from kici.protocol.agent_v1 import Overlay
from kici.protocol.overlay import (
    FOLDER,
    MANIFEST_PATH,
    PACK_PATH,
    Manifest,
    Opener,
    OverlayBroken,
    link_checksum,
)

DOWNLOAD_S = 600.0
MAX_PLAIN = 4 << 30  # all files together: a small archive may unpack to very much
MAX_MEMBERS = 500_000
_PIECE = 1 << 20

_decode_manifest = msgspec.json.Decoder(Manifest).decode


async def fetch(transfers: Transfers, asked: Overlay, workspace: Workspace) -> str:
    """The sealed overlay as a file beside the work tree. Raises TransferFailed."""
    path = os.path.join(workspace.path, "overlay.sealed")
    limit = min(asked.size_bytes, overlay.MAX_BYTES)
    await transfers.download(asked.path, path, max_bytes=limit, timeout_s=DOWNLOAD_S)
    return path


def read_manifest(sealed: str, key: str) -> Manifest:
    """Only the first member is opened. Raises OverlayBroken."""
    with _Opened(sealed, key) as opened:
        return _manifest(opened.archive)


def unpack(sealed: str, key: str, workspace: Workspace) -> Manifest:
    """Everything into the work tree, `.git` into `aside`, git's own objects into `pack_file`. Blocks; for a
    thread. Raises OverlayBroken."""
    with _Opened(sealed, key) as opened:
        archive = opened.archive
        manifest = _manifest(archive)
        tree = _Tree(workspace, manifest)
        for path in manifest.deletions:
            tree.delete(path)
        while (member := archive.next()) is not None:
            tree.add(archive, member)
            archive.members.clear()  # pyright: ignore[reportAttributeAccessIssue] - or it remembers all
        opened.drain()
        tree.finish()
    return manifest


def install_git(workspace: Workspace) -> None:
    """The author's `.git` takes its place; from now on only steps may use it."""
    kept = aside(workspace)
    if os.path.isdir(kept):
        os.rename(kept, workspace.git_folder)


def aside(workspace: Workspace) -> str:
    return os.path.join(workspace.path, "git")


def pack_file(workspace: Workspace) -> str:
    return os.path.join(workspace.path, "objects.pack")


class _Tree:
    def __init__(self, workspace: Workspace, manifest: Manifest) -> None:
        self._workspace = workspace
        self._root = workspace.repository
        self._aside = aside(workspace)
        self._manifest = manifest
        self._missing = dict(manifest.checksums)
        self._links: list[tuple[str, str]] = []  # name, where it stands
        self._bytes = 0
        self._members = 0

    def delete(self, path: str) -> None:
        parts = _parts(path)
        if parts[0] == ".git":
            raise OverlayBroken(f"the overlay deletes {path!r}")
        full = os.path.join(self._root, *parts)
        if self._is_plain(parts[:-1]) and os.path.lexists(full):
            if os.path.isdir(full) and not os.path.islink(full):
                shutil.rmtree(full)
            else:
                os.unlink(full)
            self._drop_empty(os.path.dirname(full))

    def _drop_empty(self, folder: str) -> None:
        """As git does: a folder goes with its last file."""
        while folder != self._root:
            try:
                os.rmdir(folder)
            except OSError:
                return
            folder = os.path.dirname(folder)

    def add(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> None:
        self._members += 1
        if self._members > MAX_MEMBERS:
            raise OverlayBroken(f"the overlay has more than {MAX_MEMBERS} members")
        parts = _parts(member.name)
        if member.name == PACK_PATH and member.isreg() and self._manifest.base is not None:
            self._write(archive, member, pack_file(self._workspace))
            return
        if parts[0] == FOLDER:
            raise OverlayBroken(f"the overlay has an unexpected member {member.name!r}")
        if parts[0] == ".git" and self._manifest.base is not None:
            raise OverlayBroken("an overlay over a commit brings a .git of its own")
        full = self._place(parts)
        if member.isdir():
            self._make_folder(full, parts)
        elif member.isreg():
            self._prepare(full, parts)
            self._write(archive, member, full)
        elif member.issym():
            self._prepare(full, parts)
            self._link(member, parts, full)
        else:
            raise OverlayBroken(f"{member.name!r} is neither file, folder nor symbolic link")

    def finish(self) -> None:
        if self._missing:
            raise OverlayBroken(f"the overlay lacks {min(self._missing)!r}, which its manifest has")
        for name, full in self._links:  # again, now that other links may lie on its way
            home = os.path.realpath(self._aside if name.startswith(".git/") else self._root)
            if os.path.commonpath((home, os.path.realpath(full))) != home:
                raise OverlayBroken(f"the link {name!r} leads out of the work tree")

    def _place(self, parts: list[str]) -> str:
        if parts[0] == ".git":
            return os.path.join(self._aside, *parts[1:])
        return os.path.join(self._root, *parts)

    def _prepare(self, full: str, parts: list[str]) -> None:
        """Its folders are there, none of them a link, and nothing stands in its place."""
        if parts == [".git"]:
            raise OverlayBroken("the overlay's .git is no folder")
        self._make_folder(os.path.dirname(full), parts[:-1])
        if os.path.islink(full) or os.path.isfile(full):
            os.unlink(full)
        elif os.path.isdir(full):
            shutil.rmtree(full)

    def _make_folder(self, full: str, parts: list[str]) -> None:
        for depth in range(1, len(parts) + 1):
            path = self._place(parts[:depth])
            if os.path.islink(path) or os.path.isfile(path):
                if not self._manifest.base:
                    raise OverlayBroken(f"{'/'.join(parts)!r} goes through a link or a file")
                os.unlink(path)  # it was one in the commit below
        os.makedirs(full, exist_ok=True)

    def _is_plain(self, parts: list[str]) -> bool:
        """Whether no folder on the way is a link."""
        return not any(os.path.islink(self._place(parts[:depth])) for depth in range(1, len(parts) + 1))

    def _write(self, archive: tarfile.TarFile, member: tarfile.TarInfo, full: str) -> None:
        source = archive.extractfile(member)
        assert source is not None
        digest = hashlib.sha256()
        mode = 0o755 if member.mode & 0o100 else 0o644
        with open(full, "xb") as file:
            while piece := source.read(_PIECE):
                self._bytes += len(piece)
                if self._bytes > MAX_PLAIN:
                    raise OverlayBroken(f"the overlay unpacks to more than {MAX_PLAIN} bytes")
                digest.update(piece)
                file.write(piece)
            os.fchmod(file.fileno(), mode)
        self._compare(member.name, digest.hexdigest())

    def _link(self, member: tarfile.TarInfo, parts: list[str], full: str) -> None:
        target = member.linkname
        if target.startswith("/") or "\0" in target or _climbs(target, len(parts) - 1):
            raise OverlayBroken(f"the link {member.name!r} leads out of the work tree")
        self._compare(member.name, link_checksum(target))
        os.symlink(target, full)
        self._links.append((_key(member.name), full))

    def _compare(self, name: str, digest: str) -> None:
        expected = self._missing.pop(_key(name), None)
        if expected is None:
            raise OverlayBroken(f"the manifest does not have {name!r}, or the overlay has it twice")
        if expected != digest:
            raise OverlayBroken(f"{name!r} has another checksum than the manifest says")


def _climbs(target: str, depth: int) -> bool:
    """Whether a relative target, from a folder `depth` below the root, goes above the root on its way."""
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False


def _key(name: str) -> str:
    return name.removeprefix("./").rstrip("/")


def _parts(name: str) -> list[str]:
    """Raises OverlayBroken for anything but a plain relative path."""
    parts = _key(name).split("/")
    if not all(parts) or any(part in (".", "..") for part in parts) or "\0" in name or "\\" in parts[0]:
        raise OverlayBroken(f"the overlay has an unacceptable path {name!r}")
    if parts[0] != ".git" and parts[0].lower() == ".git":
        raise OverlayBroken(f"the overlay has an unacceptable path {name!r}")
    return parts


def _manifest(archive: tarfile.TarFile) -> Manifest:
    member = archive.next()
    if member is None or member.name != MANIFEST_PATH or not member.isreg():
        raise OverlayBroken("the overlay does not begin with its manifest")
    if member.size > overlay.MAX_MANIFEST:
        raise OverlayBroken("the overlay's manifest is too large")
    source = archive.extractfile(member)
    assert source is not None
    try:
        return _decode_manifest(source.read())
    except msgspec.MsgspecError as error:
        raise OverlayBroken(f"the overlay's manifest: {error}") from error


class _Opened:
    """The tar inside, as a stream. What breaks while it is read comes out as OverlayBroken."""

    def __init__(self, sealed: str, key: str) -> None:
        try:
            raw_key = base64.b64decode(key, validate=True)
            self._opener = Opener(raw_key)
        except (binascii.Error, ValueError) as error:
            raise OverlayBroken("the overlay's key is of no use") from error
        self._sealed = sealed

    def __enter__(self) -> Self:
        self._file = open(self._sealed, "rb")
        try:
            self._plain = io.BufferedReader(_Plain(self._file, self._opener), _PIECE)
            self.archive = tarfile.open(fileobj=self._plain, mode="r|gz")
        except BaseException as error:
            self._file.close()
            raise _as_broken(error) from error
        return self

    def drain(self) -> None:
        """What follows the archive's end must be whole, too."""
        while self._plain.read(_PIECE):
            pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._file.close()
        if error is not None and (broken := _as_broken(error)) is not error:
            raise broken from error


def _as_broken(error: BaseException) -> BaseException:
    if isinstance(error, (tarfile.TarError, zlib.error, EOFError, UnicodeError)):
        return OverlayBroken(f"the overlay cannot be unpacked: {error}")
    return error


class _Plain(io.RawIOBase):
    """Sealed bytes, opened as they are read."""

    def __init__(self, source: io.BufferedReader, opener: Opener) -> None:
        super().__init__()
        self._pieces = self._read_pieces(source, opener)
        self._held = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._held = piece
        size = min(len(buffer), len(self._held))
        buffer[:size] = self._held[:size]
        self._held = self._held[size:]
        return size

    @staticmethod
    def _read_pieces(source: io.BufferedReader, opener: Opener) -> Iterator[bytes]:
        while data := source.read(_PIECE):
            yield opener.feed(data)
        opener.finish()
