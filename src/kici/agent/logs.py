"""Cuts a step's output into log blocks, byte for byte (design §6, AG-80…84).

A block closes when its oldest byte is `patience_ms` old, or at 64 KiB, growing to 1 MiB while output keeps
coming. It ends at a line end where there is one; a line that stays unfinished leaves as an OPEN block
after another `patience_ms`. Work per byte is one `count`, one `rfind` per block and the compressor: no
line is ever touched by itself.

Beyond `max_bytes` the stream's head is kept as it is, the rest is counted, and its last 64 KiB follow in a
block that a GAP marks. Positions (`first_line`, `first_byte`) always count what the step wrote, dropped
parts included, so that a line keeps its number.
"""

from collections import deque
from collections.abc import Callable

import zstandard
from msgspec import Struct

from kici.protocol import blocks
from kici.protocol.blocks import BlockHeader

FIRST_BLOCK = 64 << 10
TAIL = 64 << 10
PATIENCE_MS = 100
_TINY = 96  # below this a zstd frame does not pay for its own header

# Level 1: log text shrinks about as well as at level 3, in half the time. Our records carry a checksum.
_compress = zstandard.ZstdCompressor(level=1, write_checksum=False, write_content_size=True).compress

Emit = Callable[[BlockHeader, bytes], object]


class Totals(Struct, frozen=True):
    """What the step wrote in all, dropped parts included. An unfinished last line counts as a line."""

    lines: int
    bytes: int


class Cutter:
    """One stream: (job, attempt, step). Single use; `end` closes it."""

    def __init__(
        self, job_id: str, attempt: int, step_index: int, emit: Emit, *, max_bytes: int = 1 << 30
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.step_index = step_index
        self.patience_ms = PATIENCE_MS
        self.ended = False
        self._emit = emit
        self._room = max_bytes
        self._seq = 0
        self._line = 0  # of the first held byte
        self._byte = 0
        self._open = False  # the byte before the first held one was not a newline
        self._held: list[bytes] = []
        self._held_len = 0
        self._first_ts = 0
        self._last_ts = 0
        self._since = 0  # when the held bytes began to wait
        self._target = FIRST_BLOCK
        self._tail: deque[bytes] | None = None  # set once `max_bytes` is reached
        self._tail_len = 0
        self._beyond_lines = 0
        self._beyond_bytes = 0

    @property
    def due_ms(self) -> int | None:
        """When `tick` should be called; None while nothing waits."""
        return self._since + self.patience_ms if self._held else None

    def feed(self, data: bytes, now_ms: int) -> None:
        """Any bytes of the stream, in order, of any size."""
        if not data:
            return
        if self._tail is not None:
            self._beyond(data, self._tail)
            return
        if len(data) > self._room:
            cut = data.rfind(b"\n", 0, self._room) + 1 or self._room
            self._hold(data[:cut], now_ms)
            self._tail = deque()
            self._beyond(data[cut:], self._tail)
            self._flush(now_ms)
            return
        self._room -= len(data)
        self._hold(data, now_ms)
        if self._held_len >= self._target:
            self._close_full(now_ms)

    def tick(self, now_ms: int) -> None:
        """Lets go of what waited long enough: complete lines first, then an unfinished one."""
        due = self.due_ms
        if due is None or now_ms < due:
            return
        self._target = max(FIRST_BLOCK, self._target >> 1)
        data = self._take()
        cut = data.rfind(b"\n") + 1
        if 0 < cut < len(data):
            self._block(data, 0, cut)
            self._held.append(data[cut:])
            self._held_len = len(data) - cut
            self._first_ts = self._last_ts
            self._since = now_ms
        else:
            self._block(data, 0, len(data))

    def end(self, now_ms: int) -> Totals:
        """The last block, marked END, even when it is empty."""
        self.ended = True
        self._last_ts = max(self._last_ts, now_ms)
        data = self._take()
        if self._tail:
            if data:
                self._block(data, 0, len(data))
            data = self._gap(b"".join(self._tail))
            flags, lines, size = blocks.GAP, self._beyond_lines, self._beyond_bytes
        else:
            flags, lines, size = 0, 0, 0
        if not data:
            self._first_ts = now_ms
        self._block(data, 0, len(data), flags=blocks.END | (flags if size else 0), dropped=(lines, size))
        return Totals(self._line + self._open, self._byte)

    def _hold(self, data: bytes, now_ms: int) -> None:
        if not self._held:
            self._first_ts = self._since = now_ms
        self._last_ts = now_ms
        self._held.append(data)
        self._held_len += len(data)

    def _take(self) -> bytes:
        data = self._held[0] if len(self._held) == 1 else b"".join(self._held)
        self._held.clear()
        self._held_len = 0
        return data

    def _flush(self, now_ms: int) -> None:
        if self._held_len >= self._target:
            self._close_full(now_ms)
        if self._held:
            data = self._take()
            self._block(data, 0, len(data))

    def _close_full(self, now_ms: int) -> None:
        data = self._take()
        start, size = 0, len(data)
        while size - start >= self._target:
            limit = start + self._target
            cut = data.rfind(b"\n", start, limit) + 1 or limit
            self._block(data, start, cut)
            start = cut
            self._target = min(self._target << 1, blocks.MAX_RAW)
        if start < size:
            self._held.append(data[start:])
            self._held_len = size - start
            self._first_ts = self._since = now_ms

    def _beyond(self, data: bytes, tail: deque[bytes]) -> None:
        """Counts what no longer fits, and remembers about the last `TAIL` bytes of it."""
        self._beyond_lines += data.count(b"\n")
        self._beyond_bytes += len(data)
        tail.append(data[-TAIL:])
        self._tail_len += len(tail[-1])
        while self._tail_len - len(tail[0]) >= TAIL:
            self._tail_len -= len(tail.popleft())

    def _gap(self, tail: bytes) -> bytes:
        """The part of the tail to keep; takes it out of the dropped counts."""
        if self._beyond_bytes > len(tail) or len(tail) > TAIL:
            tail = tail[-TAIL:]
            line_start = tail.find(b"\n") + 1
            if line_start < len(tail):
                tail = tail[line_start:]
        self._beyond_lines -= tail.count(b"\n")
        self._beyond_bytes -= len(tail)
        return tail

    def _block(
        self, data: bytes, start: int, stop: int, *, flags: int = 0, dropped: tuple[int, int] = (0, 0)
    ) -> None:
        lines = data.count(b"\n", start, stop)
        raw = memoryview(data)[start:stop]
        size = stop - start
        payload = _compress(raw) if size > _TINY else b""
        if size <= _TINY or len(payload) >= size:
            payload = bytes(raw)
            flags |= blocks.RAW
        if size:
            self._open = data[stop - 1] != 10
        if self._open:
            flags |= blocks.OPEN
        self._line += dropped[0]
        self._byte += dropped[1]
        header = BlockHeader(
            job_id=self.job_id,
            attempt=self.attempt,
            step_index=self.step_index,
            seq=self._seq,
            first_line=self._line,
            line_count=lines,
            first_byte=self._byte,
            raw_len=size,
            first_ts_ms=self._first_ts,
            last_ts_ms=self._last_ts,
            flags=flags,
            dropped_lines=dropped[0],
            dropped_bytes=dropped[1],
        )
        self._seq += 1
        self._line += lines
        self._byte += size
        self._first_ts = self._last_ts
        self._emit(header, payload)
