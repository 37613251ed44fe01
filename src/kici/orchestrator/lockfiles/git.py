"""Objects of a git repository on this machine, read by one long-lived `git cat-file --batch` per path.

A process start costs milliseconds and a question on its pipe microseconds, which is what the way from
webhook to queue is made of. Processes end with us: they read end of file.
"""

import asyncio
import contextlib
import os
import re
from collections import OrderedDict
from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct

from kici.runtime.logging import get_logger
from kici.spec.durations import in_words
from kici.spec.errors import KiciError

log = get_logger(__name__)

ANSWER_TIMEOUT_S = 10
MAX_PROCESSES = 32
MAX_OBJECT_BYTES = 32 << 20

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_REF = re.compile(r"[^\x00-\x20~^:?*\[\\\x7f]+")
# The path comes from an administrator; whoever owns the files must not matter.
_GIT = ("git", "-c", "safe.directory=*", "-c", "core.fsmonitor=false")


class RepositoryUnreadable(KiciError):
    """The path holds no git repository that we can read. Trying again will not help."""

    code: ClassVar[str] = "repository_unreadable"
    status: ClassVar[int] = 422


class GitFailed(KiciError):
    """git did not answer in time or broke off. Worth another try."""

    code: ClassVar[str] = "git_failed"
    status: ClassVar[int] = 503


class GitObject(Struct, frozen=True, kw_only=True):
    sha: str
    kind: str  # commit | tree | blob | tag
    data: bytes


def is_sha(text: str) -> bool:
    return _SHA.fullmatch(text) is not None


class _Reader:
    """One `git cat-file --batch`. Questions are answered in order; one asker at a time."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.lock = asyncio.Lock()

    @property
    def alive(self) -> bool:
        return self._process.returncode is None

    async def ask(self, names: Sequence[str]) -> list[GitObject | None]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write("".join(f"{name}\n" for name in names).encode())
        await stdin.drain()
        answers: list[GitObject | None] = []
        for _ in names:
            words = (await stdout.readline()).split()
            if not words:
                raise GitFailed("git cat-file ended before it answered")
            if len(words) != 3:  # "<name> missing", "<name> ambiguous"
                answers.append(None)
                continue
            size = int(words[2])
            if size > MAX_OBJECT_BYTES:
                raise GitFailed(f"{words[0].decode()} is {size} bytes large; {MAX_OBJECT_BYTES} are read")
            data = await stdout.readexactly(size + 1)
            answers.append(GitObject(sha=words[0].decode(), kind=words[1].decode(), data=data[:-1]))
        return answers

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def close(self) -> None:
        self.kill()
        stdin = self._process.stdin
        assert stdin is not None
        stdin.close()
        await self._process.wait()


class Repositories:
    """Every repository that sources point at, by path; at most MAX_PROCESSES readers are kept."""

    def __init__(self) -> None:
        self._readers: OrderedDict[str, _Reader] = OrderedDict()
        self._opening: dict[str, asyncio.Lock] = {}

    async def objects(self, path: str, names: Sequence[str]) -> list[GitObject | None]:
        """The objects that git finds under `names` (`<sha>`, `<sha>^{commit}`, `<sha>:a/path`); None where
        there is none. Raises RepositoryUnreadable or GitFailed."""
        if any("\n" in name for name in names):
            raise ValueError("a name with a line break")
        reader = await self._reader(path)
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S), reader.lock:
                try:
                    return await reader.ask(names)
                except BaseException:
                    # An answer left unread puts the pipe out of step: never use it again.
                    await self._drop(path, reader)
                    raise
        except TimeoutError as error:
            raise GitFailed(f"git did not answer within {ANSWER_TIMEOUT_S} s in {path}") from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise GitFailed(f"git cat-file broke off in {path}") from error

    async def fresh(self, path: str) -> None:
        """Forget the reader of `path`: the repository may have been replaced by another one."""
        reader = self._readers.get(path)
        if reader is not None:
            await self._drop(path, reader)

    async def _reader(self, path: str) -> _Reader:
        known = self._readers.get(path)
        if known is not None and known.alive:
            self._readers.move_to_end(path)
            return known
        async with self._opening.setdefault(path, asyncio.Lock()):
            known = self._readers.get(path)
            if known is not None and known.alive:
                return known
            await git_dir(path)  # a clear error instead of a process that ends at once
            process = await asyncio.create_subprocess_exec(
                *_GIT,
                "-C",
                path,
                "cat-file",
                "--batch",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=1 << 20,
            )
            reader = _Reader(process)
            self._readers[path] = reader
        self._opening.pop(path, None)
        while len(self._readers) > MAX_PROCESSES:
            oldest, idle = next(iter(self._readers.items()))
            if idle.lock.locked():
                break
            await self._drop(oldest, idle)
        return reader

    async def _drop(self, path: str, reader: _Reader) -> None:
        if self._readers.get(path) is reader:
            del self._readers[path]
        reader.kill()
        await asyncio.shield(reader.close())

    async def close(self) -> None:
        while self._readers:
            _, reader = self._readers.popitem()
            await reader.close()


async def run_git(path: str, *arguments: str, timeout_s: float = ANSWER_TIMEOUT_S) -> bytes:
    """Output of a git command in `path`. Raises RepositoryUnreadable when git refuses, GitFailed when it
    takes too long."""
    try:
        process = await asyncio.create_subprocess_exec(
            *_GIT,
            "-C",
            path,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise RepositoryUnreadable("git is not installed") from error
    try:
        async with asyncio.timeout(timeout_s):
            output, complaint = await process.communicate()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await asyncio.shield(process.wait())
        if isinstance(error, TimeoutError):
            raise GitFailed(
                f"git {arguments[0]} took longer than {in_words(timeout_s * 1000)} in {path}"
            ) from error
        raise
    if process.returncode != 0:
        lines = complaint.decode(errors="replace").strip().splitlines()
        raise RepositoryUnreadable(f"git {arguments[0]} in {path}: {lines[-1] if lines else 'failed'}")
    return output


def _plain_git_dir(path: str) -> str | None:
    """Where the repository's own files are; None when `.git` is a file that points elsewhere. A few stat
    calls on a local disk: not worth a thread."""
    if not os.path.isdir(path):
        raise RepositoryUnreadable(f"there is no directory {path}")
    if os.path.isfile(os.path.join(path, "HEAD")) and os.path.isdir(os.path.join(path, "objects")):
        return path
    dot_git = os.path.join(path, ".git")
    if os.path.isfile(os.path.join(dot_git, "HEAD")):
        return dot_git
    if os.path.isfile(dot_git):
        return None
    raise RepositoryUnreadable(f"{path} is not a git repository")


async def git_dir(path: str) -> str:
    """The folder with the repository's own files: `path` when bare, else its `.git`, or what that points
    to. Raises RepositoryUnreadable."""
    plain = _plain_git_dir(path)
    if plain is not None:
        return plain
    return os.fsdecode((await run_git(path, "rev-parse", "--absolute-git-dir")).rstrip(b"\n"))


def _symbolic(path: str, prefix: str) -> str | None:
    """Where a symbolic ref points, without `prefix`; None when it is absent or points elsewhere."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            target = file.read(4096).strip().removeprefix("ref: ")
    except OSError:
        return None
    return target.removeprefix(prefix) if target.startswith(prefix) else None


def _has_branch(folder: str, name: str) -> bool:
    if os.path.isfile(os.path.join(folder, "refs", "heads", name)):
        return True
    try:
        with open(os.path.join(folder, "packed-refs"), encoding="utf-8", errors="replace") as file:
            return any(line.rstrip().endswith(f" refs/heads/{name}") for line in file)
    except OSError:
        return False


def _main_branch(folder: str, head: str | None) -> str | None:
    origin = _symbolic(os.path.join(folder, "refs", "remotes", "origin", "HEAD"), "refs/remotes/origin/")
    candidates = [name for name in (origin, "main", "master") if name is not None]
    if head in candidates[:1]:
        return head
    return next((name for name in candidates if _has_branch(folder, name)), head)


async def head_branch(path: str) -> str | None:
    """The branch that HEAD names, whether it exists yet or not; None when HEAD is detached. Raises
    RepositoryUnreadable."""
    return _symbolic(os.path.join(await git_dir(path), "HEAD"), "refs/heads/")


async def default_branch(path: str) -> str | None:
    """A bare repository says it with HEAD. In a working one HEAD is what somebody has checked out: there it
    is origin's, else `main` or `master`, else HEAD after all. Raises RepositoryUnreadable."""
    folder = await git_dir(path)
    head = _symbolic(os.path.join(folder, "HEAD"), "refs/heads/")
    return head if folder == path else _main_branch(folder, head)


async def branch_head(path: str, branch: str) -> str | None:
    """The commit id of a branch, None when there is none of that name. Raises GitFailed."""
    if not is_ref(branch):
        return None
    try:
        output = await run_git(path, "rev-parse", "--verify", "--quiet", f"refs/heads/{branch}^{{commit}}")
    except RepositoryUnreadable:
        return None
    return output.decode().strip() or None


async def changed_files(
    path: str, before: str, after: str, *, since_fork: bool = False
) -> list[str] | None:
    """Paths that differ between two commits, both names of a rename; None when that cannot be known
    (OR-52). `since_fork` compares with their common ancestor, as pull requests do."""
    if not is_sha(before) or not is_sha(after) or before.strip("0") == "":
        return None
    between = f"{before}...{after}" if since_fork else f"{before}..{after}"
    try:
        output = await run_git(path, "diff", "--name-only", "--no-renames", "-z", between, "--")
    except RepositoryUnreadable:  # the old commit is gone: a forced push
        return None
    return [name.decode(errors="replace") for name in output.split(b"\0") if name]


def is_ref(name: str) -> bool:
    """Whether git would take it as the name of a ref; what we pass on must not be an option."""
    return not name.startswith("-") and ".." not in name and _REF.fullmatch(name) is not None
