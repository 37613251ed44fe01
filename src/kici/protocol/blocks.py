"""The log block: header + compressed payload, the same bytes from agent to disk to reader.

A *stream* is one step's output in one attempt of a job. Bytes of a stream are cut into blocks
without changing any: concatenating the decompressed payloads gives the output exactly.

Lines are numbered from 0. `first_line` is the line that the block's first byte belongs to;
`line_count` counts the newlines in the block. A block that does not end with a newline leaves its
last line open (`OPEN`): the next block continues line `first_line + line_count`. Positions count what the
step wrote: behind a `GAP`, `first_line` and `first_byte` have moved on by what was dropped.

Record on the wire and on disk:

    u32 BE length of header | u32 BE length of payload | u32 BE crc32(header + payload) | header | payload
"""

import struct
import zlib

import msgspec
from msgspec import Struct

OPEN = 1  # the last line of this block has no newline yet
END = 2  # last block of the stream; the payload may be empty
GAP = 4  # bytes were dropped before this block; `dropped_bytes`, `dropped_lines` say how many
RAW = 8  # payload is stored uncompressed

MAX_RAW = 1 << 20  # a block's raw bytes never exceed this
PREFIX = struct.Struct(">III")


class BlockHeader(Struct, frozen=True, array_like=True):
    """Positions are fixed: append fields, never reorder."""

    job_id: str
    attempt: int
    step_index: int
    seq: int  # from 0 within the stream, gapless: the reader's idempotency key
    first_line: int
    line_count: int
    first_byte: int  # raw offset of the payload in the stream
    raw_len: int
    first_ts_ms: int
    last_ts_ms: int
    flags: int = 0
    dropped_lines: int = 0
    dropped_bytes: int = 0


_decode = msgspec.msgpack.Decoder(BlockHeader).decode
_encode = msgspec.msgpack.Encoder().encode


class CorruptBlock(Exception):
    """The record is cut short or its checksum does not hold."""


def encode_block(header: BlockHeader, payload: bytes) -> bytes:
    """One whole record. `payload` is a zstd frame unless the header says RAW."""
    head = _encode(header)
    return PREFIX.pack(len(head), len(payload), zlib.crc32(payload, zlib.crc32(head))) + head + payload


def decode_block(data: bytes | memoryview, offset: int = 0) -> tuple[BlockHeader, memoryview, int]:
    """Header, payload view and the offset after the record. Raises CorruptBlock."""
    view = memoryview(data)
    if len(view) - offset < PREFIX.size:
        raise CorruptBlock("record prefix is cut short")
    head_len, payload_len, crc = PREFIX.unpack_from(view, offset)
    start = offset + PREFIX.size
    end = start + head_len + payload_len
    if end > len(view):
        raise CorruptBlock("record is cut short")
    if zlib.crc32(view[start:end]) != crc:
        raise CorruptBlock("record checksum does not match")
    try:
        header = _decode(view[start : start + head_len])
    except msgspec.MsgspecError as error:
        raise CorruptBlock("record header is unreadable") from error
    return header, view[start + head_len : end], end
