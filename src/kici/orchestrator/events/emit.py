"""Taking an event from a job or an operator: breakers first, then one row (OR-90, OR-91, OR-100, OR-101).

    emitter = Emitter(engine, wakeups, EventPolicy(), EventMetrics(metrics))
    handlers = {"event.emit": emitter.emit}

A request that is asked again under the same id gets the answer it had, and makes no second event.
"""

import re
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from kici.orchestrator.agents.requests import OwnedJob, params_of
from kici.orchestrator.db.rows import without_nul
from kici.orchestrator.events.listening import CHANNEL
from kici.orchestrator.events.policy import MAX_PAYLOAD_BYTES, EventMetrics, EventPolicy
from kici.orchestrator.events.stored import SYSTEM_NAMES
from kici.orchestrator.events.trust import trusted_by
from kici.orchestrator.runs.execution import Waker
from kici.protocol.agent_v1 import AgentRequest
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.durations import in_words
from kici.spec.errors import KiciError
from kici.spec.nesting import MAX_NESTING, too_deep

log = get_logger(__name__)

_NAME = re.compile(r"[^\s\x00-\x1f\x7f]{1,200}")
_MAX_TARGETS = 100

_encode = msgspec.json.Encoder().encode


class EventRejected(KiciError):
    """Reaches the step that emitted as `EventRejectedError`."""

    code: ClassVar[str] = "event_rejected"
    status: ClassVar[int] = 422


class TooManyEvents(EventRejected):
    status: ClassVar[int] = 429

    def __init__(self, message: str, retry_after_ms: int) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms


class EmitParams(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    payload: Any = None
    target_repos: list[str] | None = None


class Emitted(Struct, frozen=True, kw_only=True, rename="camel"):
    """`delivery_id` is the event's id."""

    delivery_id: str


class NewEvent(Struct, frozen=True, kw_only=True):
    """Somebody's event before the breakers have seen it. `dedup_key` empty: every asking is a new one."""

    org_id: str
    name: str
    payload: Any
    origin: str
    source_repo: str | None
    source_routing_key: str | None
    target_repos: list[str] | None = None
    source_run_id: str | None = None
    source_job_id: str | None = None
    chain_depth: int = 0
    dedup_key: str = ""


# One name of one repository after the other, so that the limit is exact.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 90))")
_KNOWN = text("SELECT id FROM kici_events WHERE org_id = :org_id AND dedup_key = :dedup_key")
_RATE = text("""
SELECT count(*) AS recent,
    ceil(extract(epoch FROM min(created_at) + interval '1 minute' - now()) * 1000)::bigint AS wait_ms
FROM (
    SELECT created_at FROM kici_events
    WHERE org_id = :org_id AND source_repo IS NOT DISTINCT FROM :source_repo AND event_name = :name
        AND created_at > now() - interval '1 minute' AND origin <> 'system'
    ORDER BY created_at DESC LIMIT :limit
) recent
""")
_INSERT = text("""
INSERT INTO kici_events (id, org_id, event_name, origin, payload, source_repo, source_routing_key, source_run_id,
    source_job_id, target_repos, dedup_key, chain_depth, decisions, expires_at)
VALUES (:id, :org_id, :name, :origin, CAST(:payload AS jsonb), :source_repo, :source_routing_key,
    CAST(:source_run_id AS uuid), CAST(:source_job_id AS uuid), :target_repos, nullif(:dedup_key, ''), :chain_depth,
    '[]', now() + :ttl_s * interval '1 second')
""")


class Emitter:
    def __init__(
        self, engine: AsyncEngine, wakeups: Waker, policy: EventPolicy, metrics: EventMetrics
    ) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._policy = policy
        self._metrics = metrics

    async def emit(self, job: OwnedJob, request: AgentRequest) -> Emitted:
        """The handler of `event.emit`. Raises EventRejected."""
        params = params_of(request, EmitParams)
        return await self.accept(
            NewEvent(
                org_id=job.org_id,
                name=params.name,
                payload=params.payload,
                origin="job",
                source_repo=job.repo_identifier,
                source_routing_key=job.routing_key,
                target_repos=params.target_repos or None,  # an empty list is how runners say "all"
                source_run_id=job.run_id,
                source_job_id=job.job_id,
                chain_depth=job.chain_depth,
                dedup_key=f"{job.job_id}:{job.attempt}:{request.request_id}",
            )
        )

    async def accept(self, new: NewEvent) -> Emitted:
        """Raises EventRejected."""
        payload = self._checked(new)
        async with self._engine.begin() as tx:
            event_id, fresh = await self._store(tx, new, payload)
        if fresh:
            self._wakeups.wake(CHANNEL)
            log.info(
                "event.emitted",
                event_id=event_id,
                event_name=new.name,
                run_id=new.source_run_id,
                job_id=new.source_job_id,
                chain_depth=new.chain_depth,
            )
        return Emitted(delivery_id=event_id)

    def _checked(self, new: NewEvent) -> str:
        """The payload as JSON text."""
        if _NAME.fullmatch(new.name) is None:
            raise EventRejected("an event's name has 1 to 200 characters and no white space")
        if new.name.startswith(("__", "kici.")) or new.name in SYSTEM_NAMES:
            raise EventRejected(
                f"{new.name!r} is kept for KiCI: choose a name that begins with neither `__` nor `kici.`"
            )
        if new.target_repos is not None and len(new.target_repos) > _MAX_TARGETS:
            raise EventRejected(f"an event has at most {_MAX_TARGETS} target repositories")
        if too_deep(new.payload):
            raise EventRejected(f"the payload of {new.name!r} is nested deeper than {MAX_NESTING} levels")
        document = without_nul(_encode(new.payload))
        if len(document) > MAX_PAYLOAD_BYTES:
            raise EventRejected(
                f"the payload of {new.name!r} has {len(document)} bytes; at most {MAX_PAYLOAD_BYTES} are taken"
            )
        if new.chain_depth >= self._policy.max_chain_depth:
            self._metrics.dropped.labels("chain_depth").inc()
            raise EventRejected(
                f"{new.name!r} would be event number {new.chain_depth + 1} of a chain; at most"
                f" {self._policy.max_chain_depth} may follow from each other: look for a loop"
            )
        return document.decode()

    async def _store(self, tx: AsyncConnection, new: NewEvent, payload: str) -> tuple[str, bool]:
        key = {"org_id": new.org_id, "source_repo": new.source_repo, "name": new.name}
        await tx.execute(_LOCK, {"key": "\n".join(map(repr, key.values()))})
        if new.dedup_key:
            known = await tx.scalar(_KNOWN, {"org_id": new.org_id, "dedup_key": new.dedup_key})
            if known is not None:
                return known, False
        limit = self._policy.rate_limit_per_minute
        recent = (await tx.execute(_RATE, {**key, "limit": limit})).one()
        if recent.recent >= limit:
            self._metrics.dropped.labels("rate_limit").inc()
            wait_ms = max(1, int(recent.wait_ms))
            raise TooManyEvents(
                f"{new.source_repo or 'this operator'} has sent {limit} events {new.name!r} within a minute, and"
                f" more are not taken: try again in {in_words(wait_ms)} (retryAfterMs={wait_ms})",
                wait_ms,
            )
        await self._check_targets(tx, new)
        event_id = uuid7()
        await tx.execute(
            _INSERT,
            {
                **msgspec.structs.asdict(new),
                "id": event_id,
                "payload": payload,
                "ttl_s": self._policy.ttl_s,
            },
        )
        return event_id, True

    async def _check_targets(self, tx: AsyncConnection, new: NewEvent) -> None:
        if not new.target_repos or new.source_repo is None:
            return
        trust = await trusted_by(tx, [(new.org_id, new.source_repo)])
        source = (new.source_repo, new.source_routing_key)
        strangers = [
            repo for repo in new.target_repos if not trust.allows(new.org_id, new.name, source, (repo, ""))
        ]
        if strangers:
            raise EventRejected(
                f"{', '.join(strangers)} takes no {new.name!r} events of {new.source_repo}: an operator allows"
                f" that with `kici-admin trust add {new.source_repo} {strangers[0]}`"
            )
