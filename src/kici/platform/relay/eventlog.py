"""What came in and what became of it, one row per webhook, written behind the answers in batches."""

import asyncio
from collections import deque
from datetime import datetime
from typing import Literal

import msgspec
from msgspec import Struct

from kici.runtime.backoff import supervised
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

MAX_BUFFERED = 10_000
FLUSH_SECONDS = 0.5
_FLUSH_ROWS = 500

EventStatus = Literal["received", "duplicate", "queued", "replayed", "expired", "rejected", "failed"]


class LoggedEvent(Struct, frozen=True, kw_only=True):
    org_id: str
    request_id: str
    routing_key: str
    source_name: str
    event: str | None
    delivery_id: str | None
    status: EventStatus
    http_status: int
    reason: str | None
    size_bytes: int
    client_ip: str | None
    received_at: datetime
    settled_at: datetime


_INSERT = text("""
    INSERT INTO event_log (org_id, request_id, routing_key, source_name, event, delivery_id, status,
                           http_status, reason, size_bytes, client_ip, received_at, settled_at)
    SELECT DISTINCT ON (x.org_id, x.request_id) x.*
    FROM jsonb_to_recordset(CAST(:rows AS jsonb)) AS x(
        org_id text, request_id text, routing_key text, source_name text, event text, delivery_id text,
        status text, http_status int, reason text, size_bytes int, client_ip text,
        received_at timestamptz, settled_at timestamptz)
    ORDER BY x.org_id, x.request_id, x.settled_at DESC
    ON CONFLICT (org_id, request_id) DO UPDATE SET
        status = excluded.status, delivery_id = coalesce(excluded.delivery_id, event_log.delivery_id),
        reason = excluded.reason, settled_at = excluded.settled_at
""")


class EventLog:
    """`note` never waits. When the database is away the newest 10,000 rows are kept (PD-30)."""

    def __init__(self, engine: AsyncEngine, metrics: Metrics) -> None:
        self._engine = engine
        self._rows: deque[LoggedEvent] = deque()
        self._full = asyncio.Event()
        self._dropped = metrics.counter(
            "platform_event_log_dropped_total", "Event-log rows lost to the bound"
        )

    def note(self, row: LoggedEvent) -> None:
        if len(self._rows) >= MAX_BUFFERED:
            self._rows.popleft()
            self._dropped.inc()
        self._rows.append(row)
        if len(self._rows) >= _FLUSH_ROWS:
            self._full.set()

    async def run(self) -> None:
        """Writes for ever."""
        await supervised("event_log", self._loop)

    async def _loop(self) -> None:
        while True:
            try:
                async with asyncio.timeout(FLUSH_SECONDS):
                    await self._full.wait()
            except TimeoutError:
                pass
            self._full.clear()
            await self.flush()

    async def flush(self) -> None:
        """Everything that is buffered now; on failure it stays buffered."""
        while self._rows:
            batch = [self._rows[place] for place in range(min(len(self._rows), _FLUSH_ROWS))]
            async with self._engine.begin() as tx:
                await tx.execute(_INSERT, {"rows": msgspec.json.encode(batch).decode()})
            written = {id(row) for row in batch}
            while self._rows and id(self._rows[0]) in written:
                self._rows.popleft()
