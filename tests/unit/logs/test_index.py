"""The sparse index, its footer, and its rebuilding from record heads."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.orchestrator.logs import index as logs_index
from kici.orchestrator.logs.index import (
    SPACING,
    TRAILER_SIZE,
    Index,
    parse_footer,
    parse_trailer,
    read_head,
    rebuild,
)
from kici.protocol.blocks import BlockHeader, CorruptBlock, decode_block
from tests.support import log_blocks


def build(records: list[bytes]) -> Index:
    made = Index()
    for record in records:
        made.add(decode_block(record)[0], len(record))
    return made


def facts(made: Index) -> tuple[object, ...]:
    at = made.snapshot()
    return (*(list(column) for column in at[:3]), *at[3:])


def wide(count: int) -> tuple[list[BlockHeader], Index]:
    """`count` imaginary blocks of 100 lines, 10,000 raw bytes and 1,000 stored bytes each."""
    headers: list[BlockHeader] = []
    made = Index()
    for seq in range(count):
        header = BlockHeader(
            job_id="j",
            attempt=1,
            step_index=0,
            seq=seq,
            first_line=seq * 100,
            line_count=100,
            first_byte=seq * 10_000,
            raw_len=10_000,
            first_ts_ms=0,
            last_ts_ms=0,
        )
        headers.append(header)
        made.add(header, 1000)
    return headers, made


def test_entries_are_spaced_by_stored_bytes_however_small_the_blocks() -> None:
    _, made = wide(5000)
    offsets = list(made.offsets)
    assert offsets[0] == 0
    assert all(b - a >= SPACING for a, b in pairwise(offsets))
    assert all(b - a < SPACING + 1000 for a, b in pairwise(offsets))
    assert len(offsets) <= 5_000_000 // SPACING + 1


@given(st.integers(0, 500_100))
def test_an_entry_for_a_line_is_at_or_shortly_before_the_block_where_it_starts(line: int) -> None:
    _, made = wide(5000)
    entry = made.snapshot().entry_for_line(line)
    block = min(max(line - 1, 0) // 100, 4999)  # the one that holds newline number `line`
    assert entry in made.offsets
    assert entry <= block * 1000 < entry + SPACING + 1000


@given(st.integers(0, 50_000_000))
def test_an_entry_for_a_byte_is_at_or_shortly_before_its_block(byte: int) -> None:
    _, made = wide(5000)
    entry = made.snapshot().entry_for_byte(byte)
    block = min(byte // 10_000, 4999)
    assert entry <= block * 1000 < entry + SPACING + 1000


def test_a_line_over_many_blocks_is_found_where_it_starts() -> None:
    """All blocks but the last have no newline: line 0 is in the first, line 1 behind the last one's."""
    made = Index()
    for seq in range(200):
        last = seq == 199
        header = BlockHeader(
            job_id="j",
            attempt=1,
            step_index=0,
            seq=seq,
            first_line=0,
            line_count=1 if last else 0,
            first_byte=seq * 65_536,
            raw_len=65_536,
            first_ts_ms=0,
            last_ts_ms=0,
            flags=0 if last else 1,
        )
        made.add(header, SPACING)
    at = made.snapshot()
    assert at.entry_for_line(0) == 0
    assert at.entry_for_line(1) == 199 * SPACING
    assert at.total_lines == 1


@given(data=st.binary(max_size=4000), cuts=st.lists(st.integers(0, 4000), max_size=20), end=st.booleans())
def test_rebuilt_from_heads_it_is_the_same(data: bytes, cuts: list[int], end: bool) -> None:
    records = log_blocks.records(data, cuts, end=end)
    assert facts(rebuild(memoryview(b"".join(records)))) == facts(build(records))


@given(data=st.binary(max_size=4000), cuts=st.lists(st.integers(0, 4000), max_size=20))
def test_the_footer_says_the_same(data: bytes, cuts: list[int]) -> None:
    made = build(log_blocks.records(data, cuts))
    footer = made.footer()
    assert parse_trailer(footer[-TRAILER_SIZE:]) == len(footer)
    assert parse_footer(footer) == made.snapshot()


def test_a_damaged_footer_is_refused() -> None:
    footer = build(log_blocks.records(b"one\ntwo\n", [4])).footer()
    for at in range(4, len(footer) - TRAILER_SIZE + 8):
        damaged = bytearray(footer)
        damaged[at] ^= 1
        with pytest.raises(CorruptBlock):
            if parse_trailer(bytes(damaged[-TRAILER_SIZE:])) != len(footer):
                raise CorruptBlock("length")
            parse_footer(bytes(damaged))


def test_rebuilding_stops_at_a_footer_whole_or_torn() -> None:
    records = log_blocks.records(b"one\ntwo\nthree\n", [4, 8], end=False)
    body = b"".join(records)
    footer = build(records).footer()
    for size in range(len(footer) + 1):
        made = rebuild(memoryview(body + footer[:size]))
        assert (made.end, made.records) == (len(body), 3)


def test_rebuilding_stops_at_a_block_that_does_not_continue_the_stream() -> None:
    good = log_blocks.records(b"one\ntwo\nthree\n", [4, 8], end=False)
    made = rebuild(memoryview(good[0] + good[2]))
    assert (made.end, made.records) == (len(good[0]), 1)


def test_rebuilding_stops_behind_the_end() -> None:
    ended = log_blocks.records(b"one\n")
    more = log_blocks.records(b"one\ntwo\n", [4])[1]
    assert rebuild(memoryview(ended[0] + more)).records == 1


def test_checksums_are_only_read_where_a_torn_write_can_be() -> None:
    """A flipped payload byte far from the end is a reader's business; near the end it is a torn write."""
    records = log_blocks.records(b"x" * 50 + b"\n" + b"y" * 50 + b"\n", [51])
    body = bytearray(b"".join(records))
    body[len(records[0]) - 3] ^= 1
    assert rebuild(memoryview(body)).records == 0
    assert rebuild(memoryview(body), check_last_bytes=len(records[1])).records == 2


@pytest.mark.parametrize("prefix", ["ffffffff00000000", "00000001ffffffff", "4b69434900000000"])
def test_impossible_lengths_are_refused_before_anything_is_read(prefix: str) -> None:
    with pytest.raises(CorruptBlock):
        read_head(bytes.fromhex(prefix) + bytes(200), 0)


@pytest.mark.parametrize(
    "change",
    [
        {"raw_len": (1 << 20) + 1},
        {"line_count": 6},
        {"line_count": -1, "raw_len": 0},
        {"first_line": -1},
        {"first_byte": -1},
        {"seq": -1},
        {"first_byte": 1 << 63},
    ],
)
def test_impossible_numbers_are_not_plausible(change: dict[str, int]) -> None:
    fields = {
        "job_id": "j",
        "attempt": 1,
        "step_index": 0,
        "seq": 0,
        "first_line": 0,
        "line_count": 1,
        "first_byte": 0,
        "raw_len": 5,
        "first_ts_ms": 0,
        "last_ts_ms": 0,
    }
    assert logs_index.plausible(BlockHeader(**fields))  # pyright: ignore[reportArgumentType]
    assert not logs_index.plausible(BlockHeader(**(fields | change)))  # pyright: ignore[reportArgumentType]
