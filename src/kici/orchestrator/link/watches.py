"""Logs that the Platform follows: records go to it as the agent made them, at the socket's pace."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal, Protocol

from prometheus_client import Gauge
from websockets.exceptions import ConnectionClosed

from kici.orchestrator.logs.streams import LogNotFound
from kici.protocol.frames import pack_watched_block
from kici.protocol.platform_v1 import LogWatch, LogWatchEnded, encode
from kici.runtime.logging import get_logger

log = get_logger(__name__)

MAX_WATCHES = 2000
AGAIN_SECONDS = 1.0

SendBytes = Callable[[bytes], Awaitable[None]]
SendText = Callable[[bytes], Awaitable[None]]


class Logs(Protocol):
    """`kici.orchestrator.logs.service.LogService`, as far as watching needs it."""

    def watch(
        self, org_id: str, run_id: str, job_id: str, step_index: int, from_line: int
    ) -> AsyncGenerator[bytes]: ...


class Watches:
    """Of one session, in its task group. One block at a time is on its way to the socket, whoever
    follows however many logs: answers to webhooks and requests wait for no more than that."""

    def __init__(
        self,
        logs: Logs,
        org_id: str,
        tasks: asyncio.TaskGroup,
        *,
        send_bytes: SendBytes,
        send_text: SendText,
        gauge: Gauge,
    ) -> None:
        self._logs = logs
        self._org_id = org_id
        self._tasks = tasks
        self._send_bytes = send_bytes
        self._send_text = send_text
        self._gauge = gauge
        self._turn = asyncio.Lock()
        self._open: dict[int, asyncio.Task[None]] = {}

    def start(self, asked: LogWatch) -> None:
        if asked.watch_id in self._open:
            log.warning("platform.watch_repeated", watch=asked.watch_id)
            return
        task = self._tasks.create_task(self._follow(asked), name="link.watch")
        self._open[asked.watch_id] = task
        self._gauge.set(len(self._open))
        task.add_done_callback(lambda _task: self._ended(asked.watch_id))

    def stop(self, watch_id: int) -> None:
        task = self._open.get(watch_id)
        if task is not None:
            task.cancel()

    def _ended(self, watch_id: int) -> None:
        self._open.pop(watch_id, None)
        self._gauge.set(len(self._open))

    async def _follow(self, asked: LogWatch) -> None:
        reason: Literal["complete", "not_found", "overflow"] = "complete"
        try:
            if len(self._open) > MAX_WATCHES:
                raise LogNotFound(f"more than {MAX_WATCHES} logs are followed")
            await self._relay(asked)
        except ConnectionClosed:
            raise
        except LogNotFound as error:
            log.info("platform.watch_refused", run_id=asked.run_id, job_id=asked.job_id, reason=str(error))
            reason = "not_found"
        except Exception as error:
            log.error("platform.watch_failed", run_id=asked.run_id, job_id=asked.job_id, exc_info=error)
            await asyncio.sleep(AGAIN_SECONDS)
            reason = "overflow"  # the Platform asks again, from where it stopped
        await self._send_text(encode(LogWatchEnded(watch_id=asked.watch_id, reason=reason)))

    async def _relay(self, asked: LogWatch) -> None:
        records = self._logs.watch(
            self._org_id, asked.run_id, asked.job_id, asked.step_index, asked.from_line
        )
        async with aclosing(records):
            async for record in records:
                async with self._turn:
                    await self._send_bytes(pack_watched_block(asked.watch_id, record))
