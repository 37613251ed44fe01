"""Cuts bytes into block records in any way a test likes, and says what a reader must find."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import zstandard

from kici.protocol.blocks import END, OPEN, RAW, BlockHeader, encode_block

JOB_ID = "0198c0de-0000-7000-8000-00000000000b"
RUN_ID = "0198c0de-0000-7000-8000-00000000000a"
FIRST_TS_MS = 1_760_000_000_000

_compress = zstandard.ZstdCompressor(level=1).compress


def records(
    data: bytes,
    cuts: Iterable[int] = (),
    *,
    job_id: str = JOB_ID,
    attempt: int = 1,
    step_index: int = 0,
    end: bool = True,
    empty_end: bool = False,
    raw_below: int = 96,
) -> list[bytes]:
    """`data` as records, cut at the offsets `cuts`. Block n carries the time FIRST_TS_MS + n.

    `end`: the last block says END; `empty_end`: it is an empty block of its own.
    """
    inside = sorted({cut for cut in cuts if 0 < cut < len(data)})
    pieces = [data[start:stop] for start, stop in pairwise([0, *inside, len(data)])]
    if end and empty_end:
        pieces.append(b"")
    made: list[bytes] = []
    line = byte = 0
    open_line = False
    for seq, piece in enumerate(pieces):
        if piece:
            open_line = not piece.endswith(b"\n")
        flags = (OPEN if open_line else 0) | (END if end and seq == len(pieces) - 1 else 0)
        payload = piece if len(piece) < raw_below else _compress(piece)
        if payload is piece:
            flags |= RAW
        header = BlockHeader(
            job_id=job_id,
            attempt=attempt,
            step_index=step_index,
            seq=seq,
            first_line=line,
            line_count=piece.count(b"\n"),
            first_byte=byte,
            raw_len=len(piece),
            first_ts_ms=FIRST_TS_MS + seq,
            last_ts_ms=FIRST_TS_MS + seq,
            flags=flags,
        )
        made.append(encode_block(header, payload))
        line += header.line_count
        byte += len(piece)
    return made


def lines(data: bytes) -> list[bytes]:
    """The model: what stands between newlines, an unfinished last line included."""
    found = data.split(b"\n")
    if not found[-1]:
        found.pop()
    return found


def texts(data: Sequence[bytes]) -> list[str]:
    return [line.decode("utf-8", "replace") for line in data]
