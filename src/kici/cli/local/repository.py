"""What git says about the author's working tree. Every call is one short git process."""

import os
import subprocess
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from kici.spec.errors import InvalidInput

_TIMEOUT_S = 120
_IGNORE_FILE = ".kiciignore"
WHY_GIT = "every command reads the repository with it"


class NoRepository(InvalidInput):
    """The command needs git here, and says what to do without."""


class NoGit(InvalidInput):
    """There is no git on this machine."""


class GitFailed(InvalidInput):
    """A git command that had to work did not; its own words are in the message."""


class Repository:
    """The work tree at `root`. `head` is the commit that is checked out."""

    def __init__(self, root: Path) -> None:
        """Raises NoRepository when there is no work tree, or no commit yet; NoGit."""
        self.root = root
        self._hermetic = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
        if self.ask("rev-parse", "--is-inside-work-tree") != "true":
            raise NoRepository(f"{root} is no git work tree: run `git init` and commit, or pass --in-place")
        head = self.ask("rev-parse", "--verify", "--quiet", "HEAD^{commit}")
        if not head:
            raise NoRepository(f"{root} has no commit yet: commit, or pass --in-place")
        self.head = head

    def ask(self, *arguments: str) -> str:
        """One answer; empty when git has none."""
        done = self._git(arguments)
        return done.stdout.decode("utf-8", "surrogateescape").strip() if done.returncode == 0 else ""

    def names(self, *arguments: str) -> list[str]:
        """NUL-separated paths. Raises GitFailed."""
        done = self._git(arguments)
        if done.returncode:
            raise GitFailed(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
        return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name]

    def run(self, *arguments: str, cwd: Path | None = None) -> None:
        """Raises GitFailed."""
        done = self._git(arguments, cwd=cwd)
        if done.returncode:
            raise GitFailed(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")

    def produce(self, place: Path, *arguments: str, given: str) -> None:
        """What a command that reads `given` prints goes to the file `place`. Raises GitFailed."""
        with open(place, "wb") as output:
            done = subprocess.run(
                ["git", *arguments],
                cwd=self.root,
                input=given.encode(),
                stdout=output,
                stderr=subprocess.PIPE,
                check=False,
                timeout=_TIMEOUT_S,
                env=self._hermetic,
            )
        if done.returncode:
            raise GitFailed(f"git {arguments[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")

    def _git(
        self, arguments: Sequence[str], *, cwd: Path | None = None
    ) -> "subprocess.CompletedProcess[bytes]":
        try:
            return subprocess.run(
                ["git", *arguments],
                cwd=cwd or self.root,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
                timeout=_TIMEOUT_S,
                env=self._hermetic,
            )
        except FileNotFoundError:
            raise NoGit(f"git is not installed; install it: {WHY_GIT}") from None

    @cached_property
    def branch(self) -> str | None:
        """None when HEAD is detached."""
        return self.ask("symbolic-ref", "--short", "--quiet", "HEAD") or None

    @cached_property
    def default_branch(self) -> str:
        """What the remote says, else a usual name that exists, else what is checked out."""
        remote = self.ask("symbolic-ref", "--short", "--quiet", "refs/remotes/origin/HEAD")
        if remote:
            return remote.removeprefix("origin/")
        for name in ("main", "master"):
            if self.ask("rev-parse", "--verify", "--quiet", f"refs/heads/{name}"):
                return name
        return self.branch or "main"

    @cached_property
    def origin(self) -> str:
        """The URL of the remote `origin`, empty without one."""
        return self.ask("remote", "get-url", "origin")

    @cached_property
    def name(self) -> str:
        """`owner/name` of the remote `origin`, else the folder's name."""
        url = self.origin
        # The path alone: what stands before it may hold a password.
        path = urlsplit(url).path if "://" in url else url.rpartition(":")[2]
        words = [word for word in path.removesuffix(".git").split("/") if word]
        return "/".join(words[-2:]) if url and len(words) >= 2 else self.root.name

    @cached_property
    def author(self) -> str:
        return self.ask("config", "user.name")

    def subject(self, commit: str) -> str:
        return self.ask("log", "-1", "--format=%s", commit)

    def newest_tag(self, commit: str) -> str:
        """The nearest tag at or before the commit, empty without one."""
        return self.ask("describe", "--tags", "--abbrev=0", commit)

    def parent(self, commit: str) -> str | None:
        return self.ask("rev-parse", "--verify", "--quiet", f"{commit}^") or None

    def described(self, commit: str) -> dict[str, Any]:
        """The commit as forges tell of it."""
        author, email, message = self.ask("log", "-1", "--format=%an%x00%ae%x00%B", commit).split("\0", 2)
        return {"id": commit, "message": message.strip(), "author": {"name": author, "email": email}}

    def commit(self, revision: str) -> str:
        """The commit's hash. Raises InvalidInput."""
        if revision == "HEAD":
            return self.head
        found = self.ask("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        if not found:
            raise InvalidInput(f"{revision!r} names no commit of {self.root}")
        return found

    def read_ahead(self) -> "Repository":
        """Ask git now for what most commands want to know. Blocking."""
        _ = self.branch, self.default_branch, self.name, self.author, self._uncommitted
        return self

    def uncommitted(self) -> list[str]:
        """Changed, staged, deleted and untracked paths; ignored ones and `.kiciignore`'s are left out."""
        return list(self._uncommitted)

    @cached_property
    def _uncommitted(self) -> list[str]:
        own = [f"--exclude-from={self.root / _IGNORE_FILE}"] if (self.root / _IGNORE_FILE).is_file() else []
        changed = self.names("diff", "--name-only", "--no-renames", "--relative", "-z", "HEAD")
        untracked = self.names("ls-files", "--others", "--exclude-standard", *own, "-z")
        unwanted = set(self.names("ls-files", "--cached", "--ignored", *own, "-z")) if own else set[str]()
        return sorted({*changed, *untracked} - unwanted)

    def nested(self) -> list[str]:
        """Untracked folders that are git repositories of their own: git takes no files from them."""
        return [
            path
            for path in self._uncommitted
            if path.endswith("/") and os.path.lexists(self.root / path / ".git")
        ]

    def changed_since(self, base: str, commit: str) -> list[str]:
        """Paths that differ between two commits."""
        return self.names("diff", "--name-only", "--no-renames", "--relative", "-z", base, commit)

    def merge_base(self, revision: str) -> str | None:
        """Where HEAD left another line of history; None when it never met it."""
        return self.ask("merge-base", "HEAD", revision) or None
