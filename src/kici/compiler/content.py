"""The hash that ties a lock file to the tree it was made from (AU-99…101). Standard library only.

`content_hash` is SHA-256 over these bytes, in this order:

1.  `str(compile_schema_version)` and a line feed;
2.  for every source file of `.kici`, then for every resolved hash file, each group sorted by the UTF-8
    bytes of its path: the path relative to the repository root with `/` separators, NUL, the number
    of content bytes in decimal, NUL, the content;
3.  between the two groups of 2. one line feed.

Content is the file's bytes with CR LF replaced by LF. Of a symbolic link it is `symlink:` and the
target's text; links are not followed.

Source files are all files below `.kici` but: the lock file, `AGENTS.md`, `tests/`, `types/`, caches and
virtual environments, local secrets, and what git ignores. With a git work tree, git names the files
(tracked, or untracked and not ignored); without one every file counts. In a clean checkout both give
the same list, so author and agent agree.
"""

import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

KICI_DIR = ".kici"
LOCK_NAME = "kici.lock.json"

_NEVER_FILES = frozenset(
    {LOCK_NAME, "AGENTS.md", ".secrets", ".env.local", "secrets.toml"}
)  # directly in .kici
_NEVER_FOLDERS = frozenset({"tests", "types"})  # directly in .kici
CACHES = frozenset(
    {
        "__pycache__",
        ".git",
        ".venv",
        ".mypy_cache",
        ".pytest_cache",
        ".ruff_cache",
        ".hypothesis",
        "node_modules",
    }
)
_VENV_MARK = "pyvenv.cfg"
_GIT_TIMEOUT_S = 30


class SourceEntry(Protocol):
    """A row of `sources` in the lock file."""

    @property
    def path(self) -> str: ...
    @property
    def sha256(self) -> str: ...


def content_hash(root: Path, resolved_hash_files: Sequence[str], compile_schema_version: int) -> str:
    """The workflow's content hash, 64 hex digits, from the tree at `root`.

    `resolved_hash_files` are paths relative to `root`. A missing one is left out, which
    gives another hash than the author had.
    """
    return hash_contents(
        compile_schema_version,
        read_contents(root, source_paths(root)),
        read_contents(root, resolved_hash_files),
    )


def hash_contents(
    compile_schema_version: int,
    sources: Iterable[tuple[str, bytes]],
    hash_files: Iterable[tuple[str, bytes]],
) -> str:
    """The algorithm of the module docstring on (path, normalised content) pairs, sorted by path here."""
    total = hashlib.sha256(f"{compile_schema_version}\n".encode())
    for number, group in enumerate((sources, hash_files)):
        if number:
            total.update(b"\n")
        for path, content in sorted((os.fsencode(path), content) for path, content in group):
            total.update(b"%s\0%d\0" % (path, len(content)))
            total.update(content)
    return total.hexdigest()


def read_contents(root: Path, paths: Iterable[str]) -> list[tuple[str, bytes]]:
    """Normalised content by path; files that are not there are left out."""
    found: list[tuple[str, bytes]] = []
    for path in paths:
        content = _read(os.path.join(root, path))
        if content is not None:
            found.append((path, content))
    return found


def source_paths(root: Path) -> list[str]:
    """Every source file of `.kici`, relative to `root`, sorted by UTF-8 bytes."""
    paths: set[str] = set()
    for path in _listed_by_git(root):
        full = os.path.join(root, path)
        if os.path.isdir(full) and not os.path.islink(full):
            paths.update(_walk(root, path.rstrip("/")))  # a submodule
        elif os.path.lexists(full):
            paths.add(path)
    if not paths:  # no git, no work tree, or a surrounding one that ignores all of this
        paths.update(_walk(root, KICI_DIR))
    environments = tuple(path.removesuffix(_VENV_MARK) for path in paths if path.endswith("/" + _VENV_MARK))
    return sorted(
        (path for path in paths if _is_source(path) and not path.startswith(environments)), key=os.fsencode
    )


def resolve_hash_files(root: Path, patterns: Iterable[str]) -> dict[str, list[str]]:
    """The files that each pattern of `hash_files` names, sorted; `!` only marks the pattern. Globs as
    `pathlib` has them; what is none matches nothing. Paths never leave `root`; folders and `.git` are left
    out."""
    return {
        pattern: sorted(_glob(root, pattern.removeprefix("!")), key=os.fsencode) for pattern in patterns
    }


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def first_difference(root: Path, sources: Sequence[SourceEntry]) -> str | None:
    """The first path, in order, whose file differs from the lock's `sources`; None when all agree.

    Comes as one sentence part for the log: `.kici/helpers.py`, with ` (not committed?)` when the tree lacks it
    and ` (not in the lock file)` when only the tree has it.
    """
    recorded = {entry.path: entry.sha256 for entry in sources}
    present = dict(read_contents(root, {*source_paths(root), *recorded}))
    for path in sorted({*recorded, *present}, key=os.fsencode):
        if path not in present:
            return f"{path} (not committed?)"
        if path not in recorded:
            return f"{path} (not in the lock file)"
        if sha256_of(present[path]) != recorded[path]:
            return path
    return None


def lockfile_hash(root: Path) -> str | None:
    """SHA-256 of `uv` or `pip`, a line feed and the dependency lock (AU-100); None without dependencies.

    `.kici/uv.lock`, else the root's `uv.lock` when its workspace lists `.kici`, else a
    `.kici/requirements.txt` that pins hashes.
    """
    own = _read(os.path.join(root, KICI_DIR, "uv.lock"))
    if own is None and _is_workspace_member(root):
        own = _read(os.path.join(root, "uv.lock"))
    if own is not None:
        return sha256_of(b"uv\n" + own)
    pinned = _read(os.path.join(root, KICI_DIR, "requirements.txt"))
    return None if pinned is None else sha256_of(b"pip\n" + pinned)


def _read(path: str) -> bytes | None:
    try:
        if os.path.islink(path):
            return b"symlink:" + os.readlink(path).encode()
        with open(path, "rb") as file:
            return file.read().replace(b"\r\n", b"\n")
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _glob(root: Path, pattern: str) -> set[str]:
    if not pattern or pattern.startswith("/") or ".." in pattern.split("/"):
        return set()
    try:
        found = [path for path in root.glob(pattern) if path.is_file()]
    except ValueError:  # "a**": two stars are a whole segment
        return set()
    names = (path.relative_to(root) for path in found)
    return {name.as_posix() for name in names if ".git" not in name.parts}


def _is_source(path: str) -> bool:
    parts = path.split("/")[1:]
    if len(parts) == 1 and parts[0] in _NEVER_FILES:
        return False
    if len(parts) > 1 and parts[0] in _NEVER_FOLDERS:
        return False
    return CACHES.isdisjoint(parts[:-1]) and not path.endswith((".pyc", ".pyo"))


def _walk(root: Path, below: str) -> Iterator[str]:
    for folder, folders, files in os.walk(os.path.join(root, below)):
        if _VENV_MARK in files:
            folders.clear()
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        folders[:] = [name for name in folders if name not in links and name not in CACHES]
        for name in (*files, *links):
            yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")


def _listed_by_git(root: Path) -> list[str]:
    """What git tracks or would add below `.kici`; nothing where git or its work tree is missing."""
    command = ["git", "-C", str(root), "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    hermetic = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            [*command, "--deduplicate", "--", KICI_DIR],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_TIMEOUT_S,
            check=False,
            env=hermetic,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    if done.returncode:
        return []
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _is_workspace_member(root: Path) -> bool:
    project = _read(os.path.join(root, "pyproject.toml"))
    if project is None:
        return False
    import tomllib

    try:
        members = tomllib.loads(project.decode())["tool"]["uv"]["workspace"]["members"]
    except (KeyError, TypeError, UnicodeDecodeError, tomllib.TOMLDecodeError):
        return False
    return any(fnmatch(KICI_DIR, str(member).removeprefix("./").rstrip("/")) for member in members)
