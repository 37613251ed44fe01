"""Log blocks as lines for browsers. Each block is decompressed at most once, and only if somebody is
about to read it."""

from functools import cache
from typing import Any

from kici.protocol.blocks import MAX_RAW, OPEN, RAW, BlockHeader
from kici.protocol.browser_v1 import LogLines, encode

LINE_CAP_BYTES = 64 << 10  # longer lines are cut; REST says which


@cache
def _decompressor() -> Any:
    import zstandard

    return zstandard.ZstdDecompressor()


def raw_bytes(header: BlockHeader, payload: memoryview) -> bytes:
    if header.flags & RAW or not payload:
        return bytes(payload)
    return _decompressor().decompress(payload, max_output_size=MAX_RAW)


class LiveBlock:
    """`carried` is the beginning of the block's first line when earlier blocks left it open."""

    __slots__ = ("_carried", "_lines", "_payload", "_text", "end", "header", "open_tail", "size")

    def __init__(self, header: BlockHeader, payload: memoryview, carried: bytes) -> None:
        self.header = header
        self._payload = payload
        self._carried = carried
        self._lines: list[str] | None = None
        self._text: str | None = None
        self.size = header.raw_len + len(carried) + 200
        self.end = header.first_line + header.line_count  # first line not complete in this block
        self.open_tail = b""
        if header.flags & OPEN or carried:
            self._decode()

    @property
    def first(self) -> int:
        return self.header.first_line

    def _decode(self) -> list[str]:
        data = self._carried + raw_bytes(self.header, self._payload)
        if self.header.flags & OPEN:
            self.open_tail = data[data.rfind(b"\n") + 1 :][:LINE_CAP_BYTES]
        elif data.endswith(b"\n"):
            data = data[:-1]
        elif not data:
            self._lines = []
            return self._lines
        lines = data.decode("utf-8", "replace").split("\n")
        if len(data) > LINE_CAP_BYTES:
            lines = [line[:LINE_CAP_BYTES] for line in lines]
        self._lines = lines
        self._payload = memoryview(b"")
        return lines

    @property
    def is_open(self) -> bool:
        return bool(self.header.flags & OPEN and self.open_tail)

    def frame(self, run_id: str, from_line: int) -> str:
        """The `log.lines` frame from `from_line` on; the whole block's is kept for the next reader."""
        if from_line <= self.first and self._text is not None:
            return self._text
        lines = self._lines if self._lines is not None else self._decode()
        skip = max(0, from_line - self.first)
        part = lines[skip:] if skip else lines
        text = encode(
            LogLines(
                run_id=run_id,
                job_id=self.header.job_id,
                step_index=self.header.step_index,
                attempt=self.header.attempt,
                first_line=self.first + skip,
                lines=part,
                ts=[self.header.first_ts_ms] * len(part),
                line_count=self.first + len(lines),
                open_line=self.is_open,
            )
        ).decode()
        if not skip:
            self._text = text
        return text
