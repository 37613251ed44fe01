"""Which commit a working tree may be sent as the difference to: one that the server's own source has (AU-124)."""

import asyncio
import os
from collections.abc import Iterator

import msgspec
from msgspec import Struct

from kici.cli.client import Client, Refused
from kici.cli.local.repository import Repository
from kici.cli.remote.difference import Base
from kici.cli.remote.transfer import Destination, refusals
from kici.cli.remote.tree import without_credentials
from kici.protocol.remote_v1 import MAX_ADDRESSES, MAX_COMMITS, BaseBody, BaseView

# What a server without `remote.base` answers: no such route, or an orchestrator that does not know the method.
_ABSENT = frozenset({404, 405, 501})
_PATTERN = frozenset("*?[\\")  # `--remotes=` takes it for several


class Candidates(Struct, frozen=True, kw_only=True):
    """`bases`: where HEAD's history left that of a remote. `tips`: what its branches were when last fetched."""

    addresses: list[str]
    bases: list[str]
    tips: list[str]


async def find_base(client: Client, to: Destination, repository: Repository) -> Base | None:
    """None: send everything. Raises what an upload there would raise."""
    candidates = await asyncio.to_thread(find_candidates, repository)
    if not candidates.bases:
        return None
    commits = list(dict.fromkeys([*candidates.bases, *candidates.tips]))[:MAX_COMMITS]
    body = BaseBody(addresses=candidates.addresses[:MAX_ADDRESSES], commits=commits)
    with refusals():
        try:
            answer = await client.post(f"{to.path}/base", msgspec.to_builtins(body), **to.query)
        except Refused as refused:
            if refused.status_code in _ABSENT:
                return None
            raise
    view = msgspec.convert(answer, BaseView)
    there = [commit for commit in candidates.bases if commit in view.commits]
    if view.source is None or not there:
        return None
    newest = await asyncio.to_thread(
        repository.ask, "rev-list", "--no-walk=sorted", "--max-count=1", *there
    )
    return Base(
        commit=newest, source=view.source, known=[commit for commit in view.commits if commit in commits]
    )


def find_candidates(repository: Repository) -> Candidates:
    """Blocking. None at all in a shallow clone: it cannot say which commits it lacks."""
    addresses: list[str] = []
    bases: list[str] = []
    tips: list[str] = []
    if repository.ask("rev-parse", "--is-shallow-repository") == "false":
        for name in repository.ask("remote").split():
            if not _PATTERN.isdisjoint(name):
                continue
            url = repository.ask("remote", "get-url", name)
            refs = f"refs/remotes/{name}/"
            tracked = repository.ask("for-each-ref", "--format=%(objectname)", refs).split()
            if url and tracked:
                addresses += _spellings(url, repository)
                bases += _boundary(repository, name)
                tips += tracked
    return Candidates(addresses=addresses, bases=list(dict.fromkeys(bases)), tips=tips)


def _boundary(repository: Repository, remote: str) -> Iterator[str]:
    """The newest commits of HEAD's history that a tracking branch of the remote contains."""
    lines = repository.ask("rev-list", "--boundary", "HEAD", "--not", f"--remotes={remote}").split()
    if not lines:
        yield repository.head
    yield from (line[1:] for line in lines if line.startswith("-"))


def _spellings(url: str, repository: Repository) -> list[str]:
    """As git has it; a path also as it really is."""
    if "://" in url or (":" in url and "/" not in url.partition(":")[0]):
        return [without_credentials(url)]
    path = os.path.join(repository.root, url)
    return list(dict.fromkeys([os.path.normpath(path), os.path.realpath(path)]))
