"""Fires what is due: `__schedule_fire` and the next time in one transaction (OR-92, OR-111…113).

Every instance ticks; a row is locked while it fires and has moved on afterwards, so each time is fired once.
After a time when nobody was there it is fired once, not once per time missed.
"""

import asyncio
from datetime import datetime
from typing import Any

from msgspec import Struct

from kici.engine import cron
from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.events.listening import CHANNEL, EVENT_TTL_S
from kici.orchestrator.events.stored import SCHEDULE_FIRE
from kici.orchestrator.runs.execution import Waker
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger

log = get_logger(__name__)

TICK_S = 5.0
_MIN_TICK_S = 0.05
_PAGE = 200

_DUE = text("""
SELECT s.registration_id, s.trigger_index, s.cron, s.timezone, s.next_fire_at, s.org_id, w.workflow_name,
    w.routing_key, w.repo_identifier, w.commit_sha, w.source_file
FROM schedules s JOIN workflow_registrations w ON w.id = s.registration_id
WHERE s.next_fire_at <= :now AND NOT w.disabled
ORDER BY s.next_fire_at LIMIT :limit FOR UPDATE OF s SKIP LOCKED
""")

_FIRE = text("""
WITH fired AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS x (
        event_id uuid, registration_id uuid, trigger_index int, org_id text, repo text, routing_key text,
        payload jsonb, following timestamptz, problem text)
), moved AS (
    UPDATE schedules s SET next_fire_at = f.following, last_fired_at = :now, problem = f.problem
    FROM fired f WHERE s.registration_id = f.registration_id AND s.trigger_index = f.trigger_index
)
INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, decisions, expires_at)
SELECT event_id, org_id, :event_name, payload, repo, routing_key, '[]', now() + :ttl_s * interval '1 second'
FROM fired
""")

_NEXT = text("SELECT min(next_fire_at) FROM schedules")


class Fire(Struct, frozen=True, kw_only=True, rename="camel"):
    """Payload of `__schedule_fire`; `scheduled_at` is the planned time, not the one we got to it."""

    cron_expression: str
    timezone: str
    registration_id: str
    trigger_index: int
    workflow_name: str
    routing_key: str
    repo_identifier: str
    scheduled_at: datetime
    commit_sha: str
    source_file: str


class _Fired(Struct, frozen=True, kw_only=True):
    event_id: str
    registration_id: str
    trigger_index: int
    org_id: str
    repo: str
    routing_key: str
    payload: Fire
    following: datetime | None
    problem: str | None


class ScheduleTicker:
    def __init__(self, engine: AsyncEngine, wakeups: Waker, clock: Clock) -> None:
        self._engine = engine
        self._wakeups = wakeups
        self._clock = clock

    async def run(self) -> None:
        await supervised("schedules.tick", self._loop)

    async def _loop(self) -> None:
        while True:
            while await self.tick() == _PAGE:
                pass
            await asyncio.sleep(await self._pause_s())

    async def _pause_s(self) -> float:
        async with self._engine.connect() as connection:
            earliest: datetime | None = await connection.scalar(_NEXT)
        if earliest is None:
            return TICK_S
        wait_s = earliest.timestamp() - self._clock.now_ms() / 1000
        return min(TICK_S, max(_MIN_TICK_S, wait_s))

    async def tick(self) -> int:
        """How many fired."""
        now = to_datetime(self._clock.now_ms())
        async with self._engine.begin() as tx:
            due = (await tx.execute(_DUE, {"now": now, "limit": _PAGE})).mappings().all()
            if not due:
                return 0
            fired = [_fired(dict(row), now) for row in due]
            await tx.execute(
                _FIRE,
                {
                    "rows": encode_rows(fired),
                    "now": now,
                    "event_name": SCHEDULE_FIRE,
                    "ttl_s": EVENT_TTL_S,
                },
            )
        self._wakeups.wake(CHANNEL)
        for row in fired:
            log.info(
                "schedule.fired",
                event_id=row.event_id,
                routing_key=row.routing_key,
                workflow=row.payload.workflow_name,
                cron=row.payload.cron_expression,
                scheduled_at=row.payload.scheduled_at.isoformat(),
                next_fire_at=row.following.isoformat() if row.following else None,
            )
        return len(fired)


def _fired(row: dict[str, Any], now: datetime) -> _Fired:
    planned: datetime = row["next_fire_at"]
    following: datetime | None = None
    problem: str | None = None
    try:
        following = cron.next_fire(row["cron"], row["timezone"], max(now, planned))
    except cron.InvalidSchedule as error:  # the zone was there when it was registered
        problem = str(error)
    return _Fired(
        event_id=uuid7(),
        registration_id=row["registration_id"],
        trigger_index=row["trigger_index"],
        org_id=row["org_id"],
        repo=row["repo_identifier"],
        routing_key=row["routing_key"],
        payload=Fire(
            cron_expression=row["cron"],
            timezone=row["timezone"],
            registration_id=row["registration_id"],
            trigger_index=row["trigger_index"],
            workflow_name=row["workflow_name"],
            routing_key=row["routing_key"],
            repo_identifier=row["repo_identifier"],
            scheduled_at=planned,
            commit_sha=row["commit_sha"],
            source_file=row["source_file"],
        ),
        following=following,
        problem=problem,
    )
