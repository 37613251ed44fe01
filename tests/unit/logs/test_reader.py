"""Readers against a plain model: bytes split at newlines."""

import asyncio
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kici.orchestrator.logs.reader import LINE_BYTES, PAGE_BYTES, RANGE_BYTES
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import LogDamaged, LogNotFound, StreamId, file_name
from kici.protocol.blocks import END, GAP, RAW, BlockHeader, encode_block
from kici.protocol.dashboard_v1 import LogPage
from tests.support import log_blocks
from tests.support.log_blocks import FIRST_TS_MS, JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)

# Lines short and long, empty ones, CR, ANSI, characters cut in the middle, no newline at the end.
pieces = st.lists(
    st.one_of(
        st.just(b"\n"),
        st.just(b"\r\n"),
        st.just(b"\x1b[31mred\x1b[0m"),
        st.just("é🙂".encode()),
        st.binary(max_size=40),
        st.text(max_size=20).map(str.encode),
    ),
    max_size=60,
).map(b"".join)
cut_lists = st.lists(st.integers(0, 2000), max_size=30)


def write(store: LogStore, records: list[bytes]) -> None:
    for record in records:
        store.append(RUN_ID, record)


def expected_page(data: bytes, offset: int, limit: int) -> list[str]:
    return log_blocks.texts(log_blocks.lines(data)[offset : offset + limit])


@given(
    data=pieces,
    cuts=cut_lists,
    offset=st.integers(0, 80),
    limit=st.integers(0, 80),
    ended=st.booleans(),
    empty_end=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_any_range_of_lines_is_the_models_live_and_stored(
    data: bytes, cuts: list[int], offset: int, limit: int, ended: bool, empty_end: bool
) -> None:
    """AG-80, AG-81, OP-82."""

    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = LogStore(folder)
            try:
                write(store, log_blocks.records(data, cuts, end=ended, empty_end=empty_end))
                model = log_blocks.lines(data)

                async def check() -> None:
                    page = await store.read(STREAM, offset, limit)
                    assert page.lines == expected_page(data, offset, limit)
                    assert page.first_line == min(offset, len(model))
                    assert (page.total_lines, page.total_bytes) == (len(model), len(data))
                    assert (page.complete, page.cut, len(page.ts)) == (ended, [], len(page.lines))
                    last = await store.read(STREAM, tail=limit)
                    assert last.lines == log_blocks.texts(model[max(0, len(model) - limit) :])
                    assert last.first_line == max(0, len(model) - limit)

                await check()
                if ended:
                    await store.finalize(*STREAM)
                    await check()
            finally:
                await store.close()

    asyncio.run(scenario())


@given(
    data=pieces, cuts=cut_lists, start=st.integers(0, 2500), size=st.integers(1, 300), ended=st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_any_range_of_bytes_is_the_models(
    data: bytes, cuts: list[int], start: int, size: int, ended: bool
) -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = LogStore(folder)
            try:
                write(store, log_blocks.records(data, cuts, end=ended))
                if ended:
                    await store.finalize(*STREAM)
                part = await store.raw(STREAM, start, size)
                assert part.data == data[start : start + size]
                assert part.next_byte == max(start, min(start + size, len(data)))
                whole, at = b"", 0
                while True:
                    part = await store.raw(STREAM, at, size)
                    whole, at = whole + part.data, part.next_byte
                    if part.done:
                        break
                assert whole == data
            finally:
                await store.close()

    asyncio.run(scenario())


async def test_each_line_has_the_time_of_the_block_where_it_starts(store: LogStore) -> None:
    data = b"one\ntwo\nthree\nfour\n"
    write(store, log_blocks.records(data, [4, 10, 15]))  # one | two, th | ree\nf… | our
    page = await store.read(STREAM)
    assert page.lines == ["one", "two", "three", "four"]
    assert [ts - FIRST_TS_MS for ts in page.ts] == [0, 1, 1, 2]


async def test_a_hundred_megabyte_line_is_shown_cut_and_the_lines_around_it_whole(store: LogStore) -> None:
    block = bytes(range(32, 126)) * 697
    records: list[bytes] = []
    byte = 0

    def add(piece: bytes, line: int, flags: int = 0) -> None:
        nonlocal byte
        header = BlockHeader(
            job_id=JOB_ID,
            attempt=1,
            step_index=0,
            seq=len(records),
            first_line=line,
            line_count=piece.count(b"\n"),
            first_byte=byte,
            raw_len=len(piece),
            first_ts_ms=0,
            last_ts_ms=0,
            flags=flags | RAW | (0 if piece.endswith(b"\n") else 1),
        )
        byte += len(piece)
        records.append(encode_block(header, piece))

    add(b"before\n", 0)
    for _ in range(1600):
        add(block, 1)
    add(b"last of it\nafter\n", 1, END)
    write(store, records)

    def check(page: LogPage) -> None:
        assert [len(line) for line in page.lines] == [6, LINE_BYTES, 5]
        assert page.lines[1] == (block * 2).decode()[:LINE_BYTES]
        assert page.lines[2] == "after"
        assert page.cut == [1]
        assert page.total_bytes == byte > 100_000_000

    check(await store.read(STREAM))
    check(await store.read(STREAM, tail=10))
    assert (await store.read(STREAM, 2)).lines == ["after"]
    await store.finalize(*STREAM)
    check(await store.read(STREAM))


async def test_a_cut_never_splits_a_character(store: LogStore) -> None:
    data = b"x" + "🙂".encode() * (LINE_BYTES // 4 + 10) + b"\nnext\n"
    write(store, log_blocks.records(data, [1000, 70_000]))
    page = await store.read(STREAM)
    assert page.cut == [0]
    assert page.lines[0] == "x" + "🙂" * ((LINE_BYTES - 1) // 4)
    assert page.lines[1] == "next"


async def test_a_page_ends_when_its_text_is_large_and_the_next_one_goes_on(store: LogStore) -> None:
    line = b"z" * 1000 + b"\n"
    data = line * 5000
    write(store, log_blocks.records(data, range(0, len(data), 500_000)))
    seen = 0
    while seen < 5000:
        page = await store.read(STREAM, seen, 5000)
        assert page.first_line == seen
        assert 0 < sum(map(len, page.lines)) <= PAGE_BYTES + LINE_BYTES
        seen += len(page.lines)
    assert seen == 5000


async def test_the_tail_ends_with_the_last_line_however_large_the_lines(store: LogStore) -> None:
    data = b"".join(b"%07d " % number + b"z" * 1000 + b"\n" for number in range(6000)) + b"unfinished"
    write(store, log_blocks.records(data, range(0, len(data), 333_333), end=False))
    page = await store.read(STREAM, tail=6001)
    assert page.lines[-1] == "unfinished"
    assert page.first_line + len(page.lines) == page.total_lines == 6001
    assert PAGE_BYTES // 4 < sum(map(len, page.lines)) <= PAGE_BYTES
    assert page.lines[0].startswith(f"{page.first_line:07d} ")


async def test_dropped_lines_keep_their_numbers_and_say_so(store: LogStore) -> None:
    """AG-82."""
    head = log_blocks.records(b"one\ntwo\n", end=False)
    tail = BlockHeader(
        job_id=JOB_ID,
        attempt=1,
        step_index=0,
        seq=1,
        first_line=1002,
        line_count=2,
        first_byte=50_008,
        raw_len=14,
        first_ts_ms=5,
        last_ts_ms=5,
        flags=GAP | END | RAW,
        dropped_lines=1000,
        dropped_bytes=50_000,
    )
    write(store, [*head, encode_block(tail, b"the end\ntruly\n")])
    notice = "[1000 lines, 50000 bytes dropped: the log is over its size limit]"
    for _ in range(2):
        page = await store.read(STREAM)
        assert page.lines == ["one", "two", *[notice] * 1000, "the end", "truly"]
        assert page.total_lines == 1004
        assert (await store.read(STREAM, 700, 2)).lines == [notice] * 2
        assert (await store.read(STREAM, 700, 2)).first_line == 700
        assert (await store.read(STREAM, tail=3)).lines == [notice, "the end", "truly"]
        part = await store.raw(STREAM, 4)
        assert part.data == b"two\n" + f"\n{notice}\n".encode() + b"the end\ntruly\n"
        assert part.done
        assert (await store.search(STREAM, "truly", regex=False)).matches[0].line == 1003
        await store.finalize(*STREAM)


async def test_an_open_line_that_lost_its_rest_is_shown_and_counted(store: LogStore) -> None:
    head = log_blocks.records(b"one\nhalf", end=False)
    tail = BlockHeader(
        job_id=JOB_ID,
        attempt=1,
        step_index=0,
        seq=1,
        first_line=3,
        line_count=1,
        first_byte=100,
        raw_len=4,
        first_ts_ms=5,
        last_ts_ms=5,
        flags=GAP | END | RAW,
        dropped_lines=2,
        dropped_bytes=92,
    )
    write(store, [*head, encode_block(tail, b"end\n")])
    page = await store.read(STREAM)
    notice = "[2 lines, 92 bytes dropped: the log is over its size limit]"
    assert page.lines == ["one", "half", notice, "end"]
    assert (await store.search(STREAM, "half$", regex=True)).matches[0].line == 1


async def test_ranges_are_bounded_whatever_is_asked(store: LogStore) -> None:
    data = b"q" * 3_000_000
    write(store, log_blocks.records(data, range(0, len(data), 1 << 20)))
    part = await store.raw(STREAM, 0, 1 << 40)
    assert len(part.data) == RANGE_BYTES
    assert part.next_byte == RANGE_BYTES
    assert not part.done
    page = await store.read(STREAM, -5, -7)
    assert (page.lines, page.first_line) == ([], 0)


async def test_a_log_that_was_never_written_is_not_found(store: LogStore) -> None:
    with pytest.raises(LogNotFound):
        await store.read(STREAM)
    with pytest.raises(LogNotFound):
        await store.raw(StreamId("../../etc", "passwd", 1, 0), 0)


async def test_a_damaged_block_is_reported_not_invented(store: LogStore, tmp_path: object) -> None:
    data = b"".join(b"line %d\n" % number for number in range(2000))
    write(store, log_blocks.records(data, [4000, 8000]))
    await store.finalize(*STREAM)
    path = f"{tmp_path}/store/logs/{RUN_ID[:7]}/{file_name(STREAM)}.log"
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\0\0\0\0")
    with pytest.raises(LogDamaged):
        await store.read(STREAM)
    assert (await store.read(STREAM, tail=1)).lines == ["line 1999"]


@pytest.mark.parametrize("payload", [b"not zstd", b""])
async def test_a_payload_that_is_not_what_its_header_says_is_damage(
    store: LogStore, payload: bytes
) -> None:
    header = BlockHeader(
        job_id=JOB_ID,
        attempt=1,
        step_index=0,
        seq=0,
        first_line=0,
        line_count=1,
        first_byte=0,
        raw_len=5,
        first_ts_ms=0,
        last_ts_ms=0,
    )
    store.append(RUN_ID, encode_block(header, payload))
    with pytest.raises(LogDamaged):
        await store.read(STREAM)
