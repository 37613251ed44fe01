"""The inbox table and the event log in SQL. The transaction comes first; nothing commits here."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.inbox.decide import Leased
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.database import AsyncConnection, text

LEASE_MAX_BYTES = 32 << 20
KEEP_PROCESSED_HOURS = 24  # OR-253


class LogRow(Struct, frozen=True, kw_only=True):
    """A row of `event_log`; its other columns are copied from the inbox."""

    id: str
    source_name: str
    repo_identifier: str | None
    ref: str | None
    sha: str | None
    status: str
    matched_count: int
    decisions: list[DeliveryDecision]
    error: str | None


class DeadLease(Struct, frozen=True, kw_only=True):
    id: str
    holder: str


# Oldest first, as many as fit into memory together; the first one always does.
_LEASE = text(f"""
WITH due AS (
    SELECT id, body_size, received_at, claimed_by AS holder FROM inbox
    WHERE processed_at IS NULL AND dlq_at IS NULL
      AND (next_retry_at IS NULL OR next_retry_at <= now())
      AND (claimed_at IS NULL OR claimed_at < now() - :lease_ms * interval '1 ms')
    ORDER BY received_at LIMIT :limit FOR UPDATE SKIP LOCKED
), fitting AS (
    SELECT id, holder FROM (
        SELECT id, holder, sum(body_size) OVER (ORDER BY received_at, id) AS total,
            row_number() OVER (ORDER BY received_at, id) AS place
        FROM due) sized
    WHERE total <= {LEASE_MAX_BYTES} OR place = 1
)
UPDATE inbox i SET claimed_at = now(), claimed_by = :claimed_by, attempts = i.attempts + 1
FROM fitting f WHERE i.id = f.id
RETURNING i.id, i.org_id, i.routing_key, i.delivery_id, i.event, i.action, i.headers::text AS headers, i.body,
    i.request_id, i.via, i.received_at, i.attempts, f.holder
""")

_RELEASE_EARLIER = text("""
UPDATE inbox SET claimed_at = NULL, claimed_by = NULL
WHERE processed_at IS NULL AND dlq_at IS NULL AND claimed_by LIKE :prefix AND claimed_by <> :claimed_by
""")

_RELEASE = text("""
UPDATE inbox SET claimed_at = NULL, claimed_by = NULL
WHERE processed_at IS NULL AND dlq_at IS NULL AND claimed_by = :claimed_by
""")

_FINISH = text("""
UPDATE inbox i SET processed_at = now(), claimed_at = NULL, claimed_by = NULL, last_error = NULL
FROM unnest(CAST(:ids AS uuid[]), CAST(:attempts AS int[])) AS k (id, attempts)
WHERE i.id = k.id AND i.claimed_by = :claimed_by AND i.attempts = k.attempts AND i.processed_at IS NULL
RETURNING i.id
""")

_LOG = text("""
INSERT INTO event_log (id, org_id, delivery_id, routing_key, source_name, event, action, via, repo_identifier,
    ref, sha, request_id, status, matched_count, decisions, error, headers, payload_size, received_at,
    processed_at)
SELECT i.id, i.org_id, i.delivery_id, i.routing_key, x.source_name, i.event, i.action, i.via,
    x.repo_identifier, x.ref, x.sha, i.request_id, x.status, x.matched_count, x.decisions, x.error, i.headers,
    i.body_size, i.received_at, now()
FROM json_to_recordset(CAST(:rows AS json)) AS x (
    id uuid, source_name text, repo_identifier text, ref text, sha text, status text, matched_count int,
    decisions jsonb, error text)
JOIN inbox i ON i.id = x.id
ON CONFLICT (id) DO UPDATE SET source_name = EXCLUDED.source_name,
    repo_identifier = EXCLUDED.repo_identifier, ref = EXCLUDED.ref, sha = EXCLUDED.sha,
    status = EXCLUDED.status, matched_count = EXCLUDED.matched_count, decisions = EXCLUDED.decisions,
    error = EXCLUDED.error, processed_at = EXCLUDED.processed_at
""")

_RETRY = text("""
UPDATE inbox SET claimed_at = NULL, claimed_by = NULL, last_error = :error,
    next_retry_at = now() + :delay_ms * interval '1 ms'
WHERE id = :id AND claimed_by = :claimed_by AND attempts = :attempts AND processed_at IS NULL
""")

_BURY = text("""
UPDATE inbox SET claimed_at = NULL, claimed_by = NULL, last_error = :error, dlq_at = now()
WHERE id = :id AND claimed_by = :claimed_by AND attempts = :attempts AND processed_at IS NULL
RETURNING id
""")

_REVIVE = text("""
UPDATE inbox SET dlq_at = NULL, attempts = 0, next_retry_at = NULL
WHERE org_id = :org_id AND delivery_id = :delivery_id AND dlq_at IS NOT NULL AND processed_at IS NULL
""")

_DEPTH = text("""
SELECT count(*) AS depth, coalesce(extract(epoch FROM now() - min(received_at)), 0)::float8 AS lag_seconds
FROM inbox WHERE processed_at IS NULL AND dlq_at IS NULL
""")

_CLEAN = text(f"""
DELETE FROM inbox WHERE id IN (
    SELECT id FROM inbox WHERE processed_at < now() - interval '{KEEP_PROCESSED_HOURS} hours'
        AND dedup_until < now() ORDER BY processed_at LIMIT :limit)
""")


async def lease(
    tx: AsyncConnection, *, claimed_by: str, lease_ms: int, limit: int
) -> tuple[list[Leased], list[DeadLease]]:
    """Claimed rows, oldest first, and those among them whose earlier holder never came back (OR-96)."""
    rows = (
        (await tx.execute(_LEASE, {"claimed_by": claimed_by, "lease_ms": lease_ms, "limit": limit}))
        .mappings()
        .all()
    )
    leased: list[Leased] = []
    dead: list[DeadLease] = []
    for row in sorted(rows, key=lambda row: row["received_at"]):
        fields: dict[str, Any] = dict(row)
        holder = fields.pop("holder")
        leased.append(Leased(**fields))
        if holder is not None:
            dead.append(DeadLease(id=fields["id"], holder=holder))
    return leased, dead


async def release_earlier(tx: AsyncConnection, *, instance_id: str, claimed_by: str) -> int:
    """Claims of earlier lives of this instance: it is we who would have to come back for them."""
    escaped = instance_id.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    done = await tx.execute(_RELEASE_EARLIER, {"prefix": f"{escaped}/%", "claimed_by": claimed_by})
    return done.rowcount


async def release(tx: AsyncConnection, *, claimed_by: str) -> int:
    return (await tx.execute(_RELEASE, {"claimed_by": claimed_by})).rowcount


async def finish(tx: AsyncConnection, rows: Sequence[Leased], *, claimed_by: str) -> set[str]:
    """Mark as processed what is still ours; the rest belongs to somebody else by now (OR-94)."""
    result = await tx.execute(
        _FINISH,
        {
            "ids": [row.id for row in rows],
            "attempts": [row.attempts for row in rows],
            "claimed_by": claimed_by,
        },
    )
    return set(result.scalars())


async def write_log(tx: AsyncConnection, rows: Sequence[LogRow]) -> None:
    """A second decision about a delivery updates the outcome only (OR-36)."""
    await tx.execute(_LOG, {"rows": encode_rows(rows)})


async def retry_later(
    tx: AsyncConnection, row: Leased, *, claimed_by: str, error: str, delay_ms: int
) -> None:
    await tx.execute(
        _RETRY,
        {
            "id": row.id,
            "attempts": row.attempts,
            "claimed_by": claimed_by,
            "error": error,
            "delay_ms": delay_ms,
        },
    )


async def bury(tx: AsyncConnection, row: Leased, *, claimed_by: str, error: str) -> bool:
    """To the dead letters, when the row is still ours."""
    done = await tx.execute(
        _BURY, {"id": row.id, "attempts": row.attempts, "claimed_by": claimed_by, "error": error}
    )
    return done.first() is not None


async def revive(tx: AsyncConnection, org_id: str, delivery_id: str) -> bool:
    """From the dead letters back into the inbox."""
    return (await tx.execute(_REVIVE, {"org_id": org_id, "delivery_id": delivery_id})).rowcount > 0


async def depth(tx: AsyncConnection) -> tuple[int, float]:
    """Deliveries not processed, and the age of the oldest in seconds."""
    row = (await tx.execute(_DEPTH)).one()
    return row.depth, row.lag_seconds


async def clean(tx: AsyncConnection, *, limit: int) -> int:
    """Forget processed deliveries whose dedup window is over; their event log rows stay."""
    return (await tx.execute(_CLEAN, {"limit": limit})).rowcount


_PENDING_VIEW = """
    SELECT i.id, i.delivery_id, i.routing_key, coalesce(s.name, '') AS source_name, i.event, i.action, i.via,
        'received' AS status, NULL AS repo_identifier, NULL AS ref, i.request_id, i.received_at,
        NULL::timestamptz AS processed_at, 0 AS matched_count, i.last_error AS error, '[]' AS decisions
    FROM inbox i LEFT JOIN sources s ON s.id = i.source_id
    WHERE i.org_id = :org_id AND i.processed_at IS NULL AND i.dlq_at IS NULL
"""
_LOGGED_VIEW = """
    SELECT id, delivery_id, routing_key, source_name, event, action, via, status, repo_identifier, ref,
        request_id, received_at, processed_at, matched_count, error, decisions::text AS decisions
    FROM event_log WHERE org_id = :org_id
"""

_PAGE = text(f"""
SELECT * FROM (
    (SELECT * FROM ({_PENDING_VIEW}) pending
     WHERE (received_at, id) < (CAST(:before_at AS timestamptz), CAST(:before_id AS uuid))
     ORDER BY received_at DESC, id DESC LIMIT :limit)
    UNION ALL
    (SELECT * FROM ({_LOGGED_VIEW}) logged
     WHERE (received_at, id) < (CAST(:before_at AS timestamptz), CAST(:before_id AS uuid))
     ORDER BY received_at DESC, id DESC LIMIT :limit)
) deliveries ORDER BY received_at DESC, id DESC LIMIT :limit
""")

_ONE = text(f"""
SELECT * FROM (({_PENDING_VIEW} AND i.delivery_id = :delivery_id)
               UNION ALL ({_LOGGED_VIEW} AND delivery_id = :delivery_id)) found
ORDER BY received_at DESC LIMIT 1
""")

_PAYLOAD = text("""
SELECT r.event->>'rawEvent' AS raw_event, r.event->>'type' AS type, (r.event->'payload')::text AS payload,
    coalesce(l.headers, '{}')::text AS headers, coalesce(l.payload_size, 0) AS size_bytes
FROM execution_runs r LEFT JOIN event_log l ON l.id = r.inbox_id
WHERE r.org_id = :org_id AND r.id = CAST(:run_id AS uuid) AND r.inbox_id IS NOT NULL
""")


async def page(
    tx: AsyncConnection, org_id: str, *, limit: int, before_at: Any, before_id: str
) -> list[dict[str, Any]]:
    values = {"org_id": org_id, "limit": limit, "before_at": before_at, "before_id": before_id}
    return [dict(row) for row in (await tx.execute(_PAGE, values)).mappings()]


async def one(tx: AsyncConnection, org_id: str, delivery_id: str) -> dict[str, Any] | None:
    row = (await tx.execute(_ONE, {"org_id": org_id, "delivery_id": delivery_id})).mappings().first()
    return None if row is None else dict(row)


async def payload(tx: AsyncConnection, org_id: str, run_id: str) -> dict[str, Any] | None:
    row = (await tx.execute(_PAYLOAD, {"org_id": org_id, "run_id": run_id})).mappings().first()
    return None if row is None else dict(row)


decode_decisions = msgspec.json.Decoder(list[DeliveryDecision]).decode
