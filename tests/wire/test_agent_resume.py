"""A job's record and log are the same wherever the connection, the agent or the orchestrator was cut off."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kici.orchestrator.runs.repair import repair
from kici.orchestrator.runs.sweeps import Sweeps
from kici.protocol.agent_v1 import (
    ErrorFrame,
    InFlightJob,
    JobAck,
    JobCancel,
    JobContext,
    JobDispatch,
    JobReject,
    JobStatusUpdate,
    RunEvent,
)
from kici.runtime.database import text
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import rows
from tests.support.postgres import Database
from tests.wire.harness import Agent, Orchestrator, orchestrator

pytestmark = pytest.mark.postgres

Tell = Callable[[], Awaitable[int]]


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Orchestrator]:
    async with orchestrator(orchestrator_db, tmp_path) as running:
        yield running


def _script(agent: Agent, job: JobDispatch) -> list[Tell]:
    """Every kind of reliable frame, in the order of a real job."""

    def event(name: str) -> Tell:
        return lambda: agent.tell(RunEvent, job, event_type=name, timestamp_ms=1_700_000_000_000)

    return [
        lambda: agent.tell(JobAck, job),
        lambda: agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING),
        event("agent.clone.start"),
        lambda: agent.step(job, -1, state=StepStatus.RUNNING, step_type="prepare"),
        event("agent.clone.end"),
        lambda: agent.step(job, -1, step_type="prepare"),
        lambda: agent.tell(JobContext, job, context={"python": "3.11"}),
        lambda: agent.step(job, 0, state=StepStatus.RUNNING),
        lambda: agent.log(job, 0, 0, "one\n"),
        lambda: agent.log(job, 0, 1, "two\n"),
        lambda: agent.log(job, 0, 2, "", flags=2),
        lambda: agent.step(job, 0, exit_code=0, log_lines=2, log_bytes=8),
        lambda: agent.finish(job, outputs={"step 0": {"n": 1}}),
        event("agent.teardown"),
    ]


async def _record(orch: Orchestrator, run: rows.Run) -> dict[str, Any]:
    """The final record without ids and times."""
    job_id = run["build"]
    job, steps, events = (
        await rows.fetch(
            orch.db.engine,
            "SELECT status, attempt, outputs, context, log_bytes, infra_failures, error_message"
            " FROM execution_jobs WHERE id = :id",
            id=job_id,
        ),
        await rows.fetch(
            orch.db.engine,
            "SELECT attempt, step_index, status, exit_code, log_lines FROM execution_steps"
            " WHERE job_id = :id ORDER BY attempt, step_index",
            id=job_id,
        ),
        await rows.fetch(
            orch.db.engine,
            "SELECT event_type, count(*) FROM run_events WHERE run_id = :id GROUP BY 1 ORDER BY 1",
            id=run.id,
        ),
    )
    completions = await rows.fetch(
        orch.db.engine,
        "SELECT event_name, count(*) FROM kici_events WHERE source_run_id = :id GROUP BY 1 ORDER BY 1",
        id=run.id,
    )
    return {
        "run": (await rows.run(orch.db.engine, run.id))["status"],
        "job": job,
        "steps": steps,
        "events": events,
        "completions": completions,
        "log": await orch.log_of(run.id, job_id, 1, 0),
    }


async def _new_run(orch: Orchestrator) -> rows.Run:
    run = await rows.add_run(orch.db.engine)
    orch.wakeups.wake("queue")
    return run


async def _undisturbed(orch: Orchestrator, agent: Agent) -> dict[str, Any]:
    run = await _new_run(orch)
    job = await agent.expect(JobDispatch)
    for tell in _script(agent, job):
        await tell()
    await agent.acked(agent.seq)
    assert await orch.run_ended(run) == "success"
    return await _record(orch, run)


STEPS = 14


async def test_a_cut_between_any_two_frames_changes_nothing(orch: Orchestrator) -> None:
    """AG-20, AG-22."""
    agent = Agent()
    await agent.dial(orch.url)
    expected = await _undisturbed(orch, agent)
    for cut_after in range(1, STEPS):
        run = await _new_run(orch)
        job = await agent.expect(JobDispatch)
        agent.in_flight = [InFlightJob(job_id=job.job_id, run_id=job.run_id, attempt=job.attempt)]
        script = _script(agent, job)
        assert len(script) == STEPS
        for tell in script[:cut_after]:
            await tell()
        await agent.cut()
        await agent.dial(orch.url)  # everything not known to be durable comes again
        for tell in script[cut_after:]:
            await tell()
        await agent.acked(agent.seq)
        assert await orch.run_ended(run) == "success"
        assert await _record(orch, run) == expected, f"cut after frame {cut_after}"


async def test_a_cut_during_which_the_job_goes_on_changes_nothing(orch: Orchestrator) -> None:
    """AG-20, AG-22."""
    agent = Agent()
    await agent.dial(orch.url)
    expected = await _undisturbed(orch, agent)
    for cut_after in range(1, STEPS):
        run = await _new_run(orch)
        job = await agent.expect(JobDispatch)
        agent.in_flight = [InFlightJob(job_id=job.job_id, run_id=job.run_id, attempt=job.attempt)]
        script = _script(agent, job)
        for tell in script[:cut_after]:
            await tell()
        await agent.cut()
        agent.socket = None
        for tell in script[cut_after:]:
            await tell()  # into the spool
        await agent.dial(orch.url)
        await agent.acked(agent.seq)
        assert await orch.run_ended(run) == "success"
        assert await _record(orch, run) == expected, f"cut after frame {cut_after}"


async def test_an_agent_that_heard_no_acknowledgement_may_send_all_again(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """AG-20."""
    agent = Agent()
    sent: dict[int, bytes | str] = {}
    async with orchestrator(orchestrator_db, tmp_path) as first:
        await agent.dial(first.url)
        run = await _new_run(first)
        job = await agent.expect(JobDispatch)
        for tell in _script(agent, job):
            seq = await tell()
            sent[seq] = agent.unacked[seq]
        await agent.acked(agent.seq)
        before = await _record(first, run)
    agent.unacked = sent
    async with orchestrator(orchestrator_db, tmp_path) as second:  # remembers no session
        assert (await agent.dial(second.url)).acked_seq == 0
        await agent.acked(agent.seq)
        assert await _record(second, run) == before


async def test_frames_sent_twice_on_one_connection_are_acknowledged_and_ignored(orch: Orchestrator) -> None:
    """AG-20, OR-125."""
    agent = Agent()
    await agent.dial(orch.url)
    expected = await _undisturbed(orch, agent)
    run = await _new_run(orch)
    job = await agent.expect(JobDispatch)
    for tell in _script(agent, job):
        frame = agent.unacked[await tell()]
        assert agent.socket is not None
        await agent.socket.send(frame)
        await agent.socket.send(frame)
    await agent.acked(agent.seq)
    assert await _record(orch, run) == expected


async def test_the_orchestrator_restarts_and_the_job_goes_on(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """AG-25, OR-151."""
    agent = Agent()
    async with orchestrator(orchestrator_db, tmp_path) as first:
        await agent.dial(first.url)
        expected = await _undisturbed(first, agent)
    run = await rows.add_run(orchestrator_db.engine)
    for cut_after in (0, 1, 4, 9, 11):
        agent.in_flight = []
        async with orchestrator(orchestrator_db, tmp_path) as before:
            await agent.dial(before.url)
            job = await agent.expect(JobDispatch)
            agent.in_flight = [InFlightJob(job_id=job.job_id, run_id=job.run_id, attempt=job.attempt)]
            script = _script(agent, job)
            for tell in script[:cut_after]:
                await tell()
        async with orchestrator(orchestrator_db, tmp_path) as after:
            row = await rows.job(after.db.engine, run["build"])
            assert row["status"] == ("recovering" if cut_after > 1 else "queued")
            await agent.dial(after.url)
            for tell in script[cut_after:]:
                await tell()
            await agent.acked(agent.seq)
            assert await after.run_ended(run) == "success"
            assert await _record(after, run) == expected, f"restarted after frame {cut_after}"
        run = await rows.add_run(orchestrator_db.engine)


async def test_an_agent_process_that_died_loses_its_job_visibly(orch: Orchestrator) -> None:
    """OR-151."""
    agent = Agent()
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.take()
    await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING)
    await agent.acked(await agent.step(job, 0, state=StepStatus.RUNNING))
    await agent.cut()
    await orch.job_is(job.job_id, "recovering")
    reborn = Agent()
    await reborn.dial(orch.url)
    again = await reborn.take()
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    await reborn.perform(again)
    assert await orch.run_ended(run) == "success"
    steps = await rows.fetch(
        orch.db.engine, "SELECT attempt, status FROM execution_steps ORDER BY attempt, step_index"
    )
    assert [tuple(step.values()) for step in steps] == [(1, "cancelled"), (2, "success")]
    events = await rows.fetch(
        orch.db.engine,
        "SELECT metadata FROM run_events WHERE event_type = 'orchestrator.job.orphan_recovered'",
    )
    assert [event["metadata"]["attempt"] for event in events] == [1]


async def test_a_job_that_always_loses_its_agent_fails_and_says_how_often(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    async with orchestrator(orchestrator_db, tmp_path, max_job_attempts=3) as orch:
        run = await rows.add_run(orch.db.engine)
        for attempt in (1, 2, 3):
            agent = Agent()  # a new process each time
            await agent.dial(orch.url)
            job = await agent.take()
            assert job.attempt == attempt
            await agent.acked(await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING))
            await agent.cut()
        await Agent().dial(orch.url)
        assert await orch.run_ended(run) == "failed"
        row = await rows.job(orch.db.engine, run["build"])
        assert row["error_message"] == (
            "agent agent-1 restarted and no longer has the job (attempt 3; 3 attempts were lost)"
        )


async def test_a_dispatch_that_never_arrived_is_made_again_at_once(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    run = await _new_run(orch)
    lost = await agent.expect(JobDispatch)  # and forgotten
    await agent.cut()
    await agent.dial(orch.url)
    job = await agent.take()
    assert (job.job_id, job.attempt) == (lost.job_id, 2)
    await agent.perform(job)
    assert await orch.run_ended(run) == "success"


async def test_an_agent_that_stays_away_loses_its_job_to_another(orch: Orchestrator) -> None:
    """AG-23, AG-25, OR-152."""
    agent = Agent("agent-1")
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.take()
    await agent.acked(await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING))
    await agent.cut()
    await orch.job_is(job.job_id, "recovering")
    other = Agent("agent-2")
    await other.dial(orch.url)
    async with orch.db.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET recovery_deadline = now() - interval '1 second'"))
    await _sweeps(orch).quick()
    again = await other.take()
    assert again.attempt == 2
    # The first comes back, late: what it says no longer counts, and it is told to stop.
    await agent.dial(orch.url)
    stop = await agent.expect(JobCancel)
    assert (stop.job_id, stop.attempt, stop.force) == (job.job_id, 1, True)
    await agent.acked(await agent.finish(job, JobStatus.SUCCESS))
    assert (await rows.job(orch.db.engine, job.job_id))["agent_id"] == "agent-2"
    await other.perform(again)
    assert await orch.run_ended(run) == "success"


def _sweeps(orch: Orchestrator) -> Sweeps:
    return Sweeps(orch.room.execution, orch.room.hub.close_unanswered)


async def test_a_silent_agent_is_cut_off_and_goes_on_when_it_is_back(orch: Orchestrator) -> None:
    """OR-160: no life sign is as good as no connection; the work that goes on is not done twice."""
    agent = Agent()
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.take()
    await agent.acked(await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING))
    async with orch.db.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET last_heartbeat_at = now() - interval '1 hour'"))
    await _sweeps(orch).scan()
    assert await agent.closed() == (4031, "the agent did not answer in time")
    await orch.job_is(job.job_id, "recovering")
    await agent.dial(orch.url)
    await orch.job_is(job.job_id, "running")
    await agent.finish(job)
    assert await orch.run_ended(run) == "success"
    row = await rows.job(orch.db.engine, job.job_id)
    assert (row["attempt"], row["infra_failures"]) == (1, 0)


async def test_an_unanswered_dispatch_goes_elsewhere_and_closes_the_agent(orch: Orchestrator) -> None:
    """AG-15, AG-16, OR-150."""
    agent = Agent("agent-1")
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.expect(JobDispatch)
    other = Agent("agent-2")
    await other.dial(orch.url)
    async with orch.db.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET ack_deadline = now() - interval '1 second'"))
    await _sweeps(orch).quick()
    assert await agent.closed() == (4031, "the agent did not answer in time")
    again = await other.take()
    assert (again.job_id, again.attempt) == (job.job_id, 2)
    await other.perform(again)
    assert await orch.run_ended(run) == "success"
    assert (await rows.job(orch.db.engine, job.job_id))["infra_failures"] == 1


async def test_a_busy_agent_is_asked_again_later_and_others_at_once(orch: Orchestrator) -> None:
    """AG-14, OR-150."""
    agent, other = Agent("agent-1"), Agent("agent-2")
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.expect(JobDispatch)
    await other.dial(orch.url)
    await agent.tell(JobReject, job, reason="busy")
    again = await other.take()
    assert again.attempt == 2
    await other.perform(again)
    assert await orch.run_ended(run) == "success"
    second = await _new_run(orch)
    third = await _new_run(orch)
    jobs = {(await other.take()).run_id, (await agent.take()).run_id}  # its pause is over by itself
    assert jobs == {second.id, third.id}


async def test_a_draining_agent_gets_no_more_jobs(orch: Orchestrator) -> None:
    """AG-14, OR-146."""
    agent = Agent("agent-1")
    await agent.dial(orch.url)
    await _new_run(orch)
    job = await agent.expect(JobDispatch)
    await agent.acked(await agent.tell(JobReject, job, reason="draining"))
    assert orch.room.hub.free() == []
    other = Agent("agent-2")
    await other.dial(orch.url)
    assert (await other.take()).attempt == 2
    assert (await rows.job(orch.db.engine, job.job_id))["infra_failures"] == 0


async def test_a_job_that_nobody_knows_is_stopped_with_force(orch: Orchestrator) -> None:
    """AG-25."""
    agent = Agent()
    agent.in_flight = [InFlightJob(job_id="0190a0a0-0000-7000-8000-000000000001", run_id="r", attempt=1)]
    await agent.dial(orch.url)
    stop = await agent.expect(JobCancel)
    assert (stop.job_id, stop.force) == (agent.in_flight[0].job_id, True)
    run = await _new_run(orch)
    assert orch.room.hub.free() == []
    agent.seq += 1
    await agent.send(
        JobStatusUpdate(
            seq=agent.seq,
            run_id="r",
            job_id=stop.job_id,
            attempt=1,
            state=JobStatus.CANCELLED,
            timestamp=1,
        )
    )
    assert (await agent.take()).run_id == run.id


async def test_log_blocks_of_what_an_agent_does_not_hold_are_not_stored(orch: Orchestrator) -> None:
    """AG-10."""
    agent, other = Agent("agent-1"), Agent("agent-2")
    await agent.dial(orch.url)
    run = await _new_run(orch)
    job = await agent.take()
    await other.dial(orch.url)
    await other.acked(await other.log(job, 0, 0, "forged\n"))
    await agent.log(job, 0, 0, "true\n")
    await agent.acked(await agent.log(job, 0, 1, "", flags=2))
    assert await orch.log_of(run.id, job.job_id, 1, 0) == b"true\n"


async def test_a_damaged_block_is_acknowledged_and_dropped(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    await _new_run(orch)
    job = await agent.take()
    agent.socket, socket = None, agent.socket
    seq = await agent.log(job, 0, 0, "damaged\n")
    agent.socket = socket
    frame = bytearray(agent.unacked[seq])  # pyright: ignore[reportArgumentType]  log frames are bytes
    frame[-1] ^= 0xFF
    assert socket is not None
    await socket.send(bytes(frame))
    await agent.acked(seq)
    await socket.send(b"\x09whatever")
    assert (await agent.closed())[0] == 4003


async def test_jobs_of_a_vanished_orchestrator_instance_are_found(orch: Orchestrator) -> None:
    """Its agents are still written down as connected, and nobody says otherwise. OR-161."""
    agent = Agent()
    await agent.dial(orch.url)
    await _new_run(orch)
    job = await agent.take()
    await agent.acked(await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING))
    async with orch.db.engine.begin() as tx:
        await tx.execute(
            text("UPDATE agents SET instance_id = 'orch-9', last_seen_at = now() - interval '1 hour'")
        )
    assert await repair(orch.room.execution) == 1
    row = await orch.job_is(job.job_id, "recovering")
    assert row["recovery_deadline"] is not None
    assert await repair(orch.room.execution) == 0


async def test_errors_of_an_agent_are_only_logged(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    await agent.send(ErrorFrame(code="X", message="y"))
    run = await _new_run(orch)
    await agent.perform(await agent.take())
    assert await orch.run_ended(run) == "success"
