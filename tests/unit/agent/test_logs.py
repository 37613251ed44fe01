"""The cutter: whatever comes in comes out, in blocks that add up (design §6, AG-80…82)."""

import zstandard
from hypothesis import given
from hypothesis import strategies as st

from kici.agent.logs import FIRST_BLOCK, PATIENCE_MS, TAIL, Cutter, Totals
from kici.protocol import blocks
from kici.protocol.blocks import BlockHeader

_unzip = zstandard.ZstdDecompressor()


class Sink:
    """Collects blocks and checks each header against what went before."""

    def __init__(self) -> None:
        self.headers: list[BlockHeader] = []
        self.parts: list[bytes] = []
        self.lines = 0
        self.bytes = 0

    def __call__(self, header: BlockHeader, payload: bytes) -> None:
        raw = payload
        if not header.flags & blocks.RAW:
            raw = _unzip.decompress(payload, max_output_size=blocks.MAX_RAW)
        assert not self.headers or not self.headers[-1].flags & blocks.END
        assert header.seq == len(self.headers)
        assert header.raw_len == len(raw) <= blocks.MAX_RAW
        assert header.line_count == raw.count(b"\n")
        assert header.first_line == self.lines + header.dropped_lines
        assert header.first_byte == self.bytes + header.dropped_bytes
        assert header.first_ts_ms <= header.last_ts_ms
        assert not self.headers or self.headers[-1].last_ts_ms <= header.last_ts_ms
        if raw:
            assert bool(header.flags & blocks.OPEN) == (not raw.endswith(b"\n"))
        self.lines = header.first_line + header.line_count
        self.bytes = header.first_byte + header.raw_len
        self.headers.append(header)
        self.parts.append(raw)

    @property
    def data(self) -> bytes:
        return b"".join(self.parts)


def cutter(sink: Sink, **options: int) -> Cutter:
    return Cutter("job", 1, 0, sink, **options)


chunks = st.lists(
    st.one_of(
        st.binary(max_size=300),
        st.sampled_from(
            [b"\n", b"\n\n", b"line\n", b"\r\n", b"x" * 70_000, b"y" * 70_000 + b"\n", b"z\n" * 90_000]
        ),
    ),
    max_size=30,
)
gaps_ms = st.lists(st.integers(0, 250), max_size=30)


@given(chunks, gaps_ms)
def test_any_chunking_reproduces_the_bytes(parts: list[bytes], gaps: list[int]) -> None:
    sink = Sink()
    subject = cutter(sink)
    now = 1_000
    for number, part in enumerate(parts):
        subject.feed(part, now)
        now += gaps[number % len(gaps)] if gaps else 0
        subject.tick(now)
    totals = subject.end(now)

    expected = b"".join(parts)
    assert sink.data == expected
    assert sink.headers[-1].flags & blocks.END
    assert totals.bytes == len(expected)
    assert totals.lines == expected.count(b"\n") + (not expected.endswith(b"\n") and bool(expected))


@given(chunks, st.integers(1, 300_000))
def test_the_limit_keeps_the_head_and_the_last_part(parts: list[bytes], limit: int) -> None:
    sink = Sink()
    subject = cutter(sink, max_bytes=limit)
    for number, part in enumerate(parts):
        subject.feed(part, number)
    totals = subject.end(len(parts))

    expected = b"".join(parts)
    dropped = sum(header.dropped_bytes for header in sink.headers)
    assert totals.bytes == len(expected)
    assert len(sink.data) + dropped == len(expected)
    assert len(sink.data) <= limit + TAIL
    last = sink.headers[-1]
    if dropped:
        assert last.flags & blocks.GAP
        tail = sink.parts[-1]
        assert tail
        assert expected.endswith(tail)
        assert sink.data[: -len(tail)] == expected[: len(sink.data) - len(tail)]
        assert last.dropped_lines == expected.count(b"\n") - sink.data.count(b"\n")
    else:
        assert sink.data == expected
        assert not last.flags & blocks.GAP


def test_lines_are_not_torn_while_they_can_be_complete() -> None:
    sink = Sink()
    subject = cutter(sink)
    line = b"x" * 999 + b"\n"
    for _ in range(3_000):
        subject.feed(line, 0)
    subject.end(0)
    assert all(part.endswith(b"\n") for part in sink.parts if part)
    assert sink.headers[0].raw_len <= FIRST_BLOCK


def test_blocks_grow_under_load_and_shrink_when_it_ends() -> None:
    sink = Sink()
    subject = cutter(sink)
    for _ in range(64):
        subject.feed(b"some words of a log line\n" * 4_000, 0)
    assert max(header.raw_len for header in sink.headers) > blocks.MAX_RAW - 100
    for now in range(PATIENCE_MS, 20 * PATIENCE_MS, PATIENCE_MS):
        subject.feed(b"slow\n", now)
        subject.tick(now + PATIENCE_MS)
    before = len(sink.headers)
    subject.feed(b"n" * 100 + b"\n" * FIRST_BLOCK, 10_000)
    assert len(sink.headers) > before


def test_a_dot_a_second_arrives_as_it_is_printed() -> None:
    sink = Sink()
    subject = cutter(sink)
    for second in range(5):
        subject.feed(b".", second * 1000)
        subject.tick(second * 1000 + PATIENCE_MS)
        assert sink.data == b"." * (second + 1)
    subject.feed(b"\n", 5_000)
    assert subject.end(5_000) == Totals(1, 6)
    assert all(header.first_line == 0 for header in sink.headers)


def test_complete_lines_leave_first_and_the_open_one_follows() -> None:
    sink = Sink()
    subject = cutter(sink)
    subject.feed(b"done\nhalf", 0)
    assert subject.due_ms == PATIENCE_MS
    subject.tick(PATIENCE_MS - 1)
    assert not sink.parts
    subject.tick(PATIENCE_MS)
    assert sink.parts == [b"done\n"]
    subject.feed(b" a line\n", 150)
    subject.tick(2 * PATIENCE_MS)
    assert sink.parts == [b"done\n", b"half a line\n"]
    assert subject.due_ms is None


def test_one_huge_line_is_cut_into_open_blocks() -> None:
    sink = Sink()
    subject = cutter(sink)
    for _ in range(10):
        subject.feed(b"x" * blocks.MAX_RAW, 0)
    assert subject.end(0) == Totals(1, 10 * blocks.MAX_RAW)
    assert len(sink.data) == 10 * blocks.MAX_RAW
    assert all(header.first_line == 0 and header.flags & blocks.OPEN for header in sink.headers)


def test_an_empty_stream_is_one_empty_last_block() -> None:
    sink = Sink()
    assert cutter(sink).end(5) == Totals(0, 0)
    (header,) = sink.headers
    assert (header.raw_len, header.flags) == (0, blocks.END | blocks.RAW)


def test_small_and_incompressible_output_is_stored_as_it_is() -> None:
    sink = Sink()
    subject = cutter(sink)
    subject.feed(b"ok\n", 0)
    subject.end(0)
    assert sink.headers[0].flags & blocks.RAW
