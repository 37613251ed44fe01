"""`kici_events` in SQL. The transaction comes first; nothing commits here."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.events.stored import StoredEvent
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.database import AsyncConnection, text

LEASE_MAX_BYTES = 32 << 20


class Finished(Struct, frozen=True, kw_only=True):
    """`note`: why it ended without being asked about, for people."""

    id: str
    attempts: int
    decisions: list[DeliveryDecision]
    note: str | None


class Fence(Struct, frozen=True, kw_only=True):
    id: str
    attempts: int


class Dispatched(Struct, frozen=True, kw_only=True):
    event_id: str
    registration_id: str
    run_id: str


class DeadLease(Struct, frozen=True, kw_only=True):
    id: str
    event_name: str
    holder: str


_DUE = "NOT processed AND dlq_at IS NULL AND (next_retry_at IS NULL OR next_retry_at <= now())"

_LEASE = text(f"""
WITH due AS (
    SELECT id, claimed_by AS holder, pg_column_size(payload) AS size, coalesce(next_retry_at, created_at) AS at
    FROM kici_events
    WHERE {_DUE} AND (claimed_at IS NULL OR claimed_at < now() - :lease_ms * interval '1 ms')
    ORDER BY coalesce(next_retry_at, created_at) LIMIT :limit FOR UPDATE SKIP LOCKED
), fitting AS (
    SELECT id, holder FROM (
        SELECT id, holder, sum(size) OVER (ORDER BY at, id) AS total, row_number() OVER (ORDER BY at, id) AS place
        FROM due) sized
    WHERE total <= {LEASE_MAX_BYTES} OR place = 1
), taken AS (
    UPDATE kici_events e SET claimed_at = now(), claimed_by = :claimed_by, attempts = e.attempts + 1
    FROM fitting f WHERE e.id = f.id
    RETURNING e.id, e.org_id, e.event_name, e.origin, e.payload::text AS payload, e.source_repo,
        e.source_routing_key, e.source_run_id, e.target_repos, e.chain_depth, e.attempts, e.created_at, f.holder
)
SELECT t.*, (SELECT json_object_agg(d.registration_id, d.run_id)::text FROM kici_event_deliveries d
             WHERE d.event_id = t.id) AS delivered
FROM taken t ORDER BY t.created_at, t.id
""")

_LOCK_OURS = text("""
SELECT e.id FROM json_to_recordset(CAST(:rows AS json)) AS x (id uuid, attempts int)
JOIN kici_events e ON e.id = x.id AND e.attempts = x.attempts
WHERE e.claimed_by = :claimed_by AND NOT e.processed AND e.dlq_at IS NULL
ORDER BY e.id FOR UPDATE OF e
""")

_FINISH = text("""
UPDATE kici_events e SET processed = true, processed_at = now(), claimed_at = NULL, claimed_by = NULL,
    next_retry_at = NULL, last_error = x.note, decisions = x.decisions
FROM json_to_recordset(CAST(:rows AS json)) AS x (id uuid, attempts int, decisions jsonb, note text)
WHERE e.id = x.id AND e.attempts = x.attempts AND e.claimed_by = :claimed_by AND NOT e.processed
""")

_DELIVERED = text("""
INSERT INTO kici_event_deliveries (event_id, registration_id, run_id)
SELECT event_id, registration_id, run_id
FROM json_to_recordset(CAST(:rows AS json)) AS x (event_id uuid, registration_id uuid, run_id uuid)
ON CONFLICT DO NOTHING
""")

_RETRY = text("""
UPDATE kici_events SET claimed_at = NULL, claimed_by = NULL, last_error = :error,
    next_retry_at = now() + :delay_ms * interval '1 ms'
WHERE id = :id AND claimed_by = :claimed_by AND attempts = :attempts AND NOT processed
""")

_BURY = text("""
UPDATE kici_events SET claimed_at = NULL, claimed_by = NULL, next_retry_at = NULL, last_error = :error,
    dlq_at = now(), dlq_reason = :reason
WHERE id = :id AND claimed_by = :claimed_by AND attempts = :attempts AND NOT processed
RETURNING id
""")

_RENEW = text("""
UPDATE kici_events SET claimed_at = now() WHERE id = ANY (CAST(:ids AS uuid[])) AND claimed_by = :claimed_by
""")

_RELEASE = text("""
UPDATE kici_events SET claimed_at = NULL, claimed_by = NULL
WHERE NOT processed AND claimed_at IS NOT NULL AND claimed_by = :claimed_by
""")

_RELEASE_EARLIER = text("""
UPDATE kici_events SET claimed_at = NULL, claimed_by = NULL
WHERE NOT processed AND claimed_at IS NOT NULL AND starts_with(claimed_by, :prefix) AND claimed_by <> :claimed_by
""")

_EXPIRE = text("""
WITH late AS (
    SELECT id, event_name, claimed_by FROM kici_events
    WHERE NOT processed AND claimed_at IS NOT NULL AND claimed_at < now() - :lease_ms * interval '1 ms'
    FOR UPDATE SKIP LOCKED
)
UPDATE kici_events e SET claimed_at = NULL, claimed_by = NULL FROM late WHERE e.id = late.id
RETURNING e.id, late.event_name, late.claimed_by AS holder
""")

_STATE = text(f"""
SELECT EXISTS (SELECT FROM kici_events WHERE {_DUE} AND claimed_at IS NULL) AS due,
    (SELECT count(*) FROM kici_events WHERE dlq_at IS NOT NULL) AS dead
""")

# Ids are sorted by time: what is old stands at the beginning of the primary key.
_CLEAN = text("""
DELETE FROM kici_events WHERE id IN (
    SELECT id FROM kici_events
    WHERE id < CAST(:boundary AS uuid) AND dlq_at IS NULL AND (processed OR expires_at < now())
    ORDER BY id LIMIT :limit)
""")


async def lease(
    tx: AsyncConnection, *, claimed_by: str, lease_ms: int, limit: int
) -> tuple[list[tuple[StoredEvent, dict[str, str]]], list[DeadLease]]:
    """Claimed rows, oldest first, each with the runs it has started already by registration; and those
    among them whose earlier holder never came back."""
    rows = (
        (await tx.execute(_LEASE, {"claimed_by": claimed_by, "lease_ms": lease_ms, "limit": limit}))
        .mappings()
        .all()
    )
    leased: list[tuple[StoredEvent, dict[str, str]]] = []
    dead: list[DeadLease] = []
    for row in rows:
        fields: dict[str, Any] = dict(row)
        holder, delivered = fields.pop("holder"), fields.pop("delivered")
        fields["payload"] = msgspec.json.decode(fields["payload"])
        stored = StoredEvent(**fields)
        leased.append((stored, msgspec.json.decode(delivered or "{}", type=dict[str, str])))
        if holder is not None:
            dead.append(DeadLease(id=stored.id, event_name=stored.event_name, holder=holder))
    return leased, dead


async def lock_ours(tx: AsyncConnection, fences: Sequence[Fence], *, claimed_by: str) -> set[str]:
    """Those that are still ours, and stay so until the transaction ends."""
    result = await tx.execute(_LOCK_OURS, {"rows": encode_rows(fences), "claimed_by": claimed_by})
    return set(result.scalars())


async def finish(tx: AsyncConnection, rows: Sequence[Finished], *, claimed_by: str) -> None:
    await tx.execute(_FINISH, {"rows": encode_rows(rows), "claimed_by": claimed_by})


async def record_deliveries(tx: AsyncConnection, rows: Sequence[Dispatched]) -> None:
    if rows:
        await tx.execute(_DELIVERED, {"rows": encode_rows(rows)})


async def retry_later(
    tx: AsyncConnection, fence: Fence, *, claimed_by: str, error: str, delay_ms: int
) -> None:
    await tx.execute(
        _RETRY,
        {
            "id": fence.id,
            "attempts": fence.attempts,
            "claimed_by": claimed_by,
            "error": error,
            "delay_ms": delay_ms,
        },
    )


async def bury(tx: AsyncConnection, fence: Fence, *, claimed_by: str, error: str, reason: str) -> bool:
    """To the dead letters, when the row is still ours."""
    done = await tx.execute(
        _BURY,
        {
            "id": fence.id,
            "attempts": fence.attempts,
            "claimed_by": claimed_by,
            "error": error,
            "reason": reason,
        },
    )
    return done.first() is not None


async def renew(tx: AsyncConnection, ids: Sequence[str], *, claimed_by: str) -> None:
    await tx.execute(_RENEW, {"ids": list(ids), "claimed_by": claimed_by})


async def release(tx: AsyncConnection, *, claimed_by: str) -> int:
    return (await tx.execute(_RELEASE, {"claimed_by": claimed_by})).rowcount


async def release_earlier(tx: AsyncConnection, *, instance_id: str, claimed_by: str) -> int:
    """Claims of earlier lives of this instance: it is we who would have to come back for them."""
    done = await tx.execute(_RELEASE_EARLIER, {"prefix": f"{instance_id}/", "claimed_by": claimed_by})
    return done.rowcount


async def release_expired(tx: AsyncConnection, *, lease_ms: int) -> list[DeadLease]:
    rows = await tx.execute(_EXPIRE, {"lease_ms": lease_ms})
    return [DeadLease(id=row.id, event_name=row.event_name, holder=row.holder) for row in rows]


async def state(tx: AsyncConnection) -> tuple[bool, int]:
    """Whether something is due that nobody holds, and how many dead letters there are."""
    row = (await tx.execute(_STATE)).one()
    return row.due, row.dead


async def clean(tx: AsyncConnection, *, older_than: datetime, limit: int) -> int:
    """Forget what is older and done, or was never done in time; dead letters stay (OR-98)."""
    millis = int(older_than.timestamp() * 1000)
    boundary = f"{millis >> 16:08x}-{millis & 0xFFFF:04x}-7000-8000-000000000000"
    return (await tx.execute(_CLEAN, {"boundary": boundary, "limit": limit})).rowcount
