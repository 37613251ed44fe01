"""The log store: takes block records as they come, keeps them through crashes, serves readers.

    data_dir/logs/<runId>.<jobId>-<attempt>-<stepIndex>.seg   live: appended to, indexed in memory
    storage                                                   ended: the same records and a footer

An append neither parses nor decompresses a payload. Memory holds a few numbers per live stream; reads
run in a few threads of their own, so that a search never delays the event loop or an append.
"""

import asyncio
import os
import threading
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from msgspec import Struct
from prometheus_client import Counter

from kici.orchestrator.logs.archive import Archive, FileSource, Source, archive_for, remove_prefixed
from kici.orchestrator.logs.index import MAX_RECORD, Snapshot, plausible
from kici.orchestrator.logs.reader import RANGE_BYTES, View, open_stored, read_page, read_range
from kici.orchestrator.logs.search import Search
from kici.orchestrator.logs.segments import OpenFiles, Segment
from kici.orchestrator.logs.streams import (
    LIVE_SUFFIX,
    SENT_SUFFIX,
    LogNotFound,
    LogNotWritable,
    MissingBlocks,
    StreamId,
    file_name,
    parse_name,
    safe,
)
from kici.orchestrator.logs.watch import Watchers, follow
from kici.protocol.blocks import BlockHeader, CorruptBlock, decode_block
from kici.protocol.dashboard_v1 import LogPage, LogSearchResult
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

T = TypeVar("T")

READ_SECONDS = 30.0
READ_THREADS = 4
SEARCHES_AT_ONCE = 2  # of the threads, so that readers always find one
CACHED_INDEXES = 64
SENT_MARK_SECONDS = 24 * 3600.0


class RawRange(Struct, frozen=True, kw_only=True):
    data: bytes
    next_byte: int
    total_bytes: int

    @property
    def done(self) -> bool:
        """Nothing more for now."""
        return self.next_byte >= self.total_bytes


class LogStore:
    """All methods belong to the event loop's thread. `close()` when done.

    Ended logs go where `storage_url` says (see `archive_for`), or to the given `archive`.
    """

    def __init__(
        self,
        data_dir: str,
        storage_url: str | None = None,
        *,
        archive: Archive | None = None,
        max_open_files: int = 128,
        metrics: Metrics | None = None,
    ) -> None:
        self._root = os.path.join(data_dir, "logs")
        os.makedirs(self._root, exist_ok=True)
        self._archive = archive or archive_for(storage_url, data_dir, self._root)
        self._files = OpenFiles(max_open_files)
        self._live: dict[StreamId, Segment] = {}
        self._finalizing: dict[StreamId, asyncio.Event] = {}
        self._watchers = Watchers()
        self._indexes: OrderedDict[StreamId, Snapshot] = OrderedDict()  # of stored logs; all threads
        self._indexes_lock = threading.Lock()
        self._threads = ThreadPoolExecutor(READ_THREADS, "logs")
        self._searches = asyncio.Semaphore(SEARCHES_AT_ONCE)
        self._blocks: Counter | None = None
        self._bytes: Counter | None = None
        if metrics is not None:
            self._blocks = metrics.counter("log_chunks_received", "Log blocks taken from agents")
            self._bytes = metrics.counter("log_bytes_stored", "Bytes of log blocks written")

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def append(
        self, run_id: str, record: bytes | memoryview, header: BlockHeader | None = None
    ) -> BlockHeader:
        """Write one record; acknowledge it after this returns. Returns its header: finalise when it
        says END. Pass `header` when you decoded the record (and so checked its checksum) already.

        A record seen before is ignored. Raises CorruptBlock for what must never be stored (drop it,
        acknowledge it), MissingBlocks among them, and LogNotWritable when the disk refuses (do not
        acknowledge: the sender keeps it).
        """
        if header is None:
            header, _, end = decode_block(record)
            if end != len(record):
                raise CorruptBlock("a record has bytes behind its end")
        if len(record) > MAX_RECORD or not plausible(header):
            raise CorruptBlock("block header numbers are impossible")
        stream = StreamId(run_id, header.job_id, header.attempt, header.step_index)
        segment = self._live.get(stream)
        if segment is None:
            segment = self._segment_for(stream, header)
            if segment is None:
                return header
        try:
            if segment.ended or not segment.append(record, header):
                return header
        except MissingBlocks as error:
            log.error("log.blocks_missing", **_names(stream), expected=error.expected, got=error.got)
            raise
        except LogNotWritable as error:
            log.error("log.not_writable", **_names(stream), reason=str(error))
            raise
        if self._blocks is not None and self._bytes is not None:
            self._blocks.inc()
            self._bytes.inc(len(record))
        self._watchers.wake(stream)
        return header

    def _segment_for(self, stream: StreamId, header: BlockHeader) -> Segment | None:
        """Of a stream not in memory; None when it ended long ago and this is a repetition."""
        if not safe(stream):
            raise CorruptBlock("block header has an impossible job id or attempt")
        if self._archive.holds(stream):
            return None
        path = self._path(stream)
        if header.seq > 0 and not os.path.exists(path):
            log.error("log.blocks_missing", **_names(stream), expected=0, got=header.seq)
            raise MissingBlocks(0, header.seq)
        return self._open_segment(stream, path)

    def _open_segment(self, stream: StreamId, path: str) -> Segment:
        try:
            segment = Segment(stream, path, self._files)
        except OSError as error:
            raise LogNotWritable(f"cannot open log segment: {error.strerror}") from error
        self._live[stream] = segment
        return segment

    def _forget(self, segment: Segment) -> None:
        self._files.close(segment.path)
        self._live.pop(segment.stream, None)

    def _path(self, stream: StreamId) -> str:
        return f"{self._root}/{file_name(stream)}{LIVE_SUFFIX}"

    # ── ending ───────────────────────────────────────────────────────────────────────────────────

    async def finalize(self, run_id: str, job_id: str, attempt: int, step_index: int) -> None:
        """The stream has ended, with END or because its producer is gone: nothing is appended any
        more, the file gets its index and moves to storage. Idempotent. When storage refuses, the
        segment stays readable where it is and the next `sweep` tries again."""
        stream = StreamId(run_id, job_id, attempt, step_index)
        busy = self._finalizing.get(stream)
        if busy is not None:
            await busy.wait()
            return
        segment = self._live_segment(stream)
        if segment is not None:
            segment.ended = True
            done = self._finalizing[stream] = asyncio.Event()
            try:
                await self._move(segment)
            finally:
                del self._finalizing[stream]
                done.set()
        self._watchers.end(stream)

    async def _move(self, segment: Segment) -> None:
        try:
            segment.seal()
            await self._archive.take(segment.path, segment.stream)
        except Exception as error:
            log.error("log.not_archived", **_names(segment.stream), exc_info=error)
            return
        self._forget(segment)

    async def sweep(self) -> int:
        """Finalise what ended but was left behind by a crash or a storage failure; at start and
        every minute. Returns how many streams moved."""
        moved = 0
        for stream in self._on_disk():
            segment = self._live_segment(stream)
            if segment is not None and (segment.ended or segment.index.complete):
                await self.finalize(*stream)
                moved += stream not in self._live
            await asyncio.sleep(0)
        return moved

    def unfinished(self) -> list[StreamId]:
        """Streams that somebody waits for or that are on disk without an end: their owner should
        finalise those whose step is over."""
        return list(dict.fromkeys([*self._on_disk(), *self._watchers.streams()]))

    def _on_disk(self) -> list[StreamId]:
        now = time.time()
        found: list[StreamId] = []
        with os.scandir(self._root) as files:
            for file in files:
                if file.name.endswith(LIVE_SUFFIX):
                    stream = parse_name(file.name.removesuffix(LIVE_SUFFIX))
                    if stream is not None:
                        found.append(stream)
                elif file.name.endswith(SENT_SUFFIX) and _age(file, now) > SENT_MARK_SECONDS:
                    os.unlink(file.path)
        return found

    async def remove_run(self, run_id: str) -> None:
        """Remove every log of a run, live or stored (retention, or the run was deleted)."""
        if not safe(StreamId(run_id, "0", 0, 0)):
            raise LogNotFound("no such run")
        for stream, segment in list(self._live.items()):
            if stream.run_id == run_id:
                segment.ended = True
                self._forget(segment)
                self._watchers.end(stream)
        with self._indexes_lock:
            for stream in [stream for stream in self._indexes if stream.run_id == run_id]:
                del self._indexes[stream]
        await self._in_thread(lambda: remove_prefixed(self._root, run_id + "."))
        await self._archive.remove_run(run_id)

    async def close(self) -> None:
        """Live segments stay as they are; the next start goes on with them."""
        self._files.close_all()
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    async def read(
        self, stream: StreamId, offset: int = 0, limit: int = 5000, tail: int | None = None
    ) -> LogPage:
        """Lines from `offset`, or the last `tail`. Raises LogNotFound when nothing was ever written,
        LogDamaged."""
        return await self._with_view(stream, lambda view: read_page(view, offset, limit, tail))

    async def raw(self, stream: StreamId, from_byte: int, max_bytes: int = RANGE_BYTES) -> RawRange:
        """Bytes as the step wrote them, for downloads in pieces of at most RANGE_BYTES."""

        def cut(view: View) -> RawRange:
            data, next_byte = read_range(view, from_byte, max_bytes)
            return RawRange(data=data, next_byte=next_byte, total_bytes=view.at.raw_bytes)

        return await self._with_view(stream, cut)

    async def search(
        self, stream: StreamId, query: str, *, regex: bool, limit: int = 200, timeout_seconds: float = 8.0
    ) -> LogSearchResult:
        """Bounded in time and matches. Cancelling the caller stops the thread at its next block."""
        stop = threading.Event()
        deadline = time.monotonic() + timeout_seconds

        def look(view: View) -> LogSearchResult:
            return Search(view, query, regex=regex, limit=limit, deadline=deadline, stop=stop).run()

        async with self._searches:
            try:
                return await self._with_view(stream, look, timeout_seconds + READ_SECONDS)
            finally:
                stop.set()

    def watch(self, stream: StreamId, from_line: int = 0) -> AsyncGenerator[bytes]:
        """Records from the one in which `from_line` starts (the line in progress, if that is ahead of
        the log), then live ones as they are appended; ends when the stream does. A stream that has not
        begun is waited for.

        The file is the queue, so a slow watcher costs no memory. Use `contextlib.aclosing`.
        """
        return follow(self._watchers, stream, self._live_segment, self._stored, from_line)

    def _live_segment(self, stream: StreamId) -> Segment | None:
        """The live segment, opened when an earlier process left it."""
        segment = self._live.get(stream)
        if segment is None and safe(stream):
            path = self._path(stream)
            if os.path.exists(path):
                return self._open_segment(stream, path)
        return segment

    async def _with_view(
        self, stream: StreamId, use: Callable[[View], T], timeout_seconds: float = READ_SECONDS
    ) -> T:
        segment = self._live_segment(stream)
        if segment is not None:
            try:
                view = View(FileSource(segment.path), segment.index.snapshot())
            except FileNotFoundError:
                segment = None  # it has just moved to storage
            else:
                return await self._in_thread(lambda: _used(view, use), timeout_seconds)
        return await self._in_thread(lambda: _used(self._open_stored(stream), use), timeout_seconds)

    async def _stored(self, stream: StreamId) -> View | None:
        try:
            return await self._in_thread(lambda: self._open_stored(stream))
        except LogNotFound:
            return None

    def _open_stored(self, stream: StreamId) -> View:
        """In a thread. Raises LogNotFound."""
        if not safe(stream):
            raise LogNotFound("no such log")
        try:
            source: Source = self._archive.open(stream)
        except FileNotFoundError as error:
            raise LogNotFound("this step has no output") from error
        try:
            with self._indexes_lock:
                at = self._indexes.get(stream)
            if at is None:
                at = open_stored(source)
            with self._indexes_lock:
                self._indexes[stream] = at
                self._indexes.move_to_end(stream)
                while len(self._indexes) > CACHED_INDEXES:
                    self._indexes.popitem(last=False)
        except BaseException:
            source.close()
            raise
        return View(source, at)

    async def _in_thread(self, body: Callable[[], T], timeout_seconds: float = READ_SECONDS) -> T:
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_seconds):
            return await loop.run_in_executor(self._threads, body)


def _used(view: View, use: Callable[[View], T]) -> T:
    try:
        return use(view)
    finally:
        view.close()


def _age(file: "os.DirEntry[str]", now: float) -> float:
    return now - file.stat().st_mtime


def _names(stream: StreamId) -> dict[str, str | int]:
    return stream._asdict()
