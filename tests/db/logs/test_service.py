"""Logs by run, job and step: which attempt, what an absent log means, and what a sweep ends."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.orchestrator.logs.service import LogService
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import LogExpired, LogNotFound, StreamId
from kici.orchestrator.rpc import BytesAnswer, answer
from kici.protocol.dashboard_v1 import LogPage
from kici.protocol.platform_v1 import Actor, RpcRequest, RpcResponse
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from tests.support import log_blocks
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres
ORG = "org_000000000001"
DATA = b"".join(b"line %d\n" % number for number in range(100))


class World:
    """One running job, and words to change its rows."""

    def __init__(self, database: Database, store: LogStore) -> None:
        self.database = database
        self.store = store
        self.logs = LogService(database.engine, store)
        self.run_id = uuid7()
        self.job_id = uuid7()

    async def sql(self, statement: str, **values: Any) -> None:
        async with self.database.engine.begin() as tx:
            await tx.execute(text(statement), {"run": self.run_id, "job": self.job_id, **values})

    async def insert(self) -> None:
        await self.sql("""
            INSERT INTO execution_runs (id, org_id, routing_key, source_name, source_subtype, provider,
                workflow_name, workflow_file, workflow_export, content_hash, status, repo_identifier, ref, sha,
                trigger_event, trigger_decision, event, dedup_key, request_id, jobs_open, job_count)
            VALUES (:run, 'org_000000000001', 'k', 's', 'local', 'local', 'ci', 'f', 'ci', 'h', 'running', 'r',
                'refs/heads/main', 'abc', 'push', '{}', '{}', 'd', 'q', 1, 1)
        """)
        await self.sql("""
            INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, status, runs_on,
                attempt)
            VALUES (:job, :run, 'org_000000000001', 0, 'build', 'build', 'running', '{}', 1)
        """)

    async def step(
        self, index: int, status: str, *, attempt: int = 1, log_bytes: int | None = None
    ) -> None:
        await self.sql(
            """
            INSERT INTO execution_steps (job_id, attempt, step_index, run_id, step_name, step_type, status,
                log_bytes)
            VALUES (:job, :attempt, :index, :run, 'step', 'step', :status, :log_bytes)
            ON CONFLICT (job_id, attempt, step_index) DO UPDATE SET status = excluded.status,
                log_bytes = excluded.log_bytes
            """,
            index=index,
            status=status,
            attempt=attempt,
            log_bytes=log_bytes,
        )

    async def end_job(self) -> None:
        await self.sql("""
            UPDATE execution_jobs SET status = 'failed', completed_at = now() WHERE id = :job
        """)

    def write(self, index: int = 0, *, attempt: int = 1, end: bool = True, data: bytes = DATA) -> StreamId:
        for record in log_blocks.records(
            data, [200, 400], job_id=self.job_id, attempt=attempt, step_index=index, end=end
        ):
            self.store.append(self.run_id, record)
        return StreamId(self.run_id, self.job_id, attempt, index)

    async def read(self, index: int = 0, **options: Any) -> LogPage:
        return await self.logs.read(ORG, self.run_id, self.job_id, index, **options)


@pytest.fixture
async def world(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[World]:
    store = LogStore(str(tmp_path))
    made = World(orchestrator_db, store)
    await made.insert()
    yield made
    await store.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await condition():
            await asyncio.sleep(0.01)


async def test_a_step_is_read_while_it_runs_and_afterwards(world: World) -> None:
    await world.step(0, "running")
    stream = world.write()
    page = await world.read(offset=98)
    assert page.lines == ["line 98", "line 99"]
    await world.store.finalize(*stream)
    await world.step(0, "success", log_bytes=len(DATA))
    page = await world.read(tail=1)
    assert (page.lines, page.first_line, page.complete) == (["line 99"], 99, True)


async def test_the_current_attempt_is_read_unless_another_is_named(world: World) -> None:
    world.write(attempt=1, data=b"first try\n")
    await world.sql("UPDATE execution_jobs SET attempt = 2 WHERE id = :job")
    world.write(attempt=2, data=b"second try\n")
    assert (await world.read()).lines == ["second try"]
    assert (await world.read(attempt=1)).lines == ["first try"]


async def test_a_step_without_output_has_an_empty_log(world: World) -> None:
    await world.step(0, "running")
    page = await world.read()
    assert (page.lines, page.total_lines, page.complete) == ([], 0, False)
    await world.step(0, "success", log_bytes=0)
    assert (await world.read()).complete
    found = await world.logs.search(ORG, world.run_id, world.job_id, 0, "x")
    assert (found.total, found.scanned_lines) == (0, 0)
    part = await world.logs.raw(ORG, world.run_id, world.job_id, 0)
    assert (part.data, part.done) == (b"", True)


async def test_output_that_was_removed_says_so(world: World) -> None:
    stream = world.write()
    await world.store.finalize(*stream)
    await world.step(0, "success", log_bytes=len(DATA))
    await world.end_job()
    await world.logs.remove_run(world.run_id)
    with pytest.raises(LogExpired):
        await world.read()
    with pytest.raises(LogExpired):
        await world.logs.raw(ORG, world.run_id, world.job_id, 0)


@pytest.mark.parametrize("wrong", ["org", "run", "job", "no-uuid", "step", "huge-step"])
async def test_what_never_was_is_not_found(world: World, wrong: str) -> None:
    await world.end_job()
    world.write()
    with pytest.raises(LogNotFound):
        await world.logs.read(
            "org_000000000002" if wrong == "org" else ORG,
            uuid7() if wrong == "run" else world.run_id,
            uuid7() if wrong == "job" else "../x" if wrong == "no-uuid" else world.job_id,
            7 if wrong == "step" else 1 << 40 if wrong == "huge-step" else 0,
        )


async def test_a_log_whose_agent_vanished_is_complete_when_its_job_is_over(world: World) -> None:
    await world.step(0, "running")
    world.write(end=False)
    assert not (await world.read()).complete
    await world.end_job()
    assert (await world.read()).complete
    await world.logs.sweep()
    assert world.store.unfinished() == []
    page = await world.read()
    assert (page.total_lines, page.complete) == (100, True)


async def test_a_sweep_leaves_running_steps_alone(world: World) -> None:
    await world.step(0, "running")
    records = log_blocks.records(DATA, [200, 400], job_id=world.job_id)
    for record in records[:2]:
        world.store.append(world.run_id, record)
    await world.logs.sweep()
    assert world.store.unfinished() == [StreamId(world.run_id, world.job_id, 1, 0)]
    world.store.append(world.run_id, records[2])
    assert (await world.read()).complete


async def test_a_watch_ends_with_its_step_even_if_nothing_was_printed(world: World) -> None:
    await world.step(0, "running")
    got: list[bytes] = []

    async def watch() -> None:
        async with aclosing(world.logs.watch(ORG, world.run_id, world.job_id, 0, 0)) as records:
            got.extend([record async for record in records])

    async def waiting() -> bool:
        return world.store.unfinished() != []

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())
        await until(waiting)
        await world.logs.sweep()
        assert await waiting()
        await world.step(0, "success", log_bytes=0)
        await world.logs.sweep()
    assert got == []


async def test_a_watch_of_a_job_not_dispatched_yet_follows_its_first_attempt(world: World) -> None:
    await world.sql("UPDATE execution_jobs SET attempt = 0, status = 'queued' WHERE id = :job")
    got: list[bytes] = []

    async def watch() -> None:
        async with aclosing(world.logs.watch(ORG, world.run_id, world.job_id, 0, 0)) as records:
            async for record in records:
                got.append(record)  # noqa: PERF401  each when it comes

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(watch())

        async def waits_for(attempt: int) -> bool:
            return [stream.attempt for stream in world.store.unfinished()] == [attempt]

        await until(lambda: waits_for(0))
        await world.sql("UPDATE execution_jobs SET attempt = 1, status = 'running' WHERE id = :job")
        await world.logs.sweep()
        await until(lambda: waits_for(1))
        await world.store.finalize(*world.write())
    assert len(got) == 3


async def test_watching_what_never_was_is_not_found(world: World) -> None:
    with pytest.raises(LogNotFound):
        await anext(world.logs.watch(ORG, world.run_id, uuid7(), 0, 0))


async def ask(world: World, method: str, **params: Any) -> RpcResponse | BytesAnswer:
    asked = {"runId": world.run_id, "jobId": world.job_id, "stepIndex": 0, **params}
    request = RpcRequest(
        id="1", method=method, params=asked, actor=Actor(kind="user", id="u"), deadline_ms=10_000
    )
    return await answer(world.logs.methods(), request, org_id=ORG)


async def test_the_rpc_methods_answer(world: World) -> None:
    world.write()
    page = await ask(world, "logs.read", offset=1, limit=1, tail=None)
    assert isinstance(page, RpcResponse)
    assert msgspec.json.decode(msgspec.json.encode(page.result), type=LogPage).lines == ["line 1"]
    last = await ask(world, "logs.read", offset=1, limit=1, tail=2)
    assert isinstance(last, RpcResponse)
    assert last.result.lines == ["line 98", "line 99"]
    found = await ask(world, "logs.search", query="LINE 4[2]", regex=True)
    assert isinstance(found, RpcResponse)
    assert [match.line for match in found.result.matches] == [42]
    part = await ask(world, "logs.raw", fromByte=7, maxBytes=7)
    assert isinstance(part, BytesAnswer)
    assert part.data == b"line 1\n"
    assert part.head.meta == {"nextByte": 14, "done": False, "totalBytes": len(DATA)}


async def test_the_rpc_methods_say_what_is_wrong(world: World) -> None:
    await world.end_job()
    absent = await ask(world, "logs.read", stepIndex=3)
    assert isinstance(absent, RpcResponse)
    assert (absent.error_code, absent.status) == ("log_not_found", 404)
    world.write()
    bad = await ask(world, "logs.search", query="(", regex=True)
    assert isinstance(bad, RpcResponse)
    assert (bad.error_code, bad.status) == ("bad_pattern", 400)
