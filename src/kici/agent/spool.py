"""The outbox of everything that must arrive (AG-20…22): numbered from 1 for the life of this process.

A frame stays until the orchestrator acknowledges it, and is sent again, in order, on a new connection.
Frames wait in memory up to `MEMORY`; further log blocks go to spool files of at most `FILES` together.
The files have no name: whatever ends this process, the kernel gives the space back.

When both are full, the oldest log blocks become GAP markers: each keeps its frame number and its block
number (either may have arrived already, so neither can be reused) and says how many lines and bytes of
which step went missing. Statuses are always in memory and never dropped.
"""

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec
from msgspec import Struct

from kici.protocol import agent_v1, blocks
from kici.protocol.blocks import BlockHeader, encode_block
from kici.protocol.frames import pack_log_block
from kici.runtime.logging import get_logger

log = get_logger(__name__)

MEMORY = 8 << 20
FILES = 256 << 20
SEGMENT = 4 << 20

HIGH_UNSENT = 1 << 20  # above: the runner's pipes are not read (AG-83)
LOW_UNSENT = 256 << 10
NO_PROGRESS_S = 30.0


class Segment:
    """One nameless spool file; its space returns when its last frame is gone."""

    def __init__(self, folder: str) -> None:
        self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed by `close`
        self.size = 0
        self.live = 0

    def append(self, data: bytes) -> int:
        """Offset of the written bytes. Raises OSError when the disk is full."""
        offset, done = self.size, 0
        while done < len(data):
            done += os.pwrite(self.file.fileno(), memoryview(data)[done:], offset + done)
        self.size += len(data)
        self.live += 1
        return offset

    def close(self) -> None:
        self.file.close()


class Frame:
    """`data` is None while the bytes are in `segment`. `header` is None for statuses.

    `placed`: the bytes count against memory or a segment; statuses and markers never do.
    """

    __slots__ = ("data", "header", "offset", "placed", "segment", "size")

    def __init__(self, data: bytes, header: BlockHeader | None) -> None:
        self.data: bytes | None = data
        self.size = len(data)
        self.header = header
        self.placed = False
        self.segment: Segment | None = None
        self.offset = 0

    @property
    def is_text(self) -> bool:
        return self.header is None


class Pressure(StrEnum):
    NONE = "none"
    PAUSE = "pause"  # runners' pipes are not read: producers block
    DROP = "drop"  # nothing moved for NO_PROGRESS_S: read on, and let the spool overflow if it must


class Outbox:
    """`on_pressure` is called when the pressure changes; `on_dropped` with (lines, bytes) of a block.

    `may_pause` False: under pressure, producers are never held back; the spool overflows instead.
    """

    def __init__(
        self,
        folder: str,
        *,
        memory_limit: int = MEMORY,
        files_limit: int = FILES,
        segment_size: int = SEGMENT,
        may_pause: bool = True,
    ) -> None:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        self.folder = folder
        self.memory_limit = memory_limit
        self.files_limit = files_limit
        self.segment_size = segment_size
        self.may_pause = may_pause
        self.on_pressure: Callable[[Pressure], None] = lambda _pressure: None
        self.on_dropped: Callable[[int, int], None] = lambda _lines, _bytes: None
        self.pressure = Pressure.NONE
        self._frames: dict[int, Frame] = {}
        self._first = 1  # oldest not acknowledged, or the next number
        self._next = 1
        self._to_send = 1
        self._droppable = 1  # no log frame with bytes below this number
        self._memory = 0  # log bytes in memory
        self._unsent = 0
        self._held = 0  # all bytes not acknowledged
        self._segments: list[Segment] = []
        self._connected = False
        self._progress_at = 0.0
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()

    @property
    def first_seq(self) -> int:
        return self._first

    @property
    def last_seq(self) -> int:
        return self._next - 1

    @property
    def is_connected(self) -> bool:
        return self._connected

    @property
    def unsent_bytes(self) -> int:
        return self._unsent

    @property
    def held_bytes(self) -> int:
        return self._held

    @property
    def spooled_bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    # ── producers ────────────────────────────────────────────────────────────────────────────────

    def put(self, make: Callable[[int], Struct]) -> int:
        """A status: `make` gets the frame's number. Returns it."""
        seq = self._next
        self._add(Frame(agent_v1.encode(make(seq)), None))
        return seq

    def put_block(self, header: BlockHeader, payload: bytes) -> int:
        seq = self._next
        frame = Frame(pack_log_block(seq, encode_block(header, payload)), header)
        if not self._place(frame):
            self._stub(seq, frame)
        self._add(frame)
        return seq

    # ── the connection ───────────────────────────────────────────────────────────────────────────

    def connected(self, acked_seq: int, now: float) -> None:
        """A session is registered: everything after `acked_seq` is to be sent (again)."""
        if acked_seq < self._first - 1:
            log.warning("spool.acknowledged_frames_forgotten", acked_seq=acked_seq, first_seq=self._first)
        self._connected = True
        self._progress_at = now
        self._to_send = self._first
        self._unsent = self._held
        self.ack(acked_seq, now)
        self._wake()
        self._judge(now)

    def disconnected(self, now: float) -> None:
        self._connected = False
        self._judge(now)

    def ack(self, up_to: int, now: float) -> None:
        """Cumulative. A number from the future is clamped: nothing unsent is ever forgotten for it."""
        for seq in range(self._first, min(up_to, self.last_seq) + 1):
            frame = self._frames.pop(seq)
            self._held -= frame.size
            if seq >= self._to_send:
                self._unsent -= frame.size
            self._release(frame)
            self._first = seq + 1
            self._progress_at = now
        self._to_send = max(self._to_send, self._first)
        self._droppable = max(self._droppable, self._first)
        if not self._frames:
            self._settled.set()
        self._judge(now)

    def take(self, limit: int) -> Iterator[tuple[bytes, bool]]:
        """Frames to send next with their kind (True: text), about `limit` bytes; each counts as sent."""
        taken = 0
        while taken < limit and self._to_send < self._next:
            seq = self._to_send
            frame = self._frames[seq]
            data = frame.data if frame.data is not None else self._read(seq, frame)
            self._to_send += 1
            self._unsent -= frame.size
            taken += frame.size
            yield data, frame.is_text
        if self._to_send == self._next:
            self._work.clear()

    def sent(self, now: float) -> None:
        """What was taken has left this process."""
        self._progress_at = now
        self._judge(now)

    async def wait_unsent(self) -> None:
        await self._work.wait()

    async def wait_settled(self) -> None:
        """Returns when every frame is acknowledged."""
        await self._settled.wait()

    def check_progress(self, now: float) -> None:
        """Call now and then: a pause without progress turns into DROP (AG-83)."""
        self._judge(now)

    def close(self) -> None:
        for segment in self._segments:
            segment.close()
        self._segments.clear()

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _add(self, frame: Frame) -> None:
        self._frames[self._next] = frame
        self._next += 1
        self._unsent += frame.size
        self._held += frame.size
        self._settled.clear()
        self._wake()
        if self._unsent > HIGH_UNSENT or self._held > self.memory_limit:
            self._judge(None)

    def _wake(self) -> None:
        if self._connected and self._to_send < self._next:
            self._work.set()
        elif not self._connected:
            self._work.clear()

    def _judge(self, now: float | None) -> None:
        """Decides the pressure. `now` None: time does not matter for this change."""
        if not self._connected:
            wanted = Pressure.NONE
        elif self.pressure is Pressure.NONE:
            full = self._unsent > HIGH_UNSENT or self._held > self.memory_limit
            under = Pressure.PAUSE if self.may_pause else Pressure.DROP
            wanted = under if full else Pressure.NONE
        elif self._unsent <= LOW_UNSENT and self._held <= self.memory_limit // 2:
            wanted = Pressure.NONE
        elif (
            self.pressure is Pressure.PAUSE and now is not None and now - self._progress_at > NO_PROGRESS_S
        ):
            wanted = Pressure.DROP
        else:
            wanted = self.pressure
        if wanted is not self.pressure:
            self.pressure = wanted
            self.on_pressure(wanted)

    def _place(self, frame: Frame) -> bool:
        """Finds room for a log frame, in memory first. False: there is none and nothing left to drop."""
        while True:
            if self._memory + frame.size <= self.memory_limit:
                self._memory += frame.size
                frame.placed = True
                return True
            if self._spill(frame):
                frame.placed = True
                return True
            if not self._drop_oldest():
                return False

    def _spill(self, frame: Frame) -> bool:
        assert frame.data is not None
        current = self._segments[-1] if self._segments else None
        try:
            if current is None or current.size + frame.size > self.segment_size:
                if self.spooled_bytes + frame.size > self.files_limit:
                    return False
                current = Segment(self.folder)
                self._segments.append(current)
            frame.offset = current.append(frame.data)
        except OSError as error:  # a full disk: as if the limit were reached
            log.warning("spool.write_failed", error=str(error))
            self._drop_empty_segments()
            return False
        frame.segment = current
        frame.data = None
        return True

    def _drop_oldest(self) -> bool:
        """Turns the oldest log frame that still has its bytes into a marker. False: there is none."""
        while self._droppable < self._next:
            seq = self._droppable
            frame = self._frames[seq]
            self._droppable += 1
            if frame.placed:
                self._empty(seq, frame)
                return True
        return False

    def _empty(self, seq: int, frame: Frame) -> None:
        """Takes the bytes of a frame that is in the outbox, and leaves a marker."""
        before = frame.size
        self._release(frame)
        self._stub(seq, frame)
        self._held -= before - frame.size
        if seq >= self._to_send:
            self._unsent -= before - frame.size

    def _stub(self, seq: int, frame: Frame) -> None:
        header = frame.header
        assert header is not None
        self.on_dropped(header.line_count, header.raw_len)
        frame.header = gap_in_place_of(header)
        frame.data = pack_log_block(seq, encode_block(frame.header, b""))
        frame.size = len(frame.data)

    def _release(self, frame: Frame) -> None:
        """Gives back the room of a frame's bytes."""
        if not frame.placed:
            return
        frame.placed = False
        if frame.segment is None:
            self._memory -= frame.size
            return
        frame.segment.live -= 1
        frame.segment = None
        self._drop_empty_segments()

    def _drop_empty_segments(self) -> None:
        gone = [segment for segment in self._segments if not segment.live]
        for segment in gone:
            self._segments.remove(segment)
            segment.close()

    def _read(self, seq: int, frame: Frame) -> bytes:
        """Bytes from the spool file; a marker in their place when they cannot be read."""
        assert frame.segment is not None
        try:
            data = os.pread(frame.segment.file.fileno(), frame.size, frame.offset)
        except OSError as error:
            log.error("spool.read_failed", error=str(error))
            data = b""
        if len(data) == frame.size:
            return data
        self._empty(seq, frame)
        assert frame.data is not None
        return frame.data


def gap_in_place_of(header: BlockHeader) -> BlockHeader:
    """The same block without its bytes: they count as dropped before it."""
    return msgspec.structs.replace(
        header,
        first_line=header.first_line + header.line_count,
        first_byte=header.first_byte + header.raw_len,
        line_count=0,
        raw_len=0,
        flags=header.flags & (blocks.OPEN | blocks.END) | blocks.GAP | blocks.RAW,
        dropped_lines=header.dropped_lines + header.line_count,
        dropped_bytes=header.dropped_bytes + header.raw_len,
    )
