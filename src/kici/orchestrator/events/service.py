"""Internal events as operators see them: what was emitted, whom it started, and the dead letters (OR-98, OR-99)."""

from datetime import UTC, datetime
from typing import Any, ClassVar, Literal
from uuid import UUID

import msgspec
from msgspec import Struct

from kici.orchestrator.events.listening import CHANNEL
from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.runs.execution import Waker
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput, NotFound

log = get_logger(__name__)

MAX_PAGE = 200
_LAST_ID = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class EventNotFound(NotFound):
    code: ClassVar[str] = "event_not_found"


class DeadEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    event_id: str
    event_name: str
    dlq_reason: str
    dlq_at: datetime
    attempts: int
    last_error: str | None
    source_repo: str | None
    source_routing_key: str | None
    created_at: datetime


class DeadEventList(Struct, frozen=True, kw_only=True, rename="camel"):
    """`next_before` null at the end."""

    events: list[DeadEvent]
    next_before: datetime | None


class DeadEventCount(Struct, frozen=True, kw_only=True, rename="camel"):
    count: int


class EventView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`decisions`: one for every workflow that was asked, as deliveries have them."""

    event_id: str
    event_name: str
    origin: Literal["system", "job", "operator"]
    status: Literal["pending", "processed", "dead"]
    source_repo: str | None
    source_routing_key: str | None
    source_run_id: str | None
    target_repos: list[str] | None
    chain_depth: int
    attempts: int
    matched_count: int
    note: str | None
    created_at: datetime
    processed_at: datetime | None
    payload: Any
    decisions: list[DeliveryDecision]


class EventList(Struct, frozen=True, kw_only=True, rename="camel"):
    events: list[EventView]
    next_before: str | None


_DEAD = text("""
SELECT id AS event_id, event_name, dlq_reason, dlq_at, attempts, last_error, source_repo, source_routing_key,
    created_at
FROM kici_events WHERE org_id = :org_id AND dlq_at < :before ORDER BY dlq_at DESC LIMIT :limit
""")
_DEAD_ONE = text("""
SELECT id AS event_id, event_name, dlq_reason, dlq_at, attempts, last_error, source_repo, source_routing_key,
    created_at
FROM kici_events WHERE org_id = :org_id AND id = CAST(:id AS uuid) AND dlq_at IS NOT NULL
""")
_COUNT = text("SELECT count(*) FROM kici_events WHERE org_id = :org_id AND dlq_at IS NOT NULL")
_REVIVE = text("""
UPDATE kici_events SET dlq_at = NULL, dlq_reason = NULL, claimed_at = NULL, claimed_by = NULL, processed = false,
    attempts = 0, next_retry_at = now(), expires_at = greatest(expires_at, now() + :ttl_s * interval '1 second')
WHERE org_id = :org_id AND id = CAST(:id AS uuid) AND dlq_at IS NOT NULL
RETURNING event_name
""")
_DISCARD = text("""
DELETE FROM kici_events WHERE org_id = :org_id AND id = CAST(:id AS uuid) AND dlq_at IS NOT NULL
RETURNING event_name
""")
_FIELDS = """
    id AS event_id, event_name, origin, source_repo, source_routing_key, source_run_id, target_repos, chain_depth,
    attempts, last_error AS note, created_at, processed_at, payload::text AS payload,
    coalesce(decisions, '[]')::text AS decisions,
    CASE WHEN dlq_at IS NOT NULL THEN 'dead' WHEN processed THEN 'processed' ELSE 'pending' END AS status
"""
_PAGE = text(f"""
SELECT {_FIELDS} FROM kici_events
WHERE org_id = :org_id AND decisions IS NOT NULL AND id < CAST(:before AS uuid)
ORDER BY id DESC LIMIT :limit
""")
_ONE = text(f"SELECT {_FIELDS} FROM kici_events WHERE org_id = :org_id AND id = CAST(:id AS uuid)")

_decisions = msgspec.json.Decoder(list[DeliveryDecision]).decode


class EventLog:
    def __init__(self, engine: AsyncEngine, wakeups: Waker, policy: EventPolicy) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._policy = policy

    async def events(self, org_id: str, *, limit: int = 50, before: str | None = None) -> EventList:
        """Those that somebody waits for or that were emitted, newest first; `before` is an event's id. Raises
        InvalidInput."""
        size = max(1, min(limit, MAX_PAGE))
        start = _LAST_ID if before is None else _uuid(before)
        if start is None:
            raise InvalidInput(f"{before!r} is not the id of an event")
        async with self._engine.connect() as connection:
            rows = (
                (await connection.execute(_PAGE, {"org_id": org_id, "before": start, "limit": size + 1}))
                .mappings()
                .all()
            )
        return EventList(
            events=[_view(dict(row)) for row in rows[:size]],
            next_before=rows[size - 1]["event_id"] if len(rows) > size else None,
        )

    async def event(self, org_id: str, event_id: str) -> EventView:
        """Raises EventNotFound."""
        key = _key(org_id, event_id)
        async with self._engine.connect() as connection:
            row = (await connection.execute(_ONE, key)).mappings().first()
        if row is None:
            raise _missing(event_id)
        return _view(dict(row))

    # ── dead letters ─────────────────────────────────────────────────────────────────────────────

    async def dead(self, org_id: str, *, limit: int = 50, before: datetime | None = None) -> DeadEventList:
        """Latest first; `before` is the `dlqAt` of an earlier page's last."""
        size = max(1, min(limit, MAX_PAGE))
        start = before or datetime(9999, 1, 1, tzinfo=UTC)
        async with self._engine.connect() as connection:
            rows = (
                (await connection.execute(_DEAD, {"org_id": org_id, "before": start, "limit": size + 1}))
                .mappings()
                .all()
            )
        return DeadEventList(
            events=[DeadEvent(**dict(row)) for row in rows[:size]],
            next_before=rows[size - 1]["dlq_at"] if len(rows) > size else None,
        )

    async def dead_one(self, org_id: str, event_id: str) -> DeadEvent:
        """Raises EventNotFound."""
        async with self._engine.connect() as connection:
            row = (await connection.execute(_DEAD_ONE, _key(org_id, event_id))).mappings().first()
        if row is None:
            raise _missing(event_id)
        return DeadEvent(**dict(row))

    async def dead_count(self, org_id: str) -> DeadEventCount:
        async with self._engine.connect() as connection:
            return DeadEventCount(count=await connection.scalar(_COUNT, {"org_id": org_id}))

    async def retry(self, org_id: str, event_id: str, *, actor: str) -> None:
        """All attempts ahead again, now. Raises EventNotFound."""
        async with self._engine.begin() as tx:
            name = await self._changed(tx, _REVIVE, org_id, event_id, ttl_s=self._policy.ttl_s)
        self._wakeups.wake(CHANNEL)
        log.info("event_dlq.retry", event_id=event_id, event_name=name, actor=actor)

    async def discard(self, org_id: str, event_id: str, *, actor: str) -> None:
        """Raises EventNotFound."""
        async with self._engine.begin() as tx:
            name = await self._changed(tx, _DISCARD, org_id, event_id)
        log.info("event_dlq.discard", event_id=event_id, event_name=name, actor=actor)

    @staticmethod
    async def _changed(tx: AsyncConnection, statement: Any, org_id: str, event_id: str, **more: Any) -> str:
        name: str | None = await tx.scalar(statement, {**_key(org_id, event_id), **more})
        if name is None:
            raise _missing(event_id)
        return name


def _missing(event_id: str) -> EventNotFound:
    return EventNotFound(f"there is no such event {event_id}")


def _key(org_id: str, event_id: str) -> dict[str, str]:
    found = _uuid(event_id)
    if found is None:
        raise _missing(event_id)
    return {"org_id": org_id, "id": found}


def _uuid(text: str) -> str | None:
    try:
        return str(UUID(text))
    except ValueError:
        return None


def _view(row: dict[str, Any]) -> EventView:
    decisions = _decisions(row.pop("decisions"))
    return EventView(
        **{**row, "payload": msgspec.json.decode(row["payload"])},
        decisions=decisions,
        matched_count=sum(decision.matched for decision in decisions),
    )
