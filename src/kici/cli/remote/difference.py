"""What of a working tree a commit does not have: files, and what git knows beyond it (AU-124).

A file stays at home only when its bytes are those that were committed. Git's own opinion is not asked: it
takes a file that a filter or a line-ending rule has changed for unchanged, and steps would see another one.
"""

import hashlib
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct, structs

from kici.cli.local.repository import Repository
from kici.cli.remote.tree import Tree, is_text, tracked_refs, without_credentials
from kici.protocol.overlay import GitState

_PIECE = 1 << 20
_PACK_HEAD = struct.Struct(">4sII")


class Base(Struct, frozen=True, kw_only=True):
    """`commit` of HEAD's history is in `source`, and so are `known`, which need not travel either."""

    commit: str
    source: str
    known: list[str]

    @property
    def shown(self) -> str:
        return f"{self.commit[:7]} of {self.source}"


class Difference(Struct, frozen=True, kw_only=True):
    """`tree` has only the files that travel, and everything of the base that is gone. `objects` is a thin pack;
    None: git has nothing that the base's repository lacks."""

    base: Base
    tree: Tree
    git: GitState
    objects: Path | None


class _Entry(Struct, frozen=True):
    mode: str
    object_id: str


def difference(repository: Repository, tree: Tree, base: Base, place: Path) -> Difference | None:
    """`place` takes the pack. None when the base has paths that a manifest cannot name. Blocking. Raises
    GitFailed."""
    entries = _entries(repository, base.commit)
    if not all(map(is_text, entries)):
        return None
    files = [path for path in tree.files if not _same(tree.root / path, entries.get(path))]
    deletions = sorted(entries.keys() - set(tree.files))
    smaller = structs.replace(
        tree,
        files=files,
        changed=sum(path in entries for path in files),
        new=sum(path not in entries for path in files),
        deletions=deletions,
        deleted=sum(not os.path.lexists(tree.root / path) for path in deletions),
    )
    refs = tracked_refs(repository)
    return Difference(
        base=base,
        tree=smaller,
        git=GitState(branch=repository.branch, refs=refs, remotes=_remotes(repository)),
        objects=_pack_objects(repository, [tree.sha, *refs.values()], [base.commit, *base.known], place),
    )


def _entries(repository: Repository, commit: str) -> dict[str, _Entry]:
    """Path → what the commit has there."""
    entries: dict[str, _Entry] = {}
    for line in repository.names("ls-tree", "-r", "-z", "--full-tree", commit):
        about, _, path = line.partition("\t")
        mode, _kind, object_id = about.split()
        entries[path] = _Entry(mode, object_id)
    return entries


def _same(path: Path, entry: _Entry | None) -> bool:
    """Whether a checkout of the entry, byte for byte, gives this file. Submodules never do: they travel as
    files."""
    if entry is None:
        return False
    found = os.lstat(path)
    if entry.mode == "120000":
        return stat.S_ISLNK(found.st_mode) and _link_id(path, entry) == entry.object_id
    executable = bool(int(entry.mode, 8) & 0o100)
    return (
        entry.mode.startswith("100")
        and stat.S_ISREG(found.st_mode)
        and bool(found.st_mode & 0o100) == executable
        and _blob_id(path, found.st_size, entry) == entry.object_id
    )


def _hash_of(entry: _Entry) -> Callable[[bytes], "hashlib._Hash"]:
    return hashlib.sha256 if len(entry.object_id) == 64 else _sha1


def _sha1(data: bytes) -> "hashlib._Hash":
    return hashlib.sha1(data, usedforsecurity=False)


def _link_id(path: Path, entry: _Entry) -> str:
    target = os.fsencode(os.readlink(path))
    return _hash_of(entry)(b"blob %d\0%s" % (len(target), target)).hexdigest()


def _blob_id(path: Path, size: int, entry: _Entry) -> str:
    digest = _hash_of(entry)(b"blob %d\0" % size)
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _remotes(repository: Repository) -> dict[str, str]:
    urls = {name: repository.ask("remote", "get-url", name) for name in repository.ask("remote").split()}
    return {name: without_credentials(url) for name, url in urls.items() if url and is_text(name + url)}


def _pack_objects(repository: Repository, wanted: list[str], there: list[str], place: Path) -> Path | None:
    revisions = [*dict.fromkeys(wanted), *(f"^{commit}" for commit in dict.fromkeys(there))]
    repository.produce(
        place, "pack-objects", "--quiet", "--revs", "--thin", "--delta-base-offset", "--stdout",
        given="\n".join(revisions) + "\n",
    )  # fmt: skip
    with open(place, "rb") as file:
        _, _, count = _PACK_HEAD.unpack(file.read(_PACK_HEAD.size))
    return place if count else None
