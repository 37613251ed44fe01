"""Following a stream: everything from the asked line on, in order, byte-identical, then the end."""

import asyncio
import os
import random
import tempfile
from collections.abc import Callable
from contextlib import aclosing

from hypothesis import given, settings
from hypothesis import strategies as st

from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import StreamId
from kici.protocol.blocks import decode_block
from tests.support import log_blocks
from tests.support.log_blocks import JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)
DATA = b"".join(b"line %d of the log\n" % number for number in range(400))
RECORDS = log_blocks.records(DATA, range(0, len(DATA), 97))


async def collect(store: LogStore, from_line: int, got: list[bytes]) -> None:
    async with aclosing(store.watch(STREAM, from_line)) as records:
        async for record in records:
            got.append(record)  # noqa: PERF401  each when it comes, the caller looks on


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


def expected(line: int, joined: int) -> list[bytes]:
    """From the block in which `line` starts; `joined` blocks were there when the watcher came."""
    known = DATA[: sum(decode_block(record)[0].raw_len for record in RECORDS[:joined])]
    line = min(line, known.count(b"\n"))
    start = sum(len(text) + 1 for text in log_blocks.lines(DATA)[:line])
    byte = 0
    for seq, record in enumerate(RECORDS):
        byte += decode_block(record)[0].raw_len
        if byte > start:
            return RECORDS[seq:]
    return []


@given(joined=st.integers(0, len(RECORDS)), line=st.integers(0, 420), seed=st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_a_watcher_that_joins_at_any_moment_misses_nothing(joined: int, line: int, seed: int) -> None:
    """`joined` blocks are there when it comes; the others follow in uneven bursts."""
    dice = random.Random(seed)

    async def scenario(folder: str) -> None:
        store = LogStore(folder)
        for record in RECORDS[:joined]:
            store.append(RUN_ID, record)
        got: list[bytes] = []
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(collect(store, line, got))
            await asyncio.sleep(0)
            for record in RECORDS[joined:]:
                if dice.random() < 0.2:
                    await asyncio.sleep(0)
                store.append(RUN_ID, record)
            await store.finalize(*STREAM)
        # Where it began is decided when it looks: at least what it asked for, at most what was to come.
        assert got == RECORDS[len(RECORDS) - len(got) :]
        assert len(expected(line, len(RECORDS))) <= len(got) <= len(expected(line, joined))
        got.clear()
        await collect(store, line, got)  # and once more from storage
        assert got == expected(line, len(RECORDS))
        await store.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(scenario(folder))


async def test_each_record_arrives_when_it_is_appended(store: LogStore) -> None:
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        for seq, record in enumerate(RECORDS):
            store.append(RUN_ID, record)
            await until(lambda seq=seq: len(got) == seq + 1)
        await store.finalize(*STREAM)
    assert got == RECORDS


async def test_it_waits_for_a_stream_that_has_not_begun(store: LogStore) -> None:
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        await until(lambda: STREAM in store.unfinished())
        for record in RECORDS:
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
    assert got == RECORDS
    assert store.unfinished() == []


async def test_a_stream_that_never_begins_ends_with_its_step(store: LogStore) -> None:
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        await until(lambda: STREAM in store.unfinished())
        await store.finalize(*STREAM)
    assert got == []


async def test_an_empty_last_block_reaches_the_watcher(store: LogStore) -> None:
    records = log_blocks.records(b"one\n", empty_end=True)
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        for record in records:
            await asyncio.sleep(0)
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
    assert got == records


async def test_the_last_block_ends_the_watch_before_storage_has_it(store: LogStore) -> None:
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        for record in RECORDS:
            store.append(RUN_ID, record)
    assert got == RECORDS


async def test_many_watchers_see_the_same(store: LogStore) -> None:
    got: list[list[bytes]] = [[] for _ in range(20)]
    async with asyncio.TaskGroup() as tasks:
        for one in got:
            tasks.create_task(collect(store, 0, one))
        for record in RECORDS:
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
    assert got == [RECORDS] * 20


async def test_a_slow_watcher_gets_everything_and_costs_nothing(store: LogStore) -> None:
    async with aclosing(store.watch(STREAM)) as records:
        store.append(RUN_ID, RECORDS[0])
        got = [await anext(records)]
        for record in RECORDS[1:]:
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
        got += [record async for record in records]
    assert got == RECORDS


async def test_a_record_larger_than_a_read_arrives_whole(store: LogStore) -> None:
    data = random.Random(1).randbytes(1 << 20)
    records = log_blocks.records(data * 2 + b"\nend\n", [1 << 20, 2 << 20])
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        for record in records:
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
    assert got == records


async def test_an_abandoned_watch_leaves_nothing_behind(store: LogStore) -> None:
    before = len(os.listdir("/proc/self/fd"))
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(collect(store, 0, []))
        store.append(RUN_ID, RECORDS[0])
        await until(
            lambda: len(os.listdir("/proc/self/fd")) == before + 2
        )  # the segment's and the watcher's
        watching.cancel()
    assert len(os.listdir("/proc/self/fd")) == before + 1


async def test_a_removed_run_ends_its_watchers(store: LogStore) -> None:
    store.append(RUN_ID, RECORDS[0])
    got: list[bytes] = []
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(collect(store, 0, got))
        await until(lambda: got == [RECORDS[0]])
        await store.remove_run(RUN_ID)
    assert got == [RECORDS[0]]
