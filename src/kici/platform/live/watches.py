"""Log streams that browsers follow. One upstream watch per stream, shared by all who follow it (PD-70, 71).

A subscriber owns a bounded queue of blocks. When it can't keep up, its oldest blocks are dropped; the
hole shows when the next block is written, and `log.gap` announces it. The same arithmetic serves who
joins late: the watch keeps a short tail, and what came before it is a hole to be read by REST.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from kici.platform.link.connection import Connection, ConnectionGone, Connections, WatchEnd
from kici.platform.live.blocks import LiveBlock
from kici.protocol.blocks import CorruptBlock, decode_block
from kici.protocol.browser_v1 import LogEnded, LogGap, encode
from kici.protocol.platform_v1 import LogUnwatch, LogWatch
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

TAIL_BYTES = 1 << 20
QUEUE_BYTES = 2 << 20  # per subscriber

EndReason = Literal["complete", "not_found", "permission_revoked", "orchestrator_away", "server_shutdown"]


@dataclass(frozen=True, slots=True)
class StreamKey:
    org_id: str
    run_id: str
    job_id: str
    step_index: int


class Subscription:
    """One browser on one stream. `wake` is called when there is something to write."""

    def __init__(
        self, key: StreamKey, next_line: int, wake: Callable[[], None], dropped: Callable[[int], None]
    ) -> None:
        self.key = key
        self.next_line = next_line
        self._wake = wake
        self._dropped = dropped
        self._blocks: deque[LiveBlock] = deque()
        self._bytes = 0
        self._ended: EndReason | None = None
        self.known_hole_to = 0  # lines before this one will not come
        self.done = False

    def push(self, block: LiveBlock) -> None:
        self._blocks.append(block)
        self._bytes += block.size
        while self._bytes > QUEUE_BYTES and len(self._blocks) > 1:
            lost = self._blocks.popleft()
            self._bytes -= lost.size
            self._dropped(lost.header.line_count)
        self._wake()

    def end(self, reason: EndReason) -> None:
        self._ended = reason
        self._wake()

    @property
    def ready(self) -> bool:
        return bool(self._blocks) or self.known_hole_to > self.next_line or self._ending

    @property
    def _ending(self) -> bool:
        return self._ended is not None and not self.done

    def next_frames(self) -> list[str]:
        """What to write now: a hole and then a block, or the end."""
        frames: list[str] = []
        key = self.key
        if self.known_hole_to > self.next_line:
            frames.append(self.gap(self.next_line, self.known_hole_to))
            self.next_line = self.known_hole_to
        while self._blocks and not frames:
            block = self._blocks.popleft()
            self._bytes -= block.size
            if block.first > self.next_line:
                frames.append(self.gap(self.next_line, block.first))
                self.next_line = block.first
            if block.end > self.next_line or (block.is_open and block.end == self.next_line):
                frames.append(block.frame(key.run_id, self.next_line))
                self.next_line = block.end
        if not frames and self._ending and self._ended is not None:
            self.done = True
            frames.append(
                encode(
                    LogEnded(
                        run_id=key.run_id, job_id=key.job_id, step_index=key.step_index, reason=self._ended
                    )
                ).decode()
            )
        return frames

    def gap(self, first: int, end: int) -> str:
        return encode(
            LogGap(
                run_id=self.key.run_id,
                job_id=self.key.job_id,
                step_index=self.key.step_index,
                first_line=first,
                dropped_line_count=end - first,
            )
        ).decode()


class _Watch:
    """The upstream side. Implements kici.platform.link.connection.WatchSink."""

    def __init__(
        self,
        key: StreamKey,
        connection: Connection,
        from_line: int,
        *,
        gone: Callable[["_Watch", bool], None],
        seen: Callable[[int], None],
    ) -> None:
        self.key = key
        self.connection = connection
        self.from_line = from_line  # what came before was never asked for
        self.watch_id = 0
        self.subscribers: set[Subscription] = set()
        self._gone = gone
        self._seen = seen
        self._tail: deque[LiveBlock] = deque()
        self._tail_bytes = 0
        self._carried = b""
        self._last_seq = -1
        self.next_line = from_line

    def block(self, record: memoryview) -> None:
        try:
            header, payload, _ = decode_block(record)
            follows = header.seq == self._last_seq + 1
            block = LiveBlock(header, payload, self._carried if follows else b"")
        except (CorruptBlock, ValueError) as error:
            log.warning(
                "log.block_unreadable", run_id=self.key.run_id, job_id=self.key.job_id, reason=str(error)
            )
            return
        self._carried, self._last_seq = block.open_tail, header.seq
        self._seen(header.line_count)
        self.next_line = max(self.next_line, block.end)
        self._tail.append(block)
        self._tail_bytes += block.size
        while self._tail_bytes > TAIL_BYTES and len(self._tail) > 1:
            self._tail_bytes -= self._tail.popleft().size
        for subscriber in self.subscribers:
            subscriber.push(block)

    def ended(self, reason: WatchEnd) -> None:
        self._gone(self, reason == "overflow")
        if reason == "overflow":
            return
        for subscriber in self.subscribers:
            subscriber.end(reason)

    def join(self, subscription: Subscription) -> None:
        self.subscribers.add(subscription)
        subscription.known_hole_to = self.from_line
        for block in self._tail:
            if block.end > subscription.next_line or block.is_open:
                subscription.push(block)


class LogWatches:
    def __init__(self, connections: Connections, metrics: Metrics) -> None:
        self._connections = connections
        self._watches: dict[StreamKey, _Watch] = {}
        self._given_up: asyncio.Queue[_Watch] = asyncio.Queue()  # at most one entry per watch
        self._dropped = metrics.counter(
            "platform_browser_dropped_lines_total", "Log lines not sent to a slow browser"
        )
        self._blocks = metrics.counter(
            "platform_log_chunks_forwarded_total", "Log blocks from orchestrators"
        )
        self._lines = metrics.counter("platform_log_lines_forwarded_total", "Log lines from orchestrators")
        metrics.gauge("platform_log_watches", "Log streams followed").set_function(
            lambda: len(self._watches)
        )

    async def run(self) -> None:
        """Opens again what an orchestrator gave up because we were slow; for ever."""
        while True:
            watch = await self._given_up.get()
            if self._watches.get(watch.key) is watch:
                await self._open(watch)

    def new_subscription(
        self, key: StreamKey, after_line_count: int, wake: Callable[[], None]
    ) -> Subscription:
        return Subscription(key, after_line_count, wake, self._dropped.inc)

    async def subscribe(self, subscription: Subscription, cluster_name: str | None) -> None:
        """Blocks flow into the subscription from here on; it ends at once when nobody can send them."""
        key = subscription.key
        watch = self._watches.get(key)
        if watch is not None:
            watch.join(subscription)
            return
        connection = self._connections.for_run(key.org_id, cluster_name)
        if connection is None:
            subscription.end("orchestrator_away")
            return
        watch = _Watch(key, connection, subscription.next_line, gone=self._ended, seen=self._seen)
        self._watches[key] = watch
        watch.subscribers.add(subscription)
        await self._open(watch)

    async def _open(self, watch: _Watch) -> None:
        key = watch.key
        watch.watch_id = watch.connection.new_watch(watch)
        try:
            await watch.connection.send(
                LogWatch(
                    watch_id=watch.watch_id,
                    run_id=key.run_id,
                    job_id=key.job_id,
                    step_index=key.step_index,
                    from_line=watch.next_line,
                )
            )
        except ConnectionGone:
            watch.ended("orchestrator_away")

    def _seen(self, line_count: int) -> None:
        self._blocks.inc()
        self._lines.inc(line_count)

    def _ended(self, watch: _Watch, again: bool) -> None:
        if self._watches.get(watch.key) is not watch:
            return
        if again:
            self._given_up.put_nowait(watch)
        else:
            del self._watches[watch.key]

    async def unsubscribe(self, subscription: Subscription) -> None:
        watch = self._watches.get(subscription.key)
        if watch is None:
            return
        watch.subscribers.discard(subscription)
        if watch.subscribers:
            return
        del self._watches[subscription.key]
        watch.connection.watches.pop(watch.watch_id, None)
        try:
            await watch.connection.send(LogUnwatch(watch_id=watch.watch_id))
        except ConnectionGone:
            pass
