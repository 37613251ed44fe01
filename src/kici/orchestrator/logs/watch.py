"""Following a stream: what is written already, then each record as it comes.

A watcher is a position in the file and an event. Nothing is queued for it: it may be as slow as its
reader, costs no memory, and never has to be cut off.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable

from kici.orchestrator.logs.archive import FileSource
from kici.orchestrator.logs.reader import View
from kici.orchestrator.logs.segments import Segment
from kici.orchestrator.logs.streams import StreamId
from kici.protocol.blocks import PREFIX

_READ_BYTES = 256 << 10


class Watcher:
    __slots__ = ("ended", "event")

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.ended = False


class Watchers:
    """Who waits for which stream."""

    def __init__(self) -> None:
        self._waiting: dict[StreamId, set[Watcher]] = {}

    def add(self, stream: StreamId) -> Watcher:
        watcher = Watcher()
        self._waiting.setdefault(stream, set()).add(watcher)
        return watcher

    def remove(self, stream: StreamId, watcher: Watcher) -> None:
        waiting = self._waiting.get(stream)
        if waiting is not None:
            waiting.discard(watcher)
            if not waiting:
                del self._waiting[stream]

    def wake(self, stream: StreamId) -> None:
        if self._waiting:
            for watcher in self._waiting.get(stream, ()):
                watcher.event.set()

    def end(self, stream: StreamId) -> None:
        for watcher in self._waiting.get(stream, ()):
            watcher.ended = True
            watcher.event.set()

    def streams(self) -> Iterable[StreamId]:
        return self._waiting.keys()


async def follow(
    watchers: Watchers,
    stream: StreamId,
    live: Callable[[StreamId], Segment | None],
    stored: Callable[[StreamId], Awaitable[View | None]],
    from_line: int,
) -> AsyncGenerator[bytes]:
    """See LogStore.watch."""
    # Registered before the first look, so that no append falls between look and wait.
    watcher = watchers.add(stream)
    try:
        while True:
            ended = watcher.ended
            segment = live(stream)
            if segment is not None:
                async for record in _follow_live(watcher, segment, from_line):
                    yield record
                return
            # It may have begun, ended and moved since the last look.
            view = await stored(stream)
            if view is not None:
                try:
                    async for record in _replay(view, from_line):
                        yield record
                finally:
                    view.close()
                return
            if ended:
                return
            await watcher.event.wait()
            watcher.event.clear()
    finally:
        watchers.remove(stream, watcher)


async def _replay(view: View, from_line: int) -> AsyncGenerator[bytes]:
    first = view.first_span(min(from_line, view.at.newlines))
    if first is None:
        return
    for span in view.spans(first.start):
        yield await asyncio.to_thread(view.record, span)


async def _follow_live(watcher: Watcher, segment: Segment, from_line: int) -> AsyncGenerator[bytes]:
    """Reads come from the page cache: the records were written a moment ago by this process."""
    source = FileSource(segment.path)
    try:
        view = View(source, segment.index.snapshot())
        first = view.first_span(min(from_line, view.at.newlines))
        position = view.at.end if first is None else first.start
        buffer = b""
        local = 0
        while True:
            end = segment.index.end
            if position >= end:
                if segment.index.complete or segment.ended or watcher.ended:
                    return
                await watcher.event.wait()
                watcher.event.clear()
                continue
            size = _whole(buffer, local)
            if size == 0:
                want = max(_READ_BYTES, _next_size(source, position))
                buffer, local = source.read_at(position, min(want, end - position)), 0
                continue
            position += size
            local += size
            yield buffer[local - size : local]
    finally:
        source.close()


def _whole(buffer: bytes, local: int) -> int:
    """Size of the record at `local` when the buffer has all of it, else 0."""
    if len(buffer) - local < PREFIX.size:
        return 0
    head_len, payload_len, _ = PREFIX.unpack_from(buffer, local)
    size = PREFIX.size + head_len + payload_len
    return size if len(buffer) - local >= size else 0


def _next_size(source: FileSource, position: int) -> int:
    head_len, payload_len, _ = PREFIX.unpack(source.read_at(position, PREFIX.size))
    return PREFIX.size + head_len + payload_len
