"""Reads lines and bytes of one log at one moment. Runs in threads; opens only the blocks it needs.

Lines are ended by LF; a CR before it stays with the line, ANSI escapes too. Invalid UTF-8 is replaced.
What a page may cost is bounded whatever the log holds: PAGE_BYTES of text, LINE_BYTES of one line.

Positions count what the step wrote: lines that the agent dropped beyond a log's size limit keep their
numbers, and a reader finds a notice in place of each.
"""

from collections.abc import Iterator

import zstandard
from msgspec import Struct

from kici.orchestrator.logs.archive import Source
from kici.orchestrator.logs.index import (
    TRAILER_SIZE,
    Snapshot,
    parse_footer,
    parse_trailer,
    plausible,
    read_head,
)
from kici.orchestrator.logs.streams import LogDamaged
from kici.protocol.blocks import OPEN, RAW, BlockHeader, CorruptBlock, decode_block
from kici.protocol.dashboard_v1 import LogPage

LINE_BYTES = 64 << 10
PAGE_BYTES = 2 << 20
RANGE_BYTES = 2 << 20
MAX_PAGE_LINES = 20_000

_FIRST_READ = 64 << 10
_NEXT_READ = 1 << 20


class Span(Struct, frozen=True):
    """A record's place in the file, its payload not read yet."""

    header: BlockHeader
    start: int
    end: int

    @property
    def closes_line(self) -> bool:
        """Does the last line of the block end with the block?"""
        return self.header.line_count > 0 and not self.header.flags & OPEN


class View:
    """A log as it is now: its bytes and a snapshot of its index."""

    def __init__(self, source: Source, at: Snapshot) -> None:
        self.source = source
        self.at = at
        self._buffer = b""
        self._base = 0
        self._reach = _FIRST_READ
        self._zstd = zstandard.ZstdDecompressor()

    def close(self) -> None:
        self.source.close()

    def span(self, offset: int) -> Span:
        """The record at `offset`, which is before the end. Raises LogDamaged."""
        local = self._window(offset, 1024)
        try:
            header, _, end = read_head(self._buffer, local)
        except CorruptBlock as error:
            raise LogDamaged(f"stored log is damaged at byte {offset}") from error
        end = self._base + end
        if end > self.at.end or not plausible(header):
            raise LogDamaged(f"stored log is damaged at byte {offset}")
        return Span(header, offset, end)

    def record(self, span: Span) -> bytes:
        """The whole record, as the agent made it."""
        local = self._window(span.start, span.end - span.start)
        return self._buffer[local : local + span.end - span.start]

    def raw(self, span: Span) -> bytes:
        """The block's bytes as the step wrote them. Raises LogDamaged."""
        local = self._window(span.start, span.end - span.start)
        try:
            header, payload, _ = decode_block(self._buffer, local)
            return unpack(header, payload, self._zstd)
        except CorruptBlock as error:
            raise LogDamaged(f"stored log is damaged at byte {span.start}: {error}") from error

    def _window(self, offset: int, size: int) -> int:
        """Make `size` bytes from `offset` (fewer at the end) present; where they start in the buffer."""
        local = offset - self._base
        if local < 0 or local + size > len(self._buffer):
            have_all = 0 <= local <= len(self._buffer) and self._base + len(self._buffer) >= self.at.end
            if not have_all:
                want = min(max(size, self._reach), self.at.end - offset)
                self._buffer = self.source.read_at(offset, want)
                self._base = offset
                self._reach = _NEXT_READ
                local = 0
        return local

    def spans(self, offset: int) -> Iterator[Span]:
        """Records from `offset` on."""
        while offset < self.at.end:
            span = self.span(offset)
            yield span
            offset = span.end

    def first_span(self, line: int) -> Span | None:
        """The record in which `line` starts; None when that is not written yet."""
        for span in self.spans(self.at.entry_for_line(line)):
            last = span.header.first_line + span.header.line_count
            # Line n starts behind the n-th newline; one that ends its block starts the next block.
            if (last > line or (last == line and not span.closes_line)) and span.header.raw_len:
                return span
        return None


def unpack(header: BlockHeader, payload: memoryview, zstd: zstandard.ZstdDecompressor) -> bytes:
    """Raises CorruptBlock. Never allocates more than the header's `raw_len` promises."""
    if header.flags & RAW or not payload:
        data = bytes(payload)
    else:
        try:
            if zstandard.frame_content_size(payload) > header.raw_len:
                raise CorruptBlock("payload is larger than its header says")
            data = zstd.decompress(payload, max_output_size=max(header.raw_len, 1))
        except zstandard.ZstdError as error:
            raise CorruptBlock("payload does not decompress") from error
    if len(data) != header.raw_len:
        raise CorruptBlock("payload is not as long as its header says")
    return data


def open_stored(source: Source) -> Snapshot:
    """The index of a finished file from its footer. Raises LogDamaged."""
    size = source.size()
    tail = source.read_at(max(0, size - _FIRST_READ), _FIRST_READ)
    try:
        if len(tail) < TRAILER_SIZE:
            raise CorruptBlock("the file is too short")
        footer_size = parse_trailer(tail[-TRAILER_SIZE:])
        if footer_size > len(tail):
            if footer_size > size:
                raise CorruptBlock("the index footer is longer than the file")
            tail = source.read_at(size - footer_size, footer_size)
        at = parse_footer(tail[len(tail) - footer_size :])
    except CorruptBlock as error:
        raise LogDamaged(f"stored log cannot be read: {error}") from error
    if at.end != size - footer_size:
        raise LogDamaged("stored log cannot be read: its index belongs to another file")
    return at


def read_page(view: View, offset: int, limit: int, tail: int | None) -> LogPage:
    """Lines from `offset`, or the last `tail` ones. A page may hold fewer than asked when its text
    reaches PAGE_BYTES."""
    at = view.at
    limit = max(0, min(limit, MAX_PAGE_LINES))
    if tail is not None:
        limit = max(0, min(tail, MAX_PAGE_LINES))
        offset = _tail_start(view, limit)
    offset = max(0, min(offset, at.total_lines))
    collector = _Collector(offset, limit)
    if limit:
        _collect(view, collector)
    return LogPage(
        lines=collector.lines,
        ts=collector.ts,
        first_line=collector.first_line,
        total_lines=at.total_lines,
        total_bytes=at.raw_bytes,
        complete=at.complete,
        cut=collector.cut,
    )


def _tail_start(view: View, limit: int) -> int:
    """First of the last `limit` lines, or a later one from which the rest fits a page.

    Half a page is given to the log's last bytes, the other half to the few lines before them, however
    long these are: they are shown cut.
    """
    at = view.at
    wanted = max(0, at.total_lines - limit)
    if at.raw_bytes <= PAGE_BYTES:
        return wanted
    fits = at.total_lines - 1
    floor = at.raw_bytes - PAGE_BYTES // 2
    for span in view.spans(at.entry_for_byte(floor)):
        if span.header.first_byte >= floor:
            # The block's first line may have begun before it.
            fits = min(fits, span.header.first_line + 1)
            break
    return max(wanted, fits - PAGE_BYTES // 2 // LINE_BYTES)


class _Collector:
    """Lines of a page as they are found, the one in progress included."""

    __slots__ = (
        "_open",
        "_open_cut",
        "_open_ts",
        "cut",
        "first_line",
        "limit",
        "lines",
        "next_line",
        "room",
        "ts",
    )

    def __init__(self, first_line: int, limit: int) -> None:
        self.lines: list[str] = []
        self.ts: list[int] = []
        self.cut: list[int] = []
        self.first_line = first_line
        self.next_line = first_line  # the line in progress, or the next to begin
        self.limit = limit
        self.room = PAGE_BYTES
        self._open: bytearray | None = None
        self._open_ts = 0
        self._open_cut = False

    @property
    def full(self) -> bool:
        return len(self.lines) >= self.limit or self.room <= 0

    @property
    def open_is_cut(self) -> bool:
        """The line in progress has all the text a page may show of it."""
        return self._open_cut

    def begin(self, piece: bytes, ts: int) -> None:
        """A part of a line that does not end here."""
        if self._open is None:
            self._open, self._open_ts = bytearray(), ts
        room = LINE_BYTES - len(self._open)
        self._open += piece[:room]
        if len(piece) > room:
            self._open_cut = True

    def end(self, piece: bytes, ts: int) -> None:
        """The (rest of the) line up to its newline."""
        if self._open is not None:
            self.begin(piece, ts)
            self.flush()
            return
        cut = len(piece) > LINE_BYTES
        self._put(piece[:LINE_BYTES] if cut else piece, ts, cut)

    def flush(self) -> None:
        """The line in progress counts as a line."""
        if self._open is not None:
            self._put(self._open, self._open_ts, self._open_cut)
            self._open, self._open_cut = None, False

    def dropped(self, next_line: int, notice: str, ts: int) -> None:
        """The lines before `next_line` were never sent."""
        self.flush()
        while self.next_line < next_line and not self.full:
            self.lines.append(notice)
            self.ts.append(ts)
            self.next_line += 1
            self.room -= len(notice)

    def _put(self, piece: bytes | bytearray, ts: int, cut: bool) -> None:
        if cut:
            self.cut.append(len(self.lines))
            piece = _whole_characters(piece)
        self.lines.append(piece.decode("utf-8", "replace"))
        self.ts.append(ts)
        self.next_line += 1
        self.room -= len(piece)


def _whole_characters(piece: bytes | bytearray) -> bytes | bytearray:
    """Without the beginning of a UTF-8 character that the cut left at the end."""
    for back in range(1, min(4, len(piece)) + 1):
        byte = piece[-back]
        if byte >= 0xC0:
            need = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return piece[:-back] if back < need else piece
        if byte < 0x80:
            break
    return piece


def _notice(header: BlockHeader) -> str:
    return f"[{header.dropped_lines} lines, {header.dropped_bytes} bytes dropped: the log is over its size limit]"


def _collect(view: View, page: _Collector) -> None:
    first = view.first_span(page.next_line)
    offset = view.at.end if first is None else first.start
    while offset < view.at.end and not page.full:
        span = view.span(offset)
        offset = span.end
        header = span.header
        if header.raw_len == 0:
            continue
        if header.first_line > page.next_line:
            page.dropped(header.first_line, _notice(header), header.first_ts_ms)
            if page.full:
                return
        if page.open_is_cut and header.line_count == 0:
            # The rest of a very long line: go where it ends.
            offset = max(offset, view.at.entry_for_line(page.next_line + 1))
            continue
        skip = page.next_line - header.first_line
        if skip > header.line_count:
            continue
        pieces = view.raw(span).split(b"\n", skip + page.limit - len(page.lines))
        del pieces[:skip]
        ts = header.first_ts_ms
        rest = pieces.pop()
        for piece in pieces:
            page.end(piece, ts)
            if page.full:
                return
        if rest:
            page.begin(rest, ts)
    if not page.full:
        page.flush()


def read_range(view: View, from_byte: int, max_bytes: int) -> tuple[bytes, int]:
    """Raw bytes from `from_byte`, at most `max_bytes` of them, and the byte to go on with. Where bytes
    were dropped, a notice stands between the parts."""
    at = view.at
    from_byte = max(0, from_byte)
    room = max(1, min(max_bytes, RANGE_BYTES))
    parts: list[bytes] = []
    if from_byte >= at.raw_bytes:
        return b"", max(from_byte, at.raw_bytes)
    for span in view.spans(at.entry_for_byte(from_byte)):
        header = span.header
        if header.first_byte + header.raw_len <= from_byte:
            continue
        start = from_byte - header.first_byte
        if start < 0:
            parts.append(f"\n{_notice(header)}\n".encode())
            start = 0
        part = view.raw(span)[start : start + room]
        parts.append(part)
        room -= len(part)
        from_byte = header.first_byte + start + len(part)
        if room <= 0:
            break
    return b"".join(parts), from_byte
