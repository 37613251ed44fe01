"""One task applies what all agents report: it drains a bounded queue, commits a batch, then acknowledges.

Idle, a report is applied at once. Under load the queue fills while a transaction runs, so that the next
one carries more. Connections wait when the queue is full: their sockets are then not read (AG-9).
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from msgspec import Struct
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.reports import JobMessage, Report, apply
from kici.protocol.agent_v1 import JobAck, JobReject, JobStatusUpdate
from kici.runtime.logging import get_logger
from kici.spec.states import JOB_TERMINAL

log = get_logger(__name__)

T = TypeVar("T")

MAX_WAITING = 2048
MAX_BATCH = 512
SPACING_S = 0.010  # between batches that hold nothing urgent
_LONGEST_PAUSE_S = 2.0
# Classes of SQLSTATE: bad data, constraints, limits. Retrying is pointless; all else may pass.
_HOPELESS = ("22", "23", "54")


class _Item(Struct, frozen=True):
    connection: Connection
    seq: int  # 0: not numbered
    message: JobMessage


class _Work(Struct, frozen=True):
    """Something that must happen after all that was reported before it."""

    body: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Applier:
    def __init__(self, execution: Execution, hub: Hub) -> None:
        self._execution = execution
        self._hub = hub
        self._queue: asyncio.Queue[_Item | _Work] = asyncio.Queue(MAX_WAITING)
        self._urgent = asyncio.Event()

    async def put(self, connection: Connection, seq: int, message: JobMessage) -> None:
        """Waits while the queue is full. The frame is acknowledged when its batch is committed."""
        if _is_urgent(message):
            self._urgent.set()
        await self._queue.put(_Item(connection, seq, message))

    async def in_order(self, body: Callable[[], Awaitable[T]], *, timeout_s: float = 30.0) -> T:
        """Run `body` after everything that is queued now and before what comes later."""
        work = _Work(body, asyncio.get_running_loop().create_future())
        self._urgent.set()
        async with asyncio.timeout(timeout_s):
            await self._queue.put(work)
            return await work.done

    async def caught_up(self) -> None:
        """When everything is applied that is queued now. Raises TimeoutError."""
        await self.in_order(_nothing)

    async def run(self) -> None:
        """For ever. A batch that was taken is applied even when that takes many tries."""
        loop = asyncio.get_running_loop()
        last_batch_at = 0.0
        while True:
            first = await self._queue.get()
            pause_s = last_batch_at + SPACING_S - loop.time()
            if pause_s > 0 and not self._urgent.is_set() and self._queue.qsize() < MAX_BATCH:
                try:
                    async with asyncio.timeout(pause_s):
                        await self._urgent.wait()
                except TimeoutError:
                    pass
            self._urgent.clear()
            batch: list[_Item] = []
            item: _Item | _Work | None = first
            while isinstance(item, _Item):
                batch.append(item)
                full = len(batch) >= MAX_BATCH
                item = None if full or self._queue.empty() else self._queue.get_nowait()
            if batch:
                await self._settle(batch)
            if item is not None:
                await self._perform(item)
            last_batch_at = loop.time()

    async def _perform(self, work: _Work) -> None:
        if work.done.done():  # its asker gave up
            return
        try:
            result = await work.body()
        except Exception as error:
            if not work.done.done():
                work.done.set_exception(error)
        else:
            if not work.done.done():
                work.done.set_result(result)

    async def _settle(self, batch: list[_Item]) -> None:
        await self._apply(batch)
        now = asyncio.get_running_loop().time()
        for item in batch:
            connection, message = item.connection, item.message
            match message:
                case JobAck():
                    connection.accepted()
                case JobReject():
                    connection.rejected(message.reason, now)
                    self._hub.let_go(connection, (message.job_id, message.attempt))
                case JobStatusUpdate() if message.state in JOB_TERMINAL:
                    self._hub.let_go(connection, (message.job_id, message.attempt))
                case _:
                    pass
            if item.seq:
                connection.settle(item.seq)

    async def _apply(self, batch: list[_Item]) -> None:
        """Commits the batch, however long the database is away. What it can never take is left out."""
        pause_s = 0.05
        while True:
            try:
                await self._commit(batch)
                return
            except Exception as error:
                if _hopeless(error):
                    await self._apply_apart(batch, error)
                    return
                log.error("reports.not_applied", messages=len(batch), retry_in_s=pause_s, exc_info=error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _commit(self, batch: list[_Item]) -> None:
        execution = self._execution
        reports = [
            Report(item.connection.identity.agent_id, item.connection.identity.session_id, item.message)
            for item in batch
        ]
        async with execution.change() as change:
            dropped = await apply(change, reports, max_attempts=execution.limits.max_job_attempts)
        for report, reason in dropped:
            execution.metrics.agent_messages_dropped.labels(reason).inc()
            log.info(
                "report.ignored",
                reason=reason,
                type=type(report.message).__name__,
                agent_id=report.agent_id,
                job_id=report.message.job_id,
                attempt=report.message.attempt,
            )

    async def _apply_apart(self, batch: list[_Item], error: Exception) -> None:
        """One message spoils its whole batch: find it, drop it, keep the rest."""
        if len(batch) == 1:
            message = batch[0].message
            self._execution.metrics.agent_messages_dropped.labels("unusable").inc()
            log.error(
                "report.unusable",
                type=type(message).__name__,
                agent_id=batch[0].connection.identity.agent_id,
                job_id=message.job_id,
                exc_info=error,
            )
            return
        middle = len(batch) // 2
        await self._apply(batch[:middle])
        await self._apply(batch[middle:])


async def _nothing() -> None:
    return


def _is_urgent(message: JobMessage) -> bool:
    """Somebody waits for it: an end frees an agent and readies other jobs."""
    return isinstance(message, JobReject) or (
        isinstance(message, JobStatusUpdate) and message.state in JOB_TERMINAL
    )


def _hopeless(error: Exception) -> bool:
    if isinstance(error, DBAPIError):
        state = getattr(error.orig, "sqlstate", None)
        return isinstance(state, str) and state.startswith(_HOPELESS)
    return not isinstance(error, SQLAlchemyError | OSError | TimeoutError)
