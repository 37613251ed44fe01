"""Which source an author's repository is, and which of its commits the source has (`remote.base`, AU-124).

An address that a caller sends is compared with where sources of the caller's organization are and used for
nothing else. It need not be true either: what counts is that a branch or tag of the source contains the commit,
and a commit is its contents.
"""

import os
import re
from collections.abc import Iterator, Sequence
from urllib.parse import unquote, urlsplit

from kici.orchestrator.lockfiles.git import (
    GitFailed,
    Repositories,
    RepositoryUnreadable,
    git_dir,
    is_sha,
    run_git,
)
from kici.orchestrator.rpc import Caller
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.source import Source, SourceConfig
from kici.protocol.remote_v1 import MAX_ADDRESSES, MAX_COMMITS, BaseBody, BaseView
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput

log = get_logger(__name__)

_SEARCH_S = 5.0  # sending everything may well be quicker
_SCP = re.compile(r"[^/:]+:(?P<path>/.*)")  # user@host:/path


class Bases:
    def __init__(self, sources: SourceIndex, repositories: Repositories) -> None:
        self._sources = sources
        self._repositories = repositories

    async def find(self, body: BaseBody, caller: Caller) -> BaseView:
        """The first source at one of the addresses that has any of the commits. Raises InvalidInput."""
        if len(body.addresses) > MAX_ADDRESSES or len(body.commits) > MAX_COMMITS:
            raise InvalidInput(f"at most {MAX_ADDRESSES} addresses and {MAX_COMMITS} commits")
        if not all(map(is_sha, body.commits)):
            raise InvalidInput("commits are commit ids")
        asked = {home for address in body.addresses if (home := home_of(address)) is not None}
        for source in self._of(caller.org_id):
            if asked.isdisjoint(_homes(source)):
                continue
            known = await self._contained(source, body.commits)
            if known:
                return BaseView(source=source.name, commits=known)
        return BaseView(source=None, commits=[])

    async def home(self, org_id: str, name: str, commit: str) -> SourceConfig | None:
        """Of the organization's source of that name, if it is enabled and has the commit now."""
        source = next((source for source in self._of(org_id) if source.name == name), None)
        if source is None or not is_sha(commit) or not await self._contained(source, [commit]):
            return None
        return source.config

    def _of(self, org_id: str) -> Iterator[Source]:
        """What can be checked out: a webhook source is no repository."""
        for source in sorted(self._sources.all(), key=lambda source: source.name):
            if source.org_id == org_id and source.kind == "local":
                yield source

    async def _contained(self, source: Source, commits: Sequence[str]) -> list[str]:
        """In the order of `commits`. An object that no branch or tag leads to may be gone tomorrow: it does not
        count. Nor does a repository without its whole history, in which steps would see less than with a whole
        tree."""
        path = source.config.path
        try:
            if _is_shallow(await git_dir(path)):
                return []
            found = await self._repositories.objects(path, [f"{commit}^{{commit}}" for commit in commits])
            there = [object_.sha for object_ in found if object_ is not None]
            if not there:
                return []
            output = await run_git(
                path, "rev-list", *there, "--not", "--branches", "--tags", timeout_s=_SEARCH_S
            )
        except (RepositoryUnreadable, GitFailed) as error:
            log.warning("remote.base_unknown", source=source.name, error=str(error))
            return []
        loose = set(output.decode().split())
        return [commit for commit in commits if commit in there and commit not in loose]


def home_of(address: str) -> str | None:
    """The folder that an address names, on whatever host, as sources name theirs; None when it names none."""
    if "://" in address:
        parts = urlsplit(address)
        path = unquote(parts.path) if parts.scheme in ("file", "ssh") else ""
    else:
        scp = _SCP.fullmatch(address)
        path = scp["path"] if scp else address
    return _plain(path) if os.path.isabs(path) else None


def _is_shallow(folder: str) -> bool:
    return os.path.exists(os.path.join(folder, "shallow"))


def _homes(source: Source) -> set[str]:
    return {_plain(source.config.path), _plain(os.path.realpath(source.config.path))}


def _plain(path: str) -> str:
    """`/srv/shop`, `/srv/shop/`, `/srv/shop.git` and `/srv/shop/.git` are one repository to git, too."""
    return os.path.normpath(path).removesuffix("/.git").removesuffix(".git")
