"""Deliveries that we make ourselves for local repositories: `trigger-local`, and pushes that a hook had to
keep while nobody listened (OR-18)."""

import asyncio
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.lockfiles.commits import CommitUnknown, commit_message
from kici.orchestrator.lockfiles.git import (
    Repositories,
    RepositoryUnreadable,
    changed_files,
    default_branch,
    git_dir,
    head_branch,
    is_ref,
)
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.source import Source
from kici.runtime.ids import request_id
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput

log = get_logger(__name__)

SPOOL = "kici-spool"  # as in post_receive.py
SPOOL_SWEEP_S = 5.0
SPOOL_REST_S = 4.0  # younger files are still in the hook's hands
SPOOL_BATCH = 100
MAX_REMEMBERED = 256

_HEADS = "refs/heads/"
_ZERO = "0" * 40

Accept = Callable[[Delivery], Awaitable[Acceptance]]


class TriggerLocal(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`ref`: full name or branch, by default what HEAD names. `sha`: by default the ref's commit."""

    event: Literal["push", "pull_request"] = "push"
    ref: str | None = None
    sha: str | None = None
    delivery_id: str | None = None


class Triggered(Struct, frozen=True, kw_only=True, rename="camel"):
    accepted: bool
    delivery_id: str
    request_id: str
    duplicate: bool
    ref: str
    sha: str


class _Kept(Struct, frozen=True, kw_only=True, rename="camel"):
    delivery_id: str
    event: str
    body: msgspec.Raw


class ChangedFiles:
    """What commits changed does not change: asked of git once."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str, str], list[str]] = OrderedDict()

    async def between(self, path: str, before: str, after: str) -> list[str]:
        """Empty where that is not known."""
        key = (path, before, after)
        found = self._known.get(key)
        if found is None:
            found = await changed_files(path, before, after) or []
            self._known[key] = found
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return found


async def payload_for(
    repositories: Repositories, changed: ChangedFiles, source: Source, asked: TriggerLocal
) -> tuple[dict[str, Any], str, str]:
    """Body, ref and commit of the event that `asked` describes. Raises InvalidInput, CommitUnknown,
    RepositoryUnreadable, GitFailed."""
    path, name = source.config.path, source.config.repository
    main, head = await default_branch(path), await head_branch(path)
    ref = asked.ref or (f"{_HEADS}{head}" if head else None)
    if ref is None:
        raise InvalidInput("HEAD is detached: say which ref is meant")
    if not ref.startswith("refs/"):
        ref = f"{_HEADS}{ref}"
    wanted = asked.sha or ref
    if not is_ref(ref) or not is_ref(wanted):
        raise InvalidInput(f"{wanted!r} names no ref")
    (commit,) = await repositories.objects(path, [f"{wanted}^{{commit}}"])
    if commit is None:
        raise CommitUnknown(f"{path} has no commit at {wanted}")
    headers = commit.data.partition(b"\n\n")[0].decode(errors="replace").splitlines()
    parent = next((line[7:] for line in headers if line.startswith("parent ")), _ZERO)
    author, email = _author(headers)
    described = {
        "id": commit.sha,
        "message": commit_message(commit.data),
        "author": {"name": author, "email": email},
    }
    repository = {"name": name, "full_name": name, "default_branch": main}
    sender = {"login": author}
    if asked.event == "pull_request":
        if main is None:
            raise InvalidInput("there is no default branch that a pull request could aim at")
        (base,) = await repositories.objects(path, [f"{_HEADS}{main}^{{commit}}"])
        title = str(described["message"]).partition("\n")[0]
        pull_request = {
            "number": 0,
            "title": title,
            "state": "open",
            "head": {"ref": ref.removeprefix(_HEADS), "sha": commit.sha, "repo": {"full_name": name}},
            "base": {"ref": main, "sha": base.sha if base else _ZERO, "repo": {"full_name": name}},
        }
        body: dict[str, Any] = {
            "action": "opened",
            "number": 0,
            "pull_request": pull_request,
            "repository": repository,
            "sender": sender,
        }
        return body, ref, commit.sha
    files = await changed.between(path, parent, commit.sha)
    body = {
        "ref": ref,
        "before": parent,
        "after": commit.sha,
        "created": parent == _ZERO,
        "deleted": False,
        "head_commit": {**described, "modified": files},
        "commits": [{**described, "modified": files}],
        "repository": repository,
        "pusher": {"name": author},
        "sender": sender,
    }
    return body, ref, commit.sha


def _author(headers: list[str]) -> tuple[str, str]:
    line = next((line[7:] for line in headers if line.startswith("author ")), "")
    name, _, rest = line.partition(" <")
    return name, rest.partition(">")[0]


class LocalSources:
    """`accept` is the acceptor's, already told that the sender is trusted."""

    def __init__(self, index: SourceIndex, repositories: Repositories, accept: Accept) -> None:
        self._index = index
        self._repositories = repositories
        self._accept = accept
        self._changed = ChangedFiles()
        self._unwritable: set[str] = set()

    async def trigger(self, source: Source, asked: TriggerLocal) -> Triggered:
        """Raises what `payload_for` raises, and InboxUnavailable."""
        if source.kind != "local":
            raise InvalidInput(f"source {source.name!r} is not a repository on this machine")
        body, ref, sha = await payload_for(self._repositories, self._changed, source, asked)
        own = request_id()
        acceptance = await self._accept(
            _delivery(source, asked.event, asked.delivery_id or own, msgspec.json.encode(body), own)
        )
        if acceptance.result != "accepted":
            raise InvalidInput(acceptance.reason or "the delivery was refused")
        return Triggered(
            accepted=True,
            delivery_id=acceptance.delivery_id,
            request_id=own,
            duplicate=acceptance.duplicate,
            ref=ref,
            sha=sha,
        )

    async def sweep(self) -> None:
        """For ever: fetch what hooks had to keep. Deduplicated by the hook's own delivery id."""
        while True:
            for source in self._index.all():
                if source.kind == "local":
                    await self._fetch(source)
            await asyncio.sleep(SPOOL_SWEEP_S)

    async def _fetch(self, source: Source) -> None:
        try:
            spool = os.path.join(await git_dir(source.config.path), SPOOL)
        except RepositoryUnreadable:
            return  # its deliveries say so; there is nothing to fetch
        for path, kept in await asyncio.to_thread(_kept, spool):
            if not os.access(spool, os.W_OK):
                if spool not in self._unwritable:
                    self._unwritable.add(spool)
                    log.warning("spool.not_writable", source=source.name, path=spool)
                return
            acceptance = await self._accept(
                _delivery(source, kept.event, kept.delivery_id, bytes(kept.body), request_id())
            )
            log.info(
                "spool.fetched", source=source.name, delivery_id=kept.delivery_id, result=acceptance.result
            )
            await asyncio.to_thread(_settle, path, refused=acceptance.result != "accepted")


def _delivery(source: Source, event: str, delivery_id: str, body: bytes, own: str) -> Delivery:
    return Delivery(
        headers={
            "content-type": "application/json",
            source.config.event_type_header.lower(): event,
            "x-delivery-id": delivery_id,
        },
        body=body,
        via="direct",
        request_id=own,
        routing_key=source.routing_key,
    )


def _kept(spool: str) -> list[tuple[str, _Kept]]:
    """Whole files that rest long enough, oldest first."""
    found: list[tuple[str, _Kept]] = []
    now = time.time()
    try:
        with os.scandir(spool) as entries:
            names = sorted(
                entry.name
                for entry in entries
                if entry.name.endswith(".json") and now - entry.stat().st_mtime >= SPOOL_REST_S
            )
    except FileNotFoundError:
        return []
    for name in names[:SPOOL_BATCH]:
        path = os.path.join(spool, name)
        try:
            with open(path, "rb") as file:
                found.append((path, msgspec.json.decode(file.read(), type=_Kept)))
        except FileNotFoundError:
            continue  # the hook was faster
        except (OSError, msgspec.MsgspecError) as error:
            log.warning("spool.unreadable", path=path, reason=str(error))
    return found


def _settle(path: str, *, refused: bool) -> None:
    try:
        if refused:
            os.replace(path, f"{path}.refused")
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass
