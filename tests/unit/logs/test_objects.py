"""Ended logs in an object store: obstore's own in-memory and folder stores stand for S3."""

import os
from pathlib import Path

import pytest
from obstore.store import LocalStore, MemoryStore, ObjectStore

from kici.orchestrator.logs.objects import ObjectArchive
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import LogNotFound, StreamId, file_name
from tests.support import log_blocks
from tests.support.log_blocks import JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)
DATA = b"".join(b"line %d of the log\n" % number for number in range(20_000))
RECORDS = log_blocks.records(DATA, range(0, len(DATA), 4096))


@pytest.fixture(params=["memory", "folder"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "memory":
        return MemoryStore()
    return LocalStore(tmp_path / "bucket", mkdir=True)


def open_store(folder: Path, objects: ObjectStore) -> LogStore:
    return LogStore(str(folder), archive=ObjectArchive(objects, f"{folder}/logs"))


async def test_an_ended_log_is_read_from_the_store(tmp_path: Path, objects: ObjectStore) -> None:
    store = open_store(tmp_path, objects)
    for record in RECORDS:
        store.append(RUN_ID, record)
    await store.finalize(*STREAM)
    assert not os.path.exists(f"{tmp_path}/logs/{file_name(STREAM)}.seg")
    page = await store.read(STREAM, 12_345, 3)
    assert page.lines == [f"line {number} of the log" for number in (12_345, 12_346, 12_347)]
    assert (await store.read(STREAM, tail=1)).lines == ["line 19999 of the log"]
    assert (await store.raw(STREAM, 1000, 50)).data == DATA[1000:1050]
    assert (await store.search(STREAM, "line 15000 ", regex=False)).matches[0].line == 15_000
    assert [record async for record in store.watch(STREAM, 19_990)] == RECORDS[-1:]
    await store.close()


async def test_a_block_repeated_after_the_upload_starts_no_second_log(
    tmp_path: Path, objects: ObjectStore
) -> None:
    for _ in range(2):  # the second time in a new process
        store = open_store(tmp_path, objects)
        for record in RECORDS:
            store.append(RUN_ID, record)
        await store.finalize(*STREAM)
        assert await store.sweep() == 0
        assert store.unfinished() == []
        assert (await store.read(STREAM)).total_bytes == len(DATA)
        await store.close()


async def test_a_kill_between_upload_and_mark_uploads_again(tmp_path: Path, objects: ObjectStore) -> None:
    store = open_store(tmp_path, objects)
    for record in RECORDS:
        store.append(RUN_ID, record)
    live = Path(f"{tmp_path}/logs/{file_name(STREAM)}.seg")
    before = live.read_bytes()
    await store.finalize(*STREAM)
    await store.close()
    live.with_suffix(".sent").unlink()
    live.write_bytes(before + b"KiCI half a footer")
    store = open_store(tmp_path, objects)
    assert await store.sweep() == 1
    assert not live.exists()
    assert (await store.raw(STREAM, 0, 100)).data == DATA[:100]
    await store.close()


async def test_a_store_that_refuses_keeps_the_segment_readable(tmp_path: Path) -> None:
    bucket = LocalStore(tmp_path / "bucket", mkdir=True)
    (tmp_path / "bucket" / "logs").write_text("a file where a folder must be")
    store = open_store(tmp_path, bucket)
    for record in RECORDS:
        store.append(RUN_ID, record)
    await store.finalize(*STREAM)
    assert (await store.read(STREAM, tail=1)).complete
    (tmp_path / "bucket" / "logs").unlink()
    assert await store.sweep() == 1
    assert (await store.read(STREAM, tail=1)).lines == ["line 19999 of the log"]
    await store.close()


async def test_removing_a_run_removes_its_objects(tmp_path: Path, objects: ObjectStore) -> None:
    store = open_store(tmp_path, objects)
    for record in RECORDS:
        store.append(RUN_ID, record)
        store.append("another-run", record)
    await store.finalize(*STREAM)
    await store.finalize("another-run", *STREAM[1:])
    await store.remove_run(RUN_ID)
    with pytest.raises(LogNotFound):
        await store.read(STREAM)
    assert (await store.read(StreamId("another-run", *STREAM[1:]), tail=1)).total_lines == 20_000
    await store.close()
