"""Live logs over the link: the agent's own records, in order, and the end."""

import asyncio

import pytest

from kici.orchestrator.logs.streams import StreamId
from kici.protocol import platform_v1 as wire
from kici.protocol.frames import unpack_watched_block
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from tests.support import log_blocks
from tests.support.linked_orchestrator import Orchestrator
from tests.support.scripted_platform import Peer, ScriptedPlatform

pytestmark = pytest.mark.postgres
DATA = b"".join(b"line %d of the log\n" % number for number in range(500))


class Job:
    def __init__(self, orchestrator: Orchestrator) -> None:
        self.orchestrator = orchestrator
        self.run_id, self.job_id = uuid7(), uuid7()
        self.records = log_blocks.records(DATA, range(0, len(DATA), 300), job_id=self.job_id)

    async def insert(self) -> None:
        async with self.orchestrator.database.engine.begin() as tx:
            ids = {"run": self.run_id, "job": self.job_id}
            await tx.execute(
                text("""
                    INSERT INTO execution_runs (id, org_id, routing_key, source_name, source_subtype, provider,
                        workflow_name, workflow_file, workflow_export, content_hash, status, repo_identifier,
                        ref, sha, trigger_event, trigger_decision, event, dedup_key, request_id, jobs_open,
                        job_count)
                    VALUES (:run, 'org_1', 'k', 's', 'local', 'local', 'ci', 'f', 'ci', 'h', 'running', 'r',
                        'refs/heads/main', 'abc', 'push', '{}', '{}', 'd', 'q', 1, 1)
                """),
                ids,
            )
            await tx.execute(
                text("""
                    INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, status,
                        runs_on, attempt)
                    VALUES (:job, :run, 'org_1', 0, 'build', 'build', 'running', '{}', 1)
                """),
                ids,
            )

    def append(self, record: bytes) -> None:
        self.orchestrator.store.append(self.run_id, record)

    async def finalize(self) -> None:
        await self.orchestrator.store.finalize(self.run_id, self.job_id, 1, 0)

    async def watch(self, peer: Peer, watch_id: int, from_line: int = 0) -> None:
        await peer.send(
            wire.LogWatch(
                watch_id=watch_id, run_id=self.run_id, job_id=self.job_id, step_index=0, from_line=from_line
            )
        )

    async def watched(self, count: int) -> None:
        """Until so many streams are being followed."""
        async with asyncio.timeout(10):
            while self.orchestrator.sample("platform_log_watches") != count:
                await asyncio.sleep(0)


@pytest.fixture
async def job(orchestrator: Orchestrator) -> Job:
    made = Job(orchestrator)
    await made.insert()
    return made


async def blocks(peer: Peer, count: int) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    for _ in range(count):
        watch_id, record = unpack_watched_block(await peer.next_bytes())
        found.append((watch_id, bytes(record)))
    return found


async def test_what_is_there_and_what_comes_reaches_the_platform_unchanged(
    job: Job, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    for record in job.records[:10]:
        job.append(record)
    await job.watch(peer, 7)
    assert await blocks(peer, 10) == [(7, record) for record in job.records[:10]]
    for record in job.records[10:]:
        job.append(record)
        assert await blocks(peer, 1) == [(7, record)]
    await job.finalize()
    assert await peer.next(wire.LogWatchEnded) == wire.LogWatchEnded(watch_id=7, reason="complete")


async def test_a_watch_begins_at_the_asked_line(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    for record in job.records:
        job.append(record)
    await job.finalize()
    await job.watch(peer, 1, from_line=490)
    await peer.next(wire.LogWatchEnded)
    got = [
        record for _, record in await blocks(peer, len([f for f in peer.frames if isinstance(f, bytes)]))
    ]
    assert got == job.records[-len(got) :]
    assert 1 <= len(got) <= 3


async def test_several_watches_share_the_connection(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    for watch_id in range(1, 6):
        await job.watch(peer, watch_id)
    await job.watched(5)
    for record in job.records:
        job.append(record)
    await job.finalize()
    ends = {(await peer.next(wire.LogWatchEnded)).watch_id for _ in range(5)}
    assert ends == {1, 2, 3, 4, 5}
    got = await blocks(peer, 5 * len(job.records))
    for watch_id in range(1, 6):
        assert [record for whose, record in got if whose == watch_id] == job.records


async def test_an_ended_watch_sends_no_more(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    job.append(job.records[0])
    await job.watch(peer, 1)
    await blocks(peer, 1)
    await peer.send(wire.LogUnwatch(watch_id=1))
    await peer.send(wire.LogUnwatch(watch_id=99))
    await job.watched(0)
    job.append(job.records[1])
    await peer.call("r1", "no.such")
    await peer.next(wire.RpcResponse)
    assert not peer.has(bytes)
    assert not peer.has(wire.LogWatchEnded)
    await job.watch(peer, 2)
    assert [record for _, record in await blocks(peer, 2)] == job.records[:2]


async def test_watching_and_leaving_at_once_leaves_nothing(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    for watch_id in range(50):
        await job.watch(peer, watch_id)
        await peer.send(wire.LogUnwatch(watch_id=watch_id))
    await peer.call("r1", "no.such")
    await peer.next(wire.RpcResponse)
    await job.watched(0)
    async with asyncio.timeout(10):
        while job.orchestrator.store.unfinished():
            await asyncio.sleep(0)


async def test_what_does_not_exist_is_not_found(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    await peer.send(wire.LogWatch(watch_id=3, run_id=job.run_id, job_id=uuid7(), step_index=0, from_line=0))
    assert await peer.next(wire.LogWatchEnded) == wire.LogWatchEnded(watch_id=3, reason="not_found")


async def test_a_watch_ends_with_the_connection(job: Job, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    await job.watch(peer, 1)
    await job.watched(1)
    await peer.cut()
    await job.watched(0)
    assert job.orchestrator.store.unfinished() == []
    peer = await platform.session()
    await job.watch(peer, 1)
    for record in job.records:
        job.append(record)
    await job.finalize()
    assert [record for _, record in await blocks(peer, len(job.records))] == job.records


async def test_a_platform_that_reads_slowly_delays_its_answers_by_one_block_at_most(
    job: Job, platform: ScriptedPlatform
) -> None:
    """Far more than the socket holds is ready to be sent when a request comes: its answer does not
    wait for all of it."""
    big = log_blocks.records(
        b"".join(b"%0999d\n" % number for number in range(40_000)),
        range(0, 40_000_000, 1 << 20),
        job_id=job.job_id,
        raw_below=2 << 20,
    )
    peer = await platform.session()
    for record in big:
        job.append(record)
    await job.finalize()
    stream = StreamId(job.run_id, job.job_id, 1, 0)
    assert (await job.orchestrator.store.read(stream, 0, 1)).total_lines == 40_000
    await job.watch(peer, 1)
    await blocks(peer, 1)
    await peer.call("r1", "no.such")
    await peer.next(wire.RpcResponse)
    assert not peer.has(wire.LogWatchEnded)
    await peer.next(wire.LogWatchEnded)
