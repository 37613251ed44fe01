"""Which files of the working tree travel, and a `.git` that tells nothing it should not (AU-124).

The repository is not copied but fetched into a fresh one: branches, tags and remote-tracking branches with their
commits, and nothing else. Hooks, reflogs, stashes, objects that were only ever staged and every setting but the
addresses of remotes stay at home; addresses lose their credentials.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from kici.cli.local.repository import Repository
from kici.protocol.overlay import FOLDER
from kici.spec.errors import InvalidInput

IGNORE_FILE = ".kiciignore"
# Read on this machine and sent sealed, or made anew by the agent; whatever .gitignore says.
_NEVER = (".kici/.secrets", ".kici/.env.local", ".kici/secrets.toml")
_NEVER_BELOW = (".kici/.venv/", f"{FOLDER}/")
_REFS = ("refs/heads", "refs/tags", "refs/remotes")


class Tree(Struct, frozen=True, kw_only=True):
    """Paths have `/`, are relative to `root` and sorted. `left_out` names what cannot travel, and why.

    `files` that travel, and what became of those of HEAD; of a difference: of those of its base."""

    root: Path
    sha: str
    files: list[str]
    changed: int  # other than new or deleted
    new: int
    deletions: list[str]
    deleted: int  # without those that are only kept at home
    left_out: list[str]


def survey(repository: Repository) -> Tree:
    """What git knows of the working tree now. Raises InvalidInput."""
    root = repository.root
    if repository.ask("rev-parse", "--show-prefix"):
        top = repository.ask("rev-parse", "--show-toplevel")
        raise InvalidInput(
            f".kici is not at the top of its git work tree ({top}): remote runs need it there"
        )
    own = [f"--exclude-from={root / IGNORE_FILE}"] if (root / IGNORE_FILE).is_file() else []
    tracked = repository.names("ls-files", "--cached", "-z")
    untracked = repository.names("ls-files", "--others", "--exclude-standard", *own, "-z")
    unwanted = set(repository.names("ls-files", "--cached", "--ignored", *own, "-z")) if own else set[str]()
    deletions = repository.names("diff", "--name-only", "--no-renames", "--diff-filter=D", "-z", "HEAD")
    changed = repository.names("diff", "--name-only", "--no-renames", "--diff-filter=MT", "-z", "HEAD")
    added = repository.names("diff", "--name-only", "--no-renames", "--diff-filter=A", "-z", "HEAD")
    files: list[str] = []
    left_out: list[str] = []
    for path in _expanded(repository, sorted({*tracked, *untracked} - unwanted)):
        why = _unfit(root, path)
        if why is None:
            files.append(path)
        elif why:
            left_out.append(f"{path!r} {why}")
    sent = set(files)
    gone = sorted(path for path in deletions if path not in unwanted and is_text(path))
    return Tree(
        root=root,
        sha=repository.head,
        files=files,
        changed=len(sent & set(changed)),
        new=len(sent & {*added, *untracked}),
        deletions=gone,
        deleted=len(gone),
        left_out=left_out,
    )


def _expanded(repository: Repository, paths: Sequence[str]) -> Iterator[str]:
    """Submodules and repositories inside this one as the files in them, without their `.git`."""
    for path in paths:
        full = repository.root / path
        if not full.is_symlink() and full.is_dir():
            try:
                inner = repository.names("-C", str(full), *_LISTED)
            except InvalidInput:
                continue  # a submodule that is not checked out
            prefix = path.rstrip("/")
            if os.path.lexists(full / ".git"):
                yield from (f"{prefix}/{name}" for name in inner if not (full / name).is_dir())
        else:
            yield path


_LISTED = ("ls-files", "--cached", "--others", "--exclude-standard", "-z")


def _unfit(root: Path, path: str) -> str | None:
    """None: it travels. Empty: it does not, and nobody needs to hear of it."""
    if path in _NEVER or path.startswith(_NEVER_BELOW):
        return ""
    if not is_text(path):
        return "is left out: its name is not UTF-8"
    try:
        kind = os.lstat(root / path).st_mode
    except FileNotFoundError:
        return ""  # deleted
    if stat.S_ISLNK(kind):
        target = os.readlink(root / path)
        if not is_text(target) or leads_out(path, target):
            return f"is left out: the link leads out of the work tree, to {target!r}"
        return None
    return None if stat.S_ISREG(kind) else "is left out: it is no file"


def is_text(path: str) -> bool:
    """Whether a manifest can name it."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def leads_out(path: str, target: str) -> bool:
    """Whether a link at `path` points above the root, on any part of its way."""
    if target.startswith("/"):
        return True
    depth = path.count("/")
    for part in target.split("/"):
        if part == "..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in ("", "."):
            depth += 1
    return False


def tracked_refs(repository: Repository) -> dict[str, str]:
    """Those that travel, with their objects."""
    lines = repository.ask("for-each-ref", "--format=%(objectname) %(refname)", *_REFS).splitlines()
    found = (line.partition(" ") for line in lines)
    return {ref: object_id for object_id, _, ref in found if is_text(ref)}


def make_git(repository: Repository, place: Path) -> Path:
    """A `.git` below `place` with the author's commits and refs, HEAD and an index of HEAD. Raises GitFailed."""
    kind = repository.ask("rev-parse", "--show-object-format") or "sha1"
    place.mkdir(parents=True)
    repository.run(
        "init", "--quiet", "--template=", f"--object-format={kind}", "--initial-branch=kici-overlay", str(place)
    )  # fmt: skip

    def there(*arguments: str) -> None:
        repository.run(*_QUIETLY, *arguments, cwd=place)

    there(
        "fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--update-head-ok", "--update-shallow",
        "--no-recurse-submodules", str(repository.root),
        *(f"+{ref}/*:{ref}/*" for ref in _REFS), "+HEAD:refs/kici/head",
    )  # fmt: skip
    if repository.branch is not None:
        there("symbolic-ref", "HEAD", f"refs/heads/{repository.branch}")
    else:
        there("update-ref", "--no-deref", "HEAD", repository.head)
    there("update-ref", "-d", "refs/kici/head")
    there("read-tree", "HEAD")
    for name in repository.ask("remote").split():
        url = repository.ask("remote", "get-url", name)
        if url:
            there("config", f"remote.{name}.url", without_credentials(url))
            there("config", f"remote.{name}.fetch", f"+refs/heads/*:refs/remotes/{name}/*")
    return place / ".git"


# One pack; no reflog, which would tell who packed this and where.
_QUIETLY = (
    *("-c", "fetch.unpackLimit=1"),
    *("-c", "protocol.file.allow=always"),
    *("-c", "gc.auto=0"),
    *("-c", "core.logAllRefUpdates=false"),
)


def without_credentials(url: str) -> str:
    """A remote's address for others' eyes: no password, no token. `git@host:path` and paths stay."""
    if "://" not in url:
        return url
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    user = parts.netloc.rpartition("@")[0].partition(":")[0]
    keep_user = bool(user) and parts.scheme == "ssh"
    return urlunsplit((parts.scheme, f"{user}@{host}" if keep_user else host, parts.path, "", ""))
