"""Outbox rows to the Platform: in order, in batches, kept until acknowledged (PD-15, PD-33).

A row is deleted only after the Platform committed it; whatever cuts in between, the next session
sends the row again, and `rev` makes that harmless. Rows are passed on as text, not decoded.

An idle sender answers a hint at once. Under load it reads at most every READ_GAP_SECONDS and settles
acknowledged rows in the same statement, so that its cost does not grow with the number of commits.
"""

import asyncio
from collections.abc import Awaitable, Callable

from kici.orchestrator.link import queries
from kici.orchestrator.link.queries import OutboxRow
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

TOPIC = "platform"
CHANNEL = "outbox"
BATCH_ROWS = 200
BATCH_BYTES = 256 << 10
READ_ROWS = 500
READ_BYTES = 1 << 20
IN_FLIGHT_ROWS = 2000
IN_FLIGHT_BYTES = 4 << 20
READ_GAP_SECONDS = 0.025
SETTLE_SECONDS = 0.05  # how long acknowledged rows wait for company
SWEEP_SECONDS = 5.0  # how often every row is looked at
LATE_ROWS = 2000  # so far behind the newest row a late commit is found at once, else by the sweep
DATABASE_SECONDS = 15.0

Send = Callable[[bytes], Awaitable[None]]


def batch_frame(batch_id: int, rows: list[OutboxRow]) -> bytes:
    """A `projection.batch` text frame; each row's payload gets its sequence number as `rev`."""
    items = ",".join(f'{{"rev":{row.seq},{row.payload[1:]}' for row in rows)
    return f'{{"type":"projection.batch","batchId":{batch_id},"items":[{items}]}}'.encode()


def batches(rows: list[OutboxRow]) -> list[list[OutboxRow]]:
    """In order, none larger than BATCH_ROWS or, but for a single row, BATCH_BYTES."""
    cut: list[list[OutboxRow]] = []
    size = 0
    for row in rows:
        size += len(row.payload)
        if not cut or len(cut[-1]) >= BATCH_ROWS or size > BATCH_BYTES:
            cut.append([])
            size = len(row.payload)
        cut[-1].append(row)
    return cut


class ProjectionSender:
    """One per process; `run` once per session, `acknowledged` for each answer."""

    def __init__(self, engine: AsyncEngine, wakeups: Wakeups, metrics: Metrics) -> None:
        # One statement is one transaction: no BEGIN and COMMIT round trips.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._wakeups = wakeups
        self._sent = metrics.counter("outbox_rows_sent_total", "Rows given to the Platform")
        self._in_flight: dict[int, list[OutboxRow]] = {}  # by batch
        self._rows = 0
        self._bytes = 0
        self._settled: list[int] = []
        self._next_batch = 1
        self._newest = 0  # highest row read
        self._swept = 0.0  # when all rows were looked at
        self._hint = asyncio.Event()
        self._any = asyncio.Event()

    async def run(self, send: Send) -> None:
        """Sends for the length of one session."""
        self._in_flight.clear()
        self._rows = self._bytes = 0
        self._newest = 0
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._hear(), name="link.outbox.hints")
            tasks.create_task(self._send_all(send), name="link.outbox.send")

    def acknowledged(self, batch_id: int) -> None:
        """The Platform has committed the batch."""
        rows = self._in_flight.pop(batch_id, None)
        if rows is None:
            return
        self._rows -= len(rows)
        self._bytes -= sum(len(row.payload) for row in rows)
        self._settled.extend(row.seq for row in rows)
        self._any.set()

    async def _hear(self) -> None:
        while True:
            self._hint.set()  # also at start and after each sweep period: a hint may be lost
            self._any.set()
            await self._wakeups.wait(CHANNEL, sweep_seconds=SWEEP_SECONDS)

    async def _send_all(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        last = -1.0
        while True:
            await self._any.wait()
            self._any.clear()
            if not self._hint.is_set():
                try:
                    async with asyncio.timeout(SETTLE_SECONDS):
                        await self._hint.wait()
                except TimeoutError:
                    pass
            gap = last + READ_GAP_SECONDS - loop.time()
            if gap > 0:
                await asyncio.sleep(gap)
            self._hint.clear()
            full = await self._exchange(send)
            last = loop.time()
            if full:
                last -= READ_GAP_SECONDS
                self._hint.set()
                self._any.set()

    async def _exchange(self, send: Send) -> bool:
        """True: there is more to read now."""
        room = self._rows < IN_FLIGHT_ROWS and self._bytes < IN_FLIGHT_BYTES
        if not room:
            self._hint.set()  # what was heard is read once there is room
            if not self._settled:
                return False
        now = asyncio.get_running_loop().time()
        floor = self._newest - LATE_ROWS
        if now - self._swept >= SWEEP_SECONDS:
            floor = 0
        settled, self._settled = self._settled, []
        held = [row.seq for rows in self._in_flight.values() for row in rows]
        try:
            async with asyncio.timeout(DATABASE_SECONDS), self._engine.connect() as tx:
                rows = await queries.exchange(
                    tx,
                    TOPIC,
                    settled=settled,
                    in_flight=held,
                    floor=max(0, floor),
                    max_rows=READ_ROWS if room else 0,
                    max_bytes=READ_BYTES,
                )
        except Exception as error:
            self._settled[:0] = settled  # removing a row twice is harmless
            log.warning("outbox.not_readable", reason=f"{type(error).__name__}: {error}")
            await asyncio.sleep(1.0)
            self._hint.set()
            self._any.set()
            return False
        if floor <= 0:
            self._swept = now
        if rows:
            self._newest = max(self._newest, rows[-1].seq)
        for batch in batches(rows):
            batch_id, self._next_batch = self._next_batch, self._next_batch + 1
            self._in_flight[batch_id] = batch
            self._rows += len(batch)
            self._bytes += sum(len(row.payload) for row in batch)
            await send(batch_frame(batch_id, batch))
            self._sent.inc(len(batch))
        return len(rows) >= READ_ROWS or sum(len(row.payload) for row in rows) >= READ_BYTES
