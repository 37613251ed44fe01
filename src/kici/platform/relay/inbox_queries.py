"""Statements on webhook_inbox and the row that bounds it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from kici.runtime.database import AsyncConnection, text

EXPIRE_ROWS = 500

# The usage row is locked until the transaction ends: that is why webhooks are kept in batches.
_LOCK_USAGE = text("""
    INSERT INTO webhook_inbox_usage AS u (org_id, entries, bytes) VALUES (:org_id, 0, 0)
    ON CONFLICT (org_id) DO UPDATE SET entries = u.entries
    RETURNING entries, bytes
""")
_INSERT = text("""
    INSERT INTO webhook_inbox (id, org_id, routing_key, request_id, sealed, size_bytes, received_at, expires_at)
    VALUES (:id, :org_id, :routing_key, :request_id, :sealed, :size, :received_at, :expires_at)
""")
_USE = text("""
    UPDATE webhook_inbox_usage SET entries = entries + :entries, bytes = bytes + :bytes WHERE org_id = :org_id
""")
_OLDEST = text("""
    SELECT id, sealed, size_bytes, received_at FROM webhook_inbox
    WHERE org_id = :org_id AND routing_key = :routing_key ORDER BY id LIMIT :limit
""")
_REMOVE = text("""
    WITH gone AS (
        DELETE FROM webhook_inbox WHERE id = ANY(CAST(:ids AS uuid[])) RETURNING org_id, size_bytes)
    UPDATE webhook_inbox_usage u SET entries = u.entries - g.entries, bytes = u.bytes - g.bytes
    FROM (SELECT org_id, count(*) AS entries, sum(size_bytes) AS bytes FROM gone GROUP BY org_id) g
    WHERE u.org_id = g.org_id
""")
_EXPIRE = text(f"""
    WITH gone AS (
        DELETE FROM webhook_inbox WHERE id IN (
            SELECT id FROM webhook_inbox WHERE expires_at <= :now
            ORDER BY expires_at LIMIT {EXPIRE_ROWS} FOR UPDATE SKIP LOCKED)
        RETURNING org_id, routing_key, request_id, size_bytes, received_at),
    freed AS (
        UPDATE webhook_inbox_usage u SET entries = u.entries - g.entries, bytes = u.bytes - g.bytes
        FROM (SELECT org_id, count(*) AS entries, sum(size_bytes) AS bytes FROM gone GROUP BY org_id) g
        WHERE u.org_id = g.org_id)
    SELECT org_id, routing_key, request_id, size_bytes, received_at FROM gone
""")
_WAITING = text("""
    SELECT org_id, routing_key, count(*) AS entries, sum(size_bytes) AS bytes
    FROM webhook_inbox GROUP BY org_id, routing_key
""")


async def lock_usage(tx: AsyncConnection, org_id: str) -> tuple[int, int]:
    """Entries and bytes; nobody else changes them until `tx` ends."""
    row = (await tx.execute(_LOCK_USAGE, {"org_id": org_id})).one()
    return row.entries, row.bytes


async def insert(tx: AsyncConnection, rows: Sequence[dict[str, object]]) -> None:
    await tx.execute(_INSERT, rows)


async def use(tx: AsyncConnection, org_id: str, entries: int, size: int) -> None:
    await tx.execute(_USE, {"org_id": org_id, "entries": entries, "bytes": size})


async def oldest(tx: AsyncConnection, org_id: str, routing_key: str, limit: int) -> Sequence[Row[Any]]:
    """In arrival order."""
    found = await tx.execute(_OLDEST, {"org_id": org_id, "routing_key": routing_key, "limit": limit})
    return found.all()


async def remove(tx: AsyncConnection, ids: Sequence[str]) -> None:
    """Frees their room. Rows that are gone already count for nothing."""
    await tx.execute(_REMOVE, {"ids": list(ids)})


async def expire(tx: AsyncConnection, now: datetime) -> Sequence[Row[Any]]:
    """At most EXPIRE_ROWS that are too old."""
    return (await tx.execute(_EXPIRE, {"now": now})).all()


async def waiting(tx: AsyncConnection) -> Sequence[Row[Any]]:
    return (await tx.execute(_WAITING)).all()


async def oldest_received_at(tx: AsyncConnection) -> datetime | None:
    return await tx.scalar(text("SELECT min(received_at) FROM webhook_inbox"))
