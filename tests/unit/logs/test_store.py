"""What the store keeps: repetitions, holes, torn tails, full disks, ends, removal."""

import asyncio
import os
import resource
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import LogNotFound, LogNotWritable, MissingBlocks, StreamId, file_name
from kici.protocol.blocks import END, BlockHeader, CorruptBlock, encode_block
from kici.runtime.metrics import Metrics
from tests.support import log_blocks
from tests.support.log_blocks import JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)
DATA = b"".join(b"line %d of the log\n" % number for number in range(200))
CUTS = [500, 1000, 1700, 2900]


def live_path(folder: Path | str, stream: StreamId = STREAM) -> str:
    return f"{folder}/logs/{file_name(stream)}.seg"


def stored_path(folder: Path | str, stream: StreamId = STREAM) -> str:
    return f"{folder}/store/logs/{stream.run_id[:7]}/{file_name(stream)}.log"


async def whole(store: LogStore, stream: StreamId = STREAM) -> bytes:
    return (await store.raw(stream, 0)).data


async def test_a_live_file_is_the_records_one_after_another(store: LogStore, tmp_path: Path) -> None:
    records = log_blocks.records(DATA, CUTS)
    for record in records:
        store.append(RUN_ID, memoryview(record))
    assert Path(live_path(tmp_path)).read_bytes() == b"".join(records)


async def test_append_tells_the_end(store: LogStore) -> None:
    flags = [store.append(RUN_ID, record).flags & END for record in log_blocks.records(DATA, CUTS)]
    assert flags == [0, 0, 0, 0, END]


async def test_repeated_blocks_change_nothing(store: LogStore) -> None:
    records = log_blocks.records(DATA, CUTS)
    for count in range(len(records)):
        for record in records[: count + 1]:
            store.append(RUN_ID, record)
    assert await whole(store) == DATA
    await store.finalize(*STREAM)
    for record in records:
        store.append(RUN_ID, record)
    assert await whole(store) == DATA
    assert store.unfinished() == []


async def test_a_block_before_its_predecessors_is_refused(store: LogStore) -> None:
    records = log_blocks.records(DATA, CUTS)
    with pytest.raises(MissingBlocks):
        store.append(RUN_ID, records[1])
    store.append(RUN_ID, records[0])
    with pytest.raises(MissingBlocks) as refused:
        store.append(RUN_ID, records[3])
    assert (refused.value.expected, refused.value.got) == (1, 3)
    for record in records[1:]:
        store.append(RUN_ID, record)
    assert await whole(store) == DATA


async def test_nothing_comes_after_the_end(store: LogStore) -> None:
    store.append(RUN_ID, log_blocks.records(b"one\n")[0])
    with pytest.raises(CorruptBlock):
        store.append(RUN_ID, log_blocks.records(b"one\ntwo\n", [4])[1])
    assert await whole(store) == b"one\n"


async def test_a_step_that_printed_nothing_has_an_empty_log(store: LogStore) -> None:
    store.append(RUN_ID, log_blocks.records(b"")[0])
    for _ in range(2):
        page = await store.read(STREAM)
        assert (page.lines, page.total_lines, page.complete) == ([], 0, True)
        assert (await store.search(STREAM, "x", regex=False)).scanned_lines == 0
        await store.finalize(*STREAM)


@pytest.mark.parametrize(
    "change",
    [
        {"job_id": "../../../../tmp/evil"},
        {"job_id": ""},
        {"job_id": "a" * 65},
        {"attempt": -1},
        {"raw_len": 1 << 21},
        {"line_count": 7},
        {"first_byte": -4},
    ],
)
async def test_headers_that_cannot_be_are_refused_and_leave_no_file(
    store: LogStore, tmp_path: Path, change: dict[str, int | str]
) -> None:
    fields: dict[str, int | str] = {
        "job_id": JOB_ID,
        "attempt": 1,
        "step_index": 0,
        "seq": 0,
        "first_line": 0,
        "line_count": 1,
        "first_byte": 0,
        "raw_len": 4,
        "first_ts_ms": 0,
        "last_ts_ms": 0,
        "flags": 8,
    }
    header = BlockHeader(**(fields | change))  # pyright: ignore[reportArgumentType]
    with pytest.raises(CorruptBlock):
        store.append(RUN_ID, encode_block(header, b"one\n"))
    with pytest.raises(CorruptBlock):
        store.append("..", log_blocks.records(b"one\n")[0])
    assert [name for _, _, names in os.walk(tmp_path) for name in names] == []


async def test_positions_that_go_back_are_refused(store: LogStore) -> None:
    store.append(RUN_ID, log_blocks.records(b"one\ntwo\n", [4], end=False)[0])
    header = BlockHeader(
        job_id=JOB_ID,
        attempt=1,
        step_index=0,
        seq=1,
        first_line=0,
        line_count=1,
        first_byte=4,
        raw_len=4,
        first_ts_ms=0,
        last_ts_ms=0,
        flags=8,
    )
    with pytest.raises(CorruptBlock):
        store.append(RUN_ID, encode_block(header, b"one\n"))


async def test_a_record_with_more_behind_it_is_refused(store: LogStore) -> None:
    with pytest.raises(CorruptBlock):
        store.append(RUN_ID, log_blocks.records(b"one\n")[0] + b"x")


async def test_a_torn_tail_is_cut_off_wherever_the_write_stopped(tmp_path: Path) -> None:
    records = log_blocks.records(DATA, CUTS, end=False)
    before = b"".join(records[:-1])
    for size in range(len(records[-1])):
        folder = tmp_path / str(size)
        path = Path(live_path(folder))
        path.parent.mkdir(parents=True)
        path.write_bytes(before + records[-1][:size])
        store = LogStore(str(folder))
        assert await whole(store) == DATA[: CUTS[-1]]
        for record in records:  # the agent sends again what was not acknowledged, and maybe more
            store.append(RUN_ID, record)
        assert await whole(store) == DATA
        assert path.read_bytes() == before + records[-1]
        await store.close()
        shutil.rmtree(folder)


async def test_damage_larger_than_a_torn_tail_is_kept_for_inspection(tmp_path: Path) -> None:
    records = log_blocks.records(
        b"x" * 3_000_000, range(0, 3_000_000, 500_000), end=False, raw_below=1 << 20
    )
    path = Path(live_path(tmp_path))
    path.parent.mkdir(parents=True)
    body = bytearray(b"".join(records))
    body[600_000 + 100] ^= 1
    path.write_bytes(body)
    store = LogStore(str(tmp_path))
    assert await whole(store) == b"x" * 500_000
    assert Path(str(path) + ".damaged").read_bytes() == body[len(records[0]) :]
    await store.close()


LARGE = (b"x" * 999 + b"\n") * 1000  # larger than anything else that is written meanwhile


async def test_a_full_disk_refuses_and_later_goes_on(store: LogStore) -> None:
    records = log_blocks.records(LARGE, [500_000], raw_below=1 << 20)
    store.append(RUN_ID, records[0])
    with file_size_limit(700_000):
        for _ in range(2):
            with pytest.raises(LogNotWritable):
                store.append(RUN_ID, records[1])
        assert await whole(store) == LARGE[:500_000]
    store.append(RUN_ID, records[1])
    assert await whole(store) == LARGE


async def test_an_end_on_a_full_disk_is_kept_and_swept_later(store: LogStore, tmp_path: Path) -> None:
    records = log_blocks.records(LARGE, [500_000], raw_below=1 << 20)
    for record in records:
        store.append(RUN_ID, record)
    with file_size_limit(len(b"".join(records)) + 10):
        await store.finalize(*STREAM)
        assert await store.sweep() == 0
        assert (await store.read(STREAM, tail=1)).complete
    assert await store.sweep() == 1
    assert not os.path.exists(live_path(tmp_path))
    assert await whole(store) == LARGE


@contextmanager
def file_size_limit(size: int) -> Generator[None]:
    """A disk that is full once a file has `size` bytes (python ignores SIGXFSZ)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


async def test_finalising_moves_the_file_once(store: LogStore, tmp_path: Path) -> None:
    for record in log_blocks.records(DATA, CUTS):
        store.append(RUN_ID, record)
    await asyncio.gather(*(store.finalize(*STREAM) for _ in range(3)))
    await store.finalize(*STREAM)
    assert not os.path.exists(live_path(tmp_path))
    assert os.path.exists(stored_path(tmp_path))
    assert await whole(store) == DATA


async def test_a_stream_whose_producer_vanished_is_finalised_without_an_end(store: LogStore) -> None:
    records = log_blocks.records(DATA, CUTS)
    for record in records[:2]:
        store.append(RUN_ID, record)
    await store.finalize(*STREAM)
    store.append(RUN_ID, records[2])  # too late: a fenced attempt
    assert await whole(store) == DATA[:1000]
    assert not (await store.read(STREAM)).complete


async def test_finalising_what_never_was_is_harmless(store: LogStore) -> None:
    await store.finalize(*STREAM)
    with pytest.raises(LogNotFound):
        await store.read(STREAM)


async def test_a_restart_goes_on_where_the_last_process_stopped(tmp_path: Path) -> None:
    records = log_blocks.records(DATA, CUTS)
    for count in range(len(records) + 1):
        folder = str(tmp_path / str(count))
        first = LogStore(folder)
        for record in records[:count]:
            first.append(RUN_ID, record)
        await first.close()
        second = LogStore(folder)
        assert await second.sweep() == (count == len(records))
        for record in records[max(0, count - 1) :]:
            second.append(RUN_ID, record)
        await second.finalize(*STREAM)
        assert await whole(second) == DATA
        await second.close()


async def test_streams_of_one_job_do_not_mix(store: LogStore) -> None:
    streams = [StreamId(RUN_ID, JOB_ID, attempt, step) for attempt in (1, 2) for step in (-1, 0, 1_000_001)]
    parts = {
        stream: log_blocks.records(
            f"{stream}\n".encode() * 20, [300, 700], attempt=stream.attempt, step_index=stream.step_index
        )
        for stream in streams
    }
    for seq in range(3):
        for stream in streams:
            store.append(RUN_ID, parts[stream][seq])
    assert set(store.unfinished()) == set(streams)
    for stream in streams:
        await store.finalize(*stream)
    for stream in streams:
        assert await whole(store, stream) == f"{stream}\n".encode() * 20


async def test_few_descriptors_serve_many_streams(tmp_path: Path) -> None:
    store = LogStore(str(tmp_path), max_open_files=4)
    before = len(os.listdir("/proc/self/fd"))
    jobs = [f"job-{number}" for number in range(50)]
    parts = {job: log_blocks.records(DATA, CUTS, job_id=job) for job in jobs}
    for seq in range(len(CUTS) + 1):
        for job in jobs:
            store.append(RUN_ID, parts[job][seq])
            assert len(os.listdir("/proc/self/fd")) <= before + 4
    for job in jobs:
        assert await whole(store, StreamId(RUN_ID, job, 1, 0)) == DATA
    await store.close()
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_removing_a_run_removes_its_logs_and_no_others(store: LogStore, tmp_path: Path) -> None:
    other = StreamId("another-run", JOB_ID, 1, 0)
    live = StreamId(RUN_ID, JOB_ID, 1, 1)
    for record in log_blocks.records(DATA, CUTS):
        store.append(RUN_ID, record)
        store.append("another-run", record)
    await store.finalize(*STREAM)
    await store.finalize(*other)
    assert await whole(store) == DATA
    for record in log_blocks.records(DATA, CUTS, step_index=1)[:2]:
        store.append(RUN_ID, record)
    await store.remove_run(RUN_ID)
    for stream in (STREAM, live):
        with pytest.raises(LogNotFound):
            await store.read(stream)
    assert await whole(store, other) == DATA
    store.append(RUN_ID, log_blocks.records(b"again\n", step_index=9)[0])
    await store.remove_run(RUN_ID)
    assert not [name for _, _, names in os.walk(tmp_path) for name in names if RUN_ID in name]


async def test_a_store_on_another_file_system_gets_a_copy(tmp_path: Path) -> None:
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or os.stat(elsewhere).st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("needs a second file system")
    folder = elsewhere / f"kici-test-{os.getpid()}"
    try:
        store = LogStore(str(tmp_path), f"file://{folder}")
        for record in log_blocks.records(DATA, CUTS):
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
        assert not os.path.exists(live_path(tmp_path))
        assert os.listdir(folder / "logs" / RUN_ID[:7]) == [f"{file_name(STREAM)}.log"]
        assert await whole(store) == DATA
        await store.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def test_what_was_taken_is_counted(tmp_path: Path) -> None:
    metrics = Metrics("kici_orch_")
    store = LogStore(str(tmp_path), metrics=metrics)
    records = log_blocks.records(DATA, CUTS)
    for record in [*records, *records]:
        store.append(RUN_ID, record)
    text = metrics.exposition().decode()
    assert "kici_orch_log_chunks_received_total 5.0" in text
    assert f"kici_orch_log_bytes_stored_total {float(len(b''.join(records)))}" in text
    await store.close()
