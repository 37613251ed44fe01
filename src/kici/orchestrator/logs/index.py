"""Where lines and bytes are in a file of block records, to within SPACING stored bytes.

The index is sparse: one entry per SPACING bytes of the file, so that a log of many tiny blocks costs
as little as one of few large ones. From an entry on, a reader walks record heads; it opens only the
blocks that it needs.

A finished file ends in a footer:

    "KiCI" | body (msgpack `Footer`) | u32 BE length of body | u32 BE crc32(body) | "KiCIlog1"

Its first four bytes, read as a record's header length, are impossible: whoever walks records stops
there without knowing about footers.
"""

import struct
import zlib
from array import array
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import msgspec
from msgspec import Struct

from kici.protocol.blocks import END, MAX_RAW, OPEN, PREFIX, BlockHeader, CorruptBlock, decode_block

SPACING = 16 << 10
MAX_HEAD = 1024  # a header is about 70 bytes
MAX_PAYLOAD = MAX_RAW + (MAX_RAW >> 7) + 1024  # zstd may grow what does not compress
MAX_RECORD = PREFIX.size + MAX_HEAD + MAX_PAYLOAD

_OPENING = b"KiCI"
_CLOSING = b"KiCIlog1"
_TRAILER = struct.Struct(">II8s")
TRAILER_SIZE = _TRAILER.size

_decode_head = msgspec.msgpack.Decoder(BlockHeader).decode


class Footer(Struct, frozen=True, array_like=True):
    """Positions are fixed: append fields, never reorder."""

    version: int
    end: int
    records: int
    newlines: int
    raw_bytes: int
    open_line: bool
    complete: bool  # the producer said END; False when it vanished
    offsets: list[int]
    lines: list[int]
    first_bytes: list[int]


_decode_footer = msgspec.msgpack.Decoder(Footer).decode
_encode = msgspec.msgpack.Encoder().encode


class Snapshot(NamedTuple):
    """The state of an index at one moment. The arrays may have grown since: only the first
    `entries` entries and the file's first `end` bytes belong to it. Safe to use from another thread."""

    offsets: "array[int]"
    lines: "array[int]"
    first_bytes: "array[int]"
    entries: int
    end: int
    records: int
    newlines: int
    raw_bytes: int
    open_line: bool
    complete: bool

    @property
    def total_lines(self) -> int:
        """The open last line counts."""
        return self.newlines + self.open_line

    def entry_for_line(self, line: int) -> int:
        """File offset of an indexed record at or before the start of `line`.

        Line n starts behind the n-th newline, so what counts is the last entry with fewer newlines
        before it than that.
        """
        at = bisect_left(self.lines, line, 0, self.entries) - 1
        return self.offsets[at] if at > 0 else 0

    def entry_for_byte(self, byte: int) -> int:
        """File offset of an indexed record at or before raw byte `byte`."""
        at = bisect_right(self.first_bytes, byte, 0, self.entries) - 1
        return self.offsets[at] if at > 0 else 0


class Index:
    """Grows with its file. One owner, on the event loop."""

    __slots__ = (
        "complete",
        "end",
        "first_bytes",
        "lines",
        "newlines",
        "offsets",
        "open_line",
        "raw_bytes",
        "records",
    )

    def __init__(self) -> None:
        self.offsets = array("Q")
        self.lines = array("Q")
        self.first_bytes = array("Q")
        self.end = 0
        self.records = 0
        self.newlines = 0
        self.raw_bytes = 0
        self.open_line = False
        self.complete = False

    def add(self, header: BlockHeader, record_len: int) -> None:
        """The record was written at `end`."""
        offsets = self.offsets
        if not offsets or self.end - offsets[-1] >= SPACING:
            offsets.append(self.end)
            self.lines.append(header.first_line)
            self.first_bytes.append(header.first_byte)
        self.end += record_len
        self.records += 1
        self.newlines = header.first_line + header.line_count
        self.raw_bytes = header.first_byte + header.raw_len
        if header.raw_len:
            self.open_line = header.line_count == 0 or bool(header.flags & OPEN)
        if header.flags & END:
            self.complete = True

    def continues(self, header: BlockHeader) -> bool:
        """Do the block's positions go on from here, never back?"""
        return header.first_line >= self.newlines and header.first_byte >= self.raw_bytes

    def snapshot(self) -> Snapshot:
        return Snapshot(
            self.offsets,
            self.lines,
            self.first_bytes,
            len(self.offsets),
            self.end,
            self.records,
            self.newlines,
            self.raw_bytes,
            self.open_line,
            self.complete,
        )

    def footer(self) -> bytes:
        body = _encode(
            Footer(
                version=1,
                end=self.end,
                records=self.records,
                newlines=self.newlines,
                raw_bytes=self.raw_bytes,
                open_line=self.open_line,
                complete=self.complete,
                offsets=list(self.offsets),
                lines=list(self.lines),
                first_bytes=list(self.first_bytes),
            )
        )
        return b"".join((_OPENING, body, _TRAILER.pack(len(body), zlib.crc32(body), _CLOSING)))


def plausible(header: BlockHeader) -> bool:
    """Numbers that readers may rely on, whatever the sender is."""
    return (
        header.seq >= 0
        and header.first_line >= 0
        and header.first_byte >= 0
        and 0 <= header.line_count <= header.raw_len <= MAX_RAW
        and header.first_byte < 1 << 62
        and header.first_line < 1 << 62
    )


def read_head(data: bytes | memoryview, at: int) -> tuple[BlockHeader, int, int]:
    """Header, payload offset and end of the record at `at`, payload unseen. Raises CorruptBlock."""
    if len(data) - at < PREFIX.size:
        raise CorruptBlock("record prefix is cut short")
    head_len, payload_len, _ = PREFIX.unpack_from(data, at)
    if head_len > MAX_HEAD or payload_len > MAX_PAYLOAD:
        raise CorruptBlock("record lengths are impossible")
    payload = at + PREFIX.size + head_len
    try:
        header = _decode_head(memoryview(data)[at + PREFIX.size : payload])
    except msgspec.MsgspecError as error:
        raise CorruptBlock("record header is unreadable") from error
    return header, payload, payload + payload_len


def rebuild(data: memoryview, *, check_last_bytes: int = 4 << 20) -> Index:
    """The index of the whole records at the start of `data`; `.end` says where the sound part stops.

    Heads are walked, payloads are not touched, except that records in the last `check_last_bytes`
    prove their checksum: only there can a killed process or machine have left a torn write.
    """
    index = Index()
    size = len(data)
    while index.end < size:
        at = index.end
        try:
            if size - at <= check_last_bytes:
                header, _, end = decode_block(data, at)
            else:
                header, _, end = read_head(data, at)
        except CorruptBlock:
            break
        if end > size or header.seq != index.records or index.complete:
            break
        if not plausible(header) or not index.continues(header):
            break
        index.add(header, end - at)
    return index


def parse_trailer(data: bytes | memoryview) -> int:
    """Size of the whole footer from the file's last TRAILER_SIZE bytes. Raises CorruptBlock."""
    body_len, _, closing = _TRAILER.unpack(data)
    if closing != _CLOSING:
        raise CorruptBlock("the file has no index footer")
    return len(_OPENING) + body_len + TRAILER_SIZE


def parse_footer(data: bytes | memoryview) -> Snapshot:
    """`data` is the whole footer. Raises CorruptBlock."""
    view = memoryview(data)
    body = view[len(_OPENING) : len(view) - TRAILER_SIZE]
    _, crc, _ = _TRAILER.unpack(view[len(view) - TRAILER_SIZE :])
    if zlib.crc32(body) != crc:
        raise CorruptBlock("index footer checksum does not match")
    try:
        footer = _decode_footer(body)
    except msgspec.MsgspecError as error:
        raise CorruptBlock("index footer is unreadable") from error
    return Snapshot(
        array("Q", footer.offsets),
        array("Q", footer.lines),
        array("Q", footer.first_bytes),
        len(footer.offsets),
        footer.end,
        footer.records,
        footer.newlines,
        footer.raw_bytes,
        footer.open_line,
        footer.complete,
    )
