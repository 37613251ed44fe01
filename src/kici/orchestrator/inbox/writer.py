"""Putting deliveries on disk: whoever asks while a commit is under way shares the next one.

No timer: a lone delivery is written at once, and under load the batch is as large as what arrived during
the last commit (group commit). Bounded in rows and bytes; over that, the sender is told to come back.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import ClassVar

from msgspec import Struct

from kici.orchestrator.inbox.delivery import Via
from kici.runtime.backoff import supervised
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

MAX_BATCH_ROWS = 256
MAX_BATCH_BYTES = 8 << 20
MAX_WAITING_ROWS = 4096
MAX_WAITING_BYTES = 128 << 20
STORE_TIMEOUT_S = 4  # the Platform waits 5 s for an answer (OR-31)


class InboxUnavailable(KiciError):
    """Not stored: the sender (or the Platform) keeps the delivery and tries again."""

    code: ClassVar[str] = "unavailable"
    status: ClassVar[int] = 503

    headers: ClassVar[dict[str, str]] = {"Retry-After": "5"}


class InboxRow(Struct, frozen=True, kw_only=True):
    """A verified delivery. `headers` is JSON text."""

    id: str
    org_id: str
    source_id: str
    routing_key: str
    delivery_id: str
    event: str
    action: str | None
    headers: str
    body: bytes
    request_id: str
    via: Via
    dedup_window_s: int

    @property
    def dedup_key(self) -> str:
        """OR-34; one key for both ways in, so that relay and direct are deduplicated together."""
        return f"{self.routing_key}:{self.delivery_id}"


class Stored(Struct, frozen=True, kw_only=True):
    """`id` is the row's, an earlier one's when `duplicate`."""

    id: str
    duplicate: bool


class StoredRow(Struct, frozen=True, kw_only=True):
    """What is handed on to the worker in this process, claimed by the insert itself."""

    row: InboxRow
    received_at: datetime


class _Waiting(Struct, frozen=True, kw_only=True, eq=False):
    row: InboxRow
    done: asyncio.Future[Stored]


# Rows claimed at birth go straight to this process's worker: that saves a lease, its commit and reading
# the body back. After a crash the lease rules hand them to somebody else.
_INSERT = text("""
INSERT INTO inbox (id, org_id, source_id, routing_key, dedup_key, dedup_until, delivery_id, event, action,
                   headers, body, body_size, request_id, via, claimed_at, claimed_by, attempts)
SELECT x.id, x.org_id, x.source_id, x.routing_key, x.dedup_key, now() + x.dedup_window_s * interval '1 s',
    x.delivery_id, x.event, x.action, CAST(x.headers AS jsonb), x.body, length(x.body), x.request_id, x.via,
    CASE WHEN x.claimed THEN now() END, CASE WHEN x.claimed THEN CAST(:claimed_by AS text) END,
    CAST(x.claimed AS int)
FROM unnest(CAST(:ids AS uuid[]), CAST(:orgs AS text[]), CAST(:sources AS uuid[]),
            CAST(:routing_keys AS text[]), CAST(:dedup_keys AS text[]), CAST(:windows AS int[]),
            CAST(:delivery_ids AS text[]), CAST(:events AS text[]), CAST(:actions AS text[]),
            CAST(:headers AS text[]), CAST(:bodies AS bytea[]), CAST(:request_ids AS text[]),
            CAST(:vias AS text[]), CAST(:claimed AS boolean[]))
    AS x (id, org_id, source_id, routing_key, dedup_key, dedup_window_s, delivery_id, event, action, headers,
          body, request_id, via, claimed)
ORDER BY x.org_id, x.dedup_key
ON CONFLICT (org_id, dedup_key) DO NOTHING
RETURNING id, received_at
""")

# A key that comes back after its window is a new delivery (OR-34): the old row makes room.
_EXPIRE = text("""
UPDATE inbox i SET dedup_key = i.dedup_key || '#' || i.id
FROM unnest(CAST(:orgs AS text[]), CAST(:keys AS text[])) AS k (org_id, dedup_key)
WHERE i.org_id = k.org_id AND i.dedup_key = k.dedup_key AND i.dedup_until < now()
""")

_EXISTING = text("""
SELECT i.id, i.org_id, i.dedup_key
FROM unnest(CAST(:orgs AS text[]), CAST(:keys AS text[])) AS k (org_id, dedup_key)
JOIN inbox i USING (org_id, dedup_key)
""")


class InboxWriter:
    """`reserve(n)` answers how many of n rows the worker takes at once; `deliver` hands those over after
    the commit; `released(n)` gives back places that turned out not to be needed."""

    def __init__(
        self,
        engine: AsyncEngine,
        *,
        claimed_by: str,
        reserve: Callable[[int], int],
        release: Callable[[int], None],
        deliver: Callable[[list[StoredRow]], None],
        wake: Callable[[], None],
    ) -> None:
        self._engine = engine
        self._claimed_by = claimed_by
        self._reserve = reserve
        self._release = release
        self._deliver = deliver
        self._wake = wake
        self._waiting: deque[_Waiting] = deque()
        self._waiting_bytes = 0
        self._some = asyncio.Event()

    async def store(self, row: InboxRow) -> Stored:
        """Returns when the row is on disk. Raises InboxUnavailable."""
        if len(self._waiting) >= MAX_WAITING_ROWS or self._waiting_bytes >= MAX_WAITING_BYTES:
            raise InboxUnavailable("too many deliveries arrive at once")
        done: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(row=row, done=done))
        self._waiting_bytes += len(row.body)
        self._some.set()
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await done
        except TimeoutError as error:
            raise InboxUnavailable("the database did not store the delivery in time") from error

    async def run(self) -> None:
        """Writes for ever."""
        await supervised("inbox.writer", self._write_batches)

    async def _write_batches(self) -> None:
        while True:
            await self._some.wait()
            batch = self._take()
            if not batch:
                self._some.clear()
                continue
            try:
                async with asyncio.timeout(STORE_TIMEOUT_S):
                    stored = await self._write([waiting.row for waiting in batch])
            except BaseException as error:
                unavailable = InboxUnavailable("the database does not take deliveries now")
                for waiting in batch:
                    if not waiting.done.done():
                        waiting.done.set_exception(unavailable)
                        waiting.done.exception()  # its asker may have gone: that is no news
                if not isinstance(error, Exception):
                    raise
                log.error("inbox.write_failed", deliveries=len(batch), exc_info=error)
                continue
            for waiting, result in zip(batch, stored, strict=True):
                if not waiting.done.done():
                    waiting.done.set_result(result)

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        size = 0
        while self._waiting and len(batch) < MAX_BATCH_ROWS:
            if batch and size + len(self._waiting[0].row.body) > MAX_BATCH_BYTES:
                break
            waiting = self._waiting.popleft()
            self._waiting_bytes -= len(waiting.row.body)
            if waiting.done.done():  # given up: its sender has been told to come back
                continue
            size += len(waiting.row.body)
            batch.append(waiting)
        return batch

    async def _write(self, rows: list[InboxRow]) -> list[Stored]:
        places = self._reserve(len(rows))
        delivered = 0
        try:
            async with self._engine.begin() as tx:
                fresh = await self._insert(tx, rows, places)
                doubles = [row for row in rows if row.id not in fresh]
                earlier: dict[tuple[str, str], str] = {}
                if doubles:
                    keys = {
                        "orgs": [row.org_id for row in doubles],
                        "keys": [row.dedup_key for row in doubles],
                    }
                    if (await tx.execute(_EXPIRE, keys)).rowcount:
                        fresh |= await self._insert(tx, doubles, 0)
                    found = await tx.execute(_EXISTING, keys)
                    earlier = {(entry.org_id, entry.dedup_key): entry.id for entry in found}
            taken = [
                StoredRow(row=row, received_at=fresh[row.id]) for row in rows[:places] if row.id in fresh
            ]
            if taken:
                self._deliver(taken)
                delivered = len(taken)
            if len(fresh) > delivered:
                self._wake()
        finally:
            self._release(places - delivered)
        return [
            Stored(id=row.id, duplicate=False)
            if row.id in fresh
            else Stored(id=earlier[row.org_id, row.dedup_key], duplicate=True)
            for row in rows
        ]

    async def _insert(self, tx: AsyncConnection, rows: list[InboxRow], places: int) -> dict[str, datetime]:
        """Ids that are new, with the time of receipt."""
        result = await tx.execute(
            _INSERT,
            {
                "ids": [row.id for row in rows],
                "orgs": [row.org_id for row in rows],
                "sources": [row.source_id for row in rows],
                "routing_keys": [row.routing_key for row in rows],
                "dedup_keys": [row.dedup_key for row in rows],
                "windows": [row.dedup_window_s for row in rows],
                "delivery_ids": [row.delivery_id for row in rows],
                "events": [row.event for row in rows],
                "actions": [row.action for row in rows],
                "headers": [row.headers for row in rows],
                "bodies": [row.body for row in rows],
                "request_ids": [row.request_id for row in rows],
                "vias": [row.via for row in rows],
                "claimed": [number < places for number in range(len(rows))],
                "claimed_by": self._claimed_by,
            },
        )
        return {entry.id: entry.received_at for entry in result}
