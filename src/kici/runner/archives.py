"""Files of a cache in one tar.gz: the same files make the same bytes, and unpacking stays in its place.

Members are called `workspace/<path>` or `home/<path>`. Owners and times are not kept; links that lead out of
their root are left out on the way in and refused on the way out (AG-75).
"""

import gzip
import os
import re
import shutil
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from itertools import takewhile
from typing import IO, cast

from msgspec import Struct

from kici.spec.errors import KiciError
from kici.spec.globs import glob_to_regex, is_glob

_MTIME = 315_619_200  # 1980-01-02: the oldest that zip files, and so wheels, can have
_COMPRESSION = 1
_COPY_BYTES = 1 << 20
_MOST_MEMBERS = 5_000_000


class BadPathError(KiciError):
    """A path of a cache that is absolute, escapes its root, or names nobody's home."""

    code = "cache_path"


class BadArchiveError(KiciError):
    """An archive holds what no cache of ours can hold; nothing more of it is unpacked."""

    code = "cache_archive"


class Place(Struct, frozen=True, kw_only=True):
    """A declared path: `root` is `workspace` or `home`, `path` is relative to it and may be empty or a glob."""

    root: str
    path: str

    @property
    def name(self) -> str:
        return f"{self.root}/{self.path}" if self.path else self.root

    def found(self, root: str) -> Iterator[str]:
        """What it stands for below the folder `root`, in order of names. Links are not followed."""
        top = os.path.join(root, self.path)
        if not is_glob(self.path) or os.path.lexists(top):
            yield top
            return
        fixed = list(takewhile(lambda part: not is_glob(part), self.path.split(os.sep)))
        wanted = _regex(self.path)
        for path in _walk(os.path.join(root, *fixed)):
            if wanted.fullmatch(os.path.relpath(path, root)):
                yield path

    def holds(self, member: str) -> bool:
        """Whether a member of that name is what it stands for, or lies below."""
        if member == self.name or member.startswith(self.name + "/"):
            return True
        root, *parts = member.split("/")
        if root != self.root or not is_glob(self.path):
            return False
        wanted = _regex(self.path)
        return any(wanted.fullmatch("/".join(parts[:count])) for count in range(1, len(parts) + 1))


@cache
def _regex(glob: str) -> re.Pattern[str]:
    return re.compile(glob_to_regex(glob).removesuffix(r"\z"))


def places(paths: Sequence[str]) -> list[Place]:
    """Where the declared paths lie. Raises BadPathError."""
    found: list[Place] = []
    for written in paths:
        root, path = "workspace", written
        if written == "~" or written.startswith("~/"):
            root, path = "home", written[2:]
        normal = os.path.normpath(path) if path else ""
        if written.startswith("~") and root != "home":
            raise BadPathError(f"cache path {written!r}: only `~` itself stands for a home directory")
        if os.path.isabs(normal) or normal.split(os.sep)[0] == ".." or "\0" in path:
            raise BadPathError(
                f"cache path {written!r} must be relative to the repository or begin with ~/"
            )
        found.append(Place(root=root, path="" if normal == "." else normal))
    return found


# ── packing ───────────────────────────────────────────────────────────────────────────────────────


def pack(
    target: str, declared: Sequence[Place], roots: Mapping[str, str], warn: Callable[[str], None]
) -> int:
    """Write the archive; the number of members. Declared paths that do not exist are passed over."""
    count = 0
    seen: set[str] = set()
    with (
        open(target, "wb") as raw,
        gzip.GzipFile(
            filename="", mode="wb", compresslevel=_COMPRESSION, fileobj=raw, mtime=0
        ) as compressed,
        tarfile.open(fileobj=cast("IO[bytes]", compressed), mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for place in sorted(declared, key=lambda place: place.name):
            root = os.path.realpath(roots[place.root])
            for top in place.found(root):
                if not _is_inside(os.path.realpath(os.path.dirname(top) if top != root else top), root):
                    warn(f"{place.name} leads out of its root through a link and is left out")
                    break
                for path in _walk(top):
                    name = place.root + os.sep + os.path.relpath(path, root) if path != root else place.root
                    if name not in seen:
                        seen.add(name)
                        count += _add(tar, path, name, root, warn)
    return count


def _walk(top: str) -> Iterator[str]:
    """The path and everything below it, in order of names; links are not followed."""
    try:
        is_folder = stat.S_ISDIR(os.lstat(top).st_mode)
    except OSError:
        return
    yield top
    if is_folder:
        for name in sorted(os.listdir(top)):
            yield from _walk(os.path.join(top, name))


def _add(tar: tarfile.TarFile, path: str, name: str, root: str, warn: Callable[[str], None]) -> int:
    try:
        status = os.lstat(path)
    except OSError:
        return 0  # removed meanwhile
    member = tarfile.TarInfo(name)
    member.mtime = _MTIME
    member.mode = stat.S_IMODE(status.st_mode) & 0o777
    if stat.S_ISDIR(status.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(status.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.readlink(path)
        if not _link_stays(path, member.linkname, root):
            warn(f"{name} is a link to {member.linkname}, which is elsewhere, and is left out")
            return 0
        tar.addfile(member)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            member.size = os.fstat(file.fileno()).st_size
            tar.addfile(member, file)
    else:
        return 0  # sockets and pipes are not files
    return 1


# ── unpacking ─────────────────────────────────────────────────────────────────────────────────────


def unpack(source: str, declared: Sequence[Place], roots: Mapping[str, str]) -> int:
    """Put the files back; the number of members. Raises BadArchiveError, or what reading it raises."""
    real = {name: os.path.realpath(root) for name, root in roots.items()}
    folders: list[tuple[str, int]] = []
    count = 0
    with tarfile.open(source, mode="r|gz", bufsize=_COPY_BYTES) as tar:
        for member in tar:
            count += 1
            if count > _MOST_MEMBERS:
                raise BadArchiveError("the archive has too many members")
            root_name, _, inner = member.name.partition("/")
            parts = member.name.split("/")
            if "\0" in member.name or any(part in {"", ".", ".."} for part in parts):
                raise BadArchiveError(f"member {member.name!r} is not below a declared path")
            if not any(place.holds(member.name) for place in declared):
                raise BadArchiveError(f"member {member.name!r} is not below a declared path")
            root = real[root_name]
            path = os.path.join(root, inner) if inner else root
            parent = os.path.dirname(path) if inner else root
            if not _is_inside(os.path.realpath(parent), root):
                raise BadArchiveError(f"member {member.name!r} leads out of its root")
            _put(tar, member, path, parent, root, folders)
    for path, mode in reversed(folders):
        os.chmod(path, mode)
    return count


def _put(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    path: str,
    parent: str,
    root: str,
    folders: list[tuple[str, int]],
) -> None:
    os.makedirs(parent, exist_ok=True)
    mode = member.mode & 0o777
    if member.isdir():
        if os.path.islink(path) or not os.path.isdir(path):
            _remove(path)
            os.mkdir(path)
        if path != root:
            os.chmod(path, mode | 0o700)
            folders.append((path, mode))
    elif member.issym():
        if not _link_stays(path, member.linkname, root):
            raise BadArchiveError(f"member {member.name!r} is a link out of its root")
        _remove(path)
        os.symlink(member.linkname, path)
    elif member.isreg():
        _remove(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        content = tar.extractfile(member)
        with os.fdopen(os.open(path, flags, 0o600), "wb") as file:
            if content is not None:
                shutil.copyfileobj(content, file, _COPY_BYTES)
            os.fchmod(file.fileno(), mode)
    else:
        raise BadArchiveError(f"member {member.name!r} is no file, folder or symbolic link")


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _link_stays(path: str, link: str, root: str) -> bool:
    """Whether a link at `path` leads to something below `root`."""
    return _is_inside(os.path.realpath(os.path.join(os.path.dirname(path), link)), root)


def _is_inside(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
