"""One row per schedule trigger of a registered workflow, with the time it fires next (OR-111, OR-112).

Rows follow registrations in the same transaction. A new, changed or re-enabled schedule begins now; one that
stayed as it was keeps its time, so that a push shortly before it does not lose it.
"""

from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from kici.engine import cron
from kici.orchestrator.db.rows import encode_rows
from kici.runtime.database import AsyncConnection, text
from kici.spec.triggers import ScheduleTrigger, Trigger

_OF_REPOSITORY = "w.routing_key = :routing_key AND w.repo_identifier = :repo"
_OF_ONE = "w.id::text = :id"


class _Row(Struct, frozen=True, kw_only=True):
    registration_id: str
    trigger_index: int
    org_id: str
    cron: str
    timezone: str
    next_fire_at: datetime | None
    problem: str | None


def _wanted(where: str) -> str:
    return f"""
SELECT w.id, w.org_id, w.disabled, (w.lock_entry->'triggers')::text AS triggers FROM workflow_registrations w
WHERE {where} AND 'schedule' = ANY (w.trigger_types)
"""


def _replace(where: str) -> str:
    return f"""
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS x (
        registration_id uuid, trigger_index int, org_id text, cron text, timezone text,
        next_fire_at timestamptz, problem text)
), gone AS (
    DELETE FROM schedules s USING workflow_registrations w
    WHERE w.id = s.registration_id AND {where} AND NOT EXISTS (
        SELECT FROM given g
        WHERE g.registration_id = s.registration_id AND g.trigger_index = s.trigger_index)
)
INSERT INTO schedules (registration_id, trigger_index, org_id, cron, timezone, next_fire_at, problem)
SELECT registration_id, trigger_index, org_id, cron, timezone, next_fire_at, problem FROM given
ON CONFLICT (registration_id, trigger_index) DO UPDATE SET cron = EXCLUDED.cron, timezone = EXCLUDED.timezone,
    problem = EXCLUDED.problem,
    next_fire_at = CASE
        WHEN EXCLUDED.next_fire_at IS NOT NULL AND schedules.cron = EXCLUDED.cron
            AND schedules.timezone = EXCLUDED.timezone
        THEN coalesce(schedules.next_fire_at, EXCLUDED.next_fire_at)
        ELSE EXCLUDED.next_fire_at END
"""


_WANTED_OF_REPOSITORY, _REPLACE_OF_REPOSITORY = (
    text(_wanted(_OF_REPOSITORY)),
    text(_replace(_OF_REPOSITORY)),
)
_WANTED_OF_ONE, _REPLACE_OF_ONE = text(_wanted(_OF_ONE)), text(_replace(_OF_ONE))
_triggers = msgspec.json.Decoder(list[Trigger]).decode


async def plan_repository(tx: AsyncConnection, routing_key: str, repo: str, now: datetime) -> None:
    """After the repository's registrations were replaced."""
    which = {"routing_key": routing_key, "repo": repo}
    rows = (await tx.execute(_WANTED_OF_REPOSITORY, which)).all()
    planned = [row for found in rows for row in _rows(found, now)]
    await tx.execute(_REPLACE_OF_REPOSITORY, {**which, "rows": encode_rows(planned)})


async def plan_registration(tx: AsyncConnection, registration_id: str, now: datetime) -> None:
    """After it was switched on or off."""
    rows = (await tx.execute(_WANTED_OF_ONE, {"id": registration_id})).all()
    planned = [row for found in rows for row in _rows(found, now)]
    await tx.execute(_REPLACE_OF_ONE, {"id": registration_id, "rows": encode_rows(planned)})


def _rows(found: Any, now: datetime) -> list[_Row]:
    return [
        _row(found, index, trigger, now)
        for index, trigger in enumerate(_triggers(found.triggers or "[]"))
        if isinstance(trigger, ScheduleTrigger)
    ]


def _row(found: Any, index: int, trigger: ScheduleTrigger, now: datetime) -> _Row:
    problem: str | None = None
    following: datetime | None = None
    try:
        following = cron.next_fire(trigger.cron, trigger.timezone, now)
    except cron.InvalidSchedule as error:
        problem = str(error)
    return _Row(
        registration_id=found.id,
        trigger_index=index,
        org_id=found.org_id,
        cron=trigger.cron,
        timezone=trigger.timezone,
        next_fire_at=None if found.disabled else following,
        problem=problem,
    )
