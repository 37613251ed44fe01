"""Log blocks from sockets to the store, unread but for their header."""

import asyncio

from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import LogNotWritable, StreamId
from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.protocol.agent_v1 import CLOSE_INTERNAL, CLOSE_INVALID, CLOSE_PROTOCOL
from kici.protocol.blocks import END, CorruptBlock, decode_block
from kici.protocol.frames import LOG_BLOCK, unpack_log_block
from kici.runtime.backoff import supervised
from kici.runtime.logging import get_logger

log = get_logger(__name__)

MAX_ENDED = 4096  # streams that wait to be finalised; the store's sweep finds what does not fit
FINALISE_S = 60.0
FINALISERS = 2
_LEAST_FRAME = 9


class Streams:
    """`take` is called by readers, `run` moves ended streams to storage for ever."""

    def __init__(self, store: LogStore, metrics: ExecutionMetrics) -> None:
        self._store = store
        self._metrics = metrics
        self._ended: asyncio.Queue[StreamId] = asyncio.Queue(MAX_ENDED)

    def take(self, connection: Connection, frame: bytes) -> None:
        """Written, then acknowledged. Blocks of what the agent does not hold are only acknowledged."""
        if len(frame) < _LEAST_FRAME or frame[0] != LOG_BLOCK:
            connection.close(CLOSE_INVALID, "unknown binary frame")
            return
        seq, record = unpack_log_block(frame)
        match connection.receive(seq):
            case "repeated":
                return
            case "gap":
                log.error("agent.sequence_gap", got=seq, durable=connection.durable_seq)
                connection.close(CLOSE_PROTOCOL, f"frame {seq} came out of order")
                return
            case "new":
                pass
        try:
            header, _, end = decode_block(record)
            if end != len(record):
                raise CorruptBlock("a record has bytes behind its end")
            run_id = connection.writable.get((header.job_id, header.attempt))
            if run_id is None:
                self._metrics.agent_messages_dropped.labels("block_not_owned").inc()
            else:
                self._store.append(run_id, record, header)
                if header.flags & END:
                    self.ended(StreamId(run_id, header.job_id, header.attempt, header.step_index))
        except CorruptBlock as error:
            log.error("agent.block_corrupt", problem=str(error), bytes=len(record))
            self._metrics.agent_messages_dropped.labels("block_corrupt").inc()
        except LogNotWritable:
            connection.close(CLOSE_INTERNAL, "logs cannot be written here; keep them and try again")
            return
        connection.settle(seq)

    def ended(self, stream: StreamId) -> None:
        """No more blocks will come."""
        try:
            self._ended.put_nowait(stream)
        except asyncio.QueueFull:
            log.warning("log.finalise_later", waiting=self._ended.qsize())

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for index in range(FINALISERS):
                tasks.create_task(supervised("log.finalise", self._finalise), name=f"log.finalise.{index}")

    async def _finalise(self) -> None:
        while True:
            stream = await self._ended.get()
            async with asyncio.timeout(FINALISE_S):
                await self._store.finalize(*stream)
