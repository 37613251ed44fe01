"""One bare mirror per repository: what was fetched once is a local object the next time (AG-38).

A repository on this host is not even fetched: the mirror borrows its objects, and only a commit that is
not there any more is asked for. Every fetched commit gets a ref, so that maintenance never loses it.
"""

import asyncio
import hashlib
import os
import re
from collections.abc import Callable
from time import perf_counter

from kici.agent.git import Git, GitFailed, checked_url, credentials, object_folder, without_credentials
from kici.agent.locks import LockBusy, locked
from kici.protocol.agent_v1 import Checkout
from kici.runtime.logging import get_logger

log = get_logger(__name__)

Say = Callable[[str], None]

_SHA = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_LOCK_TIMEOUT_S = 400.0  # three git calls of another agent
_DEEPEN = 50
_PACKS_BEFORE_REPACK = 50
_MAINTAIN_AFTER_S = 10.0

# The remote will not hand out this object by name: ask for the ref instead.
_BY_REF_INSTEAD = re.compile(
    r"not our ref|unadvertised object|does not allow request|couldn't find remote ref"
    r"|dumb http|does not support shallow"
)
# The mirror itself is broken; fetching again into it would not help. Words about the remote are not here: an
# outage must not cost us the mirror.
_DAMAGED = re.compile(
    r"corrupt|inflate|bad object|bad tree|(?:sha1|hash) mismatch|loose object|garbage"
    r"|unable to read (?:tree|sha1|[0-9a-f]{40})|did not receive expected object"
    r"|did not send all necessary objects|pack has bad|packfile \S+ (?:cannot|does not|claims)"
    r"|index file \S+ (?:is|has)|is too small|non-monotonic"
)


class Mirror:
    def __init__(
        self,
        folder: str,
        url: str,
        git: Git,
        discard: Callable[[str], None],
        on_fetched: Callable[["Mirror"], None],
    ) -> None:
        self.url = checked_url(url)
        self.path = os.path.join(folder, _folder_name(url))
        self.objects = os.path.join(self.path, "objects")
        self._git = git
        self._discard = discard
        self._on_fetched = on_fetched

    def ensure(self, sha: str) -> None:
        """An empty mirror if there is none. No git process; safe when several agents do it at once."""
        if os.path.isdir(os.path.join(self.path, "refs")):
            return
        scratch = f"{self.path}.new-{os.getpid()}"
        os.makedirs(os.path.join(scratch, "objects", "info"), exist_ok=True)
        os.makedirs(os.path.join(scratch, "refs"), exist_ok=True)
        _write(os.path.join(scratch, "HEAD"), "ref: refs/heads/main\n")
        _write(os.path.join(scratch, "config"), repository_config(sha, bare=True))
        _write(os.path.join(scratch, "url"), without_credentials(self.url) + "\n")
        borrowed = object_folder(self.url)
        if borrowed is not None and "\n" not in borrowed:
            _write(os.path.join(scratch, "objects", "info", "alternates"), f"{borrowed}\n")
        if os.path.lexists(self.path):  # half a mirror
            self._discard(self.path)
        try:
            os.rename(scratch, self.path)
        except OSError:
            self._discard(scratch)
            if not os.path.isdir(os.path.join(self.path, "refs")):  # not another agent's either
                raise

    def shallow(self) -> str:
        """Commits whose parents were not fetched: a work tree on these objects must know them."""
        found: list[str] = []
        borrowed = object_folder(self.url)
        for path in (self.path, os.path.dirname(borrowed) if borrowed else None):
            if path is None:
                continue
            try:
                with open(os.path.join(path, "shallow"), encoding="ascii") as file:
                    found.append(file.read())
            except OSError:
                pass
        return "".join(found)

    async def fetch(self, checkout: Checkout, say: Say, *, suspect: bool) -> None:
        """Bring `checkout.sha` here: exactly that commit, else through its ref, deeper and deeper.

        `suspect`: the commit seemed to be here and could not be checked out. Raises GitFailed.
        """
        async with locked(f"{self.path}.lock", timeout_s=_LOCK_TIMEOUT_S):
            if suspect:
                self.rebuild(checkout.sha)
            try:
                await self._fetch(checkout, say)
            except GitFailed as error:
                if suspect or not is_damage(error.said, self.path):
                    raise
                say("The local mirror is damaged; building it again")
                self.rebuild(checkout.sha)
                await self._fetch(checkout, say)

    def rebuild(self, sha: str) -> None:
        log.warning("mirror.rebuilt", path=self.path)
        if os.path.lexists(self.path):
            self._discard(self.path)
        self.ensure(sha)

    async def maintain(self) -> None:
        """Join many small packs into one. Harmless to readers; skipped while somebody fetches."""
        packs = os.path.join(self.objects, "pack")
        try:
            count = sum(name.endswith(".pack") for name in os.listdir(packs))
        except OSError:
            return
        if count < _PACKS_BEFORE_REPACK:
            return
        try:
            async with locked(f"{self.path}.lock", timeout_s=1):
                await self._git.must("--git-dir", self.path, "repack", "-a", "-d", "-l", "-q")
        except (GitFailed, LockBusy) as error:
            log.warning("mirror.not_repacked", path=self.path, error=str(error))

    async def _fetch(self, checkout: Checkout, say: Say) -> None:
        ref = checkout.ref if checkout.ref.startswith("refs/") else f"refs/heads/{checkout.ref}"
        wanted = f"+{checkout.sha}:refs/kici/{checkout.sha}"
        by_ref = f"+{ref}:refs/kici/ref"
        plans = [
            ("--depth=1", wanted, "the commit"),
            (f"--depth={_DEEPEN}", by_ref, f"{ref}, {_DEEPEN} commits deep"),
            ("--depth=2147483647", by_ref, f"all of {ref}"),
        ]
        last: GitFailed | None = None
        for number, (depth, refspec, what) in enumerate(plans):
            started = perf_counter()
            try:
                await self._fetch_once(checkout, depth, refspec)
            except GitFailed as error:
                if not _BY_REF_INSTEAD.search(error.said):
                    raise
                last = error
                continue
            say(f"Fetched {what} in {(perf_counter() - started) * 1000:.0f} ms")
            self._on_fetched(self)
            if number == 0 or await self._keep(checkout.sha):
                return
        raise GitFailed(
            f"commit {checkout.sha} is not in {without_credentials(self.url)} at {ref}"
            + (f" ({last})" if last else ""),
            last.said if last else "",
        )

    async def _fetch_once(self, checkout: Checkout, depth: str, refspec: str) -> None:
        await self._git.must(
            "--git-dir",
            self.path,
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
            "--no-recurse-submodules",
            depth,
            "--",
            without_credentials(self.url) if checkout.token else self.url,
            refspec,
            secret=credentials(self.url, checkout.token),
        )

    async def _keep(self, sha: str) -> bool:
        """Give the commit its own ref; False when it is not here."""
        done = await self._git.run("--git-dir", self.path, "update-ref", f"refs/kici/{sha}", sha)
        return done.status == 0


class Mirrors:
    """`discard` takes a path out of the way at once and deletes it later."""

    def __init__(self, folder: str, git: Git, discard: Callable[[str], None]) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = folder
        self._git = git
        self._discard = discard
        self._grown: dict[str, Mirror] = {}
        self._wanted = asyncio.Event()

    def of(self, url: str, sha: str) -> Mirror:
        """The mirror of a repository. Raises GitFailed for a URL or commit id that cannot be one."""
        if not _SHA.fullmatch(sha):
            raise GitFailed(f"not a commit id: {sha[:80]!r}", "")
        return Mirror(self.folder, url, self._git, self._discard, self._has_grown)

    async def keep_compact(self) -> None:
        """Maintains mirrors some time after something was fetched into them. Runs for ever."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(_MAINTAIN_AFTER_S)
            self._wanted.clear()
            while self._grown:
                await self._grown.popitem()[1].maintain()

    def _has_grown(self, mirror: Mirror) -> None:
        self._grown[mirror.path] = mirror
        self._wanted.set()


def is_damage(said: str, mirror: str) -> bool:
    """Do git's words tell of broken objects or a broken mirror, rather than of the remote?"""
    return f"not a git repository: '{mirror}'" in said or bool(_DAMAGED.search(said))


def repository_config(sha: str, *, bare: bool) -> str:
    """Contents of a fresh repository's `config` for the object format that `sha` shows."""
    lines = ["[core]", f"\tbare = {str(bare).lower()}"]
    if len(sha) == 64:
        lines += ["\trepositoryformatversion = 1", "[extensions]", "\tobjectFormat = sha256"]
    else:
        lines += ["\trepositoryformatversion = 0"]
    return "\n".join(lines) + "\n"


def _folder_name(url: str) -> str:
    """Readable and unique: `widgets-1f2e3d4c5b6a7988.git`."""
    shown = without_credentials(url)
    name = re.sub(r"[^A-Za-z0-9_.-]", "", shown.rstrip("/").rpartition("/")[2].removesuffix(".git"))
    return f"{name.lstrip('.')[:40] or 'repository'}-{hashlib.sha256(shown.encode()).hexdigest()[:16]}.git"


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
