"""The connection: refusals, reconnects at every frame, back-pressure, the spool (AG-1…6, AG-20…22, AG-83)."""

import asyncio
import signal
from pathlib import Path

import pytest

from kici.protocol.agent_v1 import CLOSE_AGENT_REJECTED, AgentMetrics, JobHeartbeat
from kici.spec.states import JobStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project, agent, orchestrating

pytestmark = pytest.mark.process

TALKER = """
    @step
    async def talk(ctx: Context) -> str:
        for number in range(200):
            print("line", number)
        return "said"

    @step
    async def more(ctx: Context) -> None:
        await ctx.sh("seq 100; printf 'no newline at the end'")

    jobs = [job("build", runs_on="x", steps=[talk, more])]
"""


async def test_a_rejected_token_ends_the_agent_with_a_message_and_no_retry(
    orchestrator: Orchestrator, tmp_path: Path
) -> None:
    orchestrator.refuse = lambda _token: "token revoked"
    async with agent(orchestrator, tmp_path / "data") as process:
        assert await process.exit_status() == 78
        line = await process.logged("agent.rejected")
    assert line["error"] == "the orchestrator rejected this agent: token revoked"
    assert line["level"] == "error"
    assert orchestrator.attempts == 1


async def test_a_token_revoked_later_ends_the_agent_too(
    orchestrator: Orchestrator, agent_process: AgentProcess
) -> None:
    connection = await orchestrator.registered()
    await connection.close(CLOSE_AGENT_REJECTED, "token revoked")
    assert await agent_process.exit_status() == 78
    assert "token revoked" in (await agent_process.logged("agent.rejected"))["error"]
    assert orchestrator.attempts == 1


async def test_an_orchestrator_that_is_not_there_yet_is_waited_for(
    orchestrator: Orchestrator, tmp_path: Path
) -> None:
    orchestrator.away = True
    async with agent(orchestrator, tmp_path / "data") as process:
        await process.logged("session.disconnected")
        assert (await process.get("/ready"))[0] == 503
        orchestrator.away = False
        await orchestrator.registered()
        await process.logged("session.registered")
        assert (await process.get("/ready"))[0] == 200


async def test_an_agent_without_orchestrator_stops_when_told(
    orchestrator: Orchestrator, agent_process: AgentProcess
) -> None:
    await orchestrator.go_away()
    await agent_process.logged("session.disconnected")
    agent_process.signal(signal.SIGTERM)
    assert await agent_process.exit_status(10) == 0


async def test_a_cut_at_any_frame_changes_nothing(tmp_path: Path) -> None:
    """For every reliable frame of a job: the connection breaks just before it, or just after it and before
    its acknowledgement. What the orchestrator has in the end is what an undisturbed run leaves."""
    project = Project(tmp_path / "project").workflow(TALKER)

    def record(orchestrator: Orchestrator, job_id: str) -> list[object]:
        states = [(s.step_index, s.state, s.log_lines, s.log_bytes) for s in orchestrator.steps(job_id)]
        logs = [orchestrator.text(job_id, step) for step in (0, 1)]
        (end,) = orchestrator.terminal(job_id)
        return [sorted(states[2:]), logs, end.state, end.outputs, orchestrator.events(job_id)]

    async with orchestrating() as calm, agent(calm, tmp_path / "calm"):
        dispatch = project.dispatch()
        await calm.run(dispatch)
        undisturbed = record(calm, dispatch.job_id)
        frames = len(calm.reliable)
    cuts = [(number, kind) for number in range(1, frames + 1) for kind in ("before", "after")]

    async def disturb(share: int) -> None:
        async with orchestrating() as orchestrator, agent(orchestrator, tmp_path / f"data-{share}"):
            await orchestrator.registered()
            for number, kind in cuts[share::6]:
                dispatch = project.dispatch()
                start = orchestrator.received
                orchestrator.cut_at[start + number] = kind
                connections = len(orchestrator.registrations)
                ended = await orchestrator.run(dispatch)
                assert ended.state is JobStatus.SUCCESS
                if start + number <= orchestrator.received:
                    await orchestrator.registered(connections + 1)
                    if number > 1 or kind == "after":
                        (held,) = orchestrator.registrations[connections].in_flight
                        assert (held.job_id, held.attempt) == (dispatch.job_id, 1)
                orchestrator.cut_at.clear()
                orchestrator.check_order(dispatch.job_id)
                assert record(orchestrator, dispatch.job_id) == undisturbed

    async with asyncio.TaskGroup() as tasks:
        for share in range(6):
            tasks.create_task(disturb(share))


async def test_a_job_that_runs_while_the_orchestrator_is_away_is_told_afterwards(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """Twenty megabytes that do not compress: more than the agent keeps in memory."""
    project.workflow("""
        import base64, random

        @step
        async def noise(ctx: Context) -> None:
            print("asleep", flush=True)
            while not os.path.exists("../go"):
                await asyncio.sleep(0.02)
            source = random.Random(7)
            for _ in range(200):
                print(base64.b64encode(source.randbytes(75_000)).decode())

        jobs = [job("build", runs_on="x", steps=[noise])]
    """)
    dispatch = project.dispatch()
    await orchestrator.send(dispatch)
    await orchestrator.until(lambda: "asleep" in orchestrator.text(dispatch.job_id))
    await orchestrator.go_away()
    (folder,) = (agent_process.data_dir / "work").glob("*/job-*")
    (folder / "go").touch()
    await agent_process.logged("job.ended")
    assert not orchestrator.terminal(dispatch.job_id)

    await orchestrator.come_back()
    ended = await orchestrator.ended(dispatch.job_id)

    assert ended.state is JobStatus.SUCCESS
    import base64
    import random

    source = random.Random(7)
    expected = "asleep\n" + "".join(
        base64.b64encode(source.randbytes(75_000)).decode() + "\n" for _ in range(200)
    )
    assert orchestrator.text(dispatch.job_id) == expected
    assert orchestrator.stream(dispatch.job_id, 0).dropped_bytes == 0
    orchestrator.check_order(dispatch.job_id)
    assert list((agent_process.data_dir / "spool").iterdir()) == []


async def test_a_slow_orchestrator_makes_the_producer_wait(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def flood(ctx: Context) -> None:
            print("asleep", flush=True)
            import base64
            for number in range(600):
                print(base64.b64encode(os.urandom(75_000)).decode(), flush=True)
                open("../next", "w").write(str(number))
                os.replace("../next", "../progress")

        jobs = [job("build", runs_on="x", steps=[flood])]
    """)
    orchestrator.hold_acks = True
    dispatch = project.dispatch()
    await orchestrator.send(dispatch)
    paused = await agent_process.logged("log.backpressure")
    assert paused["mode"] == "pause"
    (progress,) = (agent_process.data_dir / "work").glob("*/job-*/progress")
    assert int(progress.read_text()) < 400
    status = Path(f"/proc/{agent_process.process.pid}/status").read_text()
    (rss,) = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")]
    assert rss < 150_000

    orchestrator.hold_acks = False
    await orchestrator.acknowledge()
    ended = await orchestrator.ended(dispatch.job_id)
    assert ended.state is JobStatus.SUCCESS
    stream = orchestrator.stream(dispatch.job_id, 0)
    assert (stream.lines, stream.dropped_bytes) == (601, 0)


async def test_a_job_held_back_by_pressure_can_still_be_killed(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def flood(ctx: Context) -> None:
            await ctx.sh("base64 /dev/urandom")

        jobs = [job("build", runs_on="x", steps=[flood])]
    """)
    orchestrator.hold_acks = True
    dispatch = project.dispatch()
    await orchestrator.send(dispatch)
    await agent_process.logged("log.backpressure")
    await orchestrator.send(project.cancel(dispatch, force=True))
    await agent_process.logged("job.ended")
    orchestrator.hold_acks = False
    await orchestrator.acknowledge()
    assert (await orchestrator.ended(dispatch.job_id)).state is JobStatus.CANCELLED
    assert orchestrator.stream(dispatch.job_id, 0).dropped_bytes == 0
    orchestrator.check_order(dispatch.job_id)


async def test_a_million_lines_arrive_whole(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def print_all(ctx: Context) -> None:
            await ctx.sh("seq 1000000")

        jobs = [job("build", runs_on="x", steps=[print_all])]
    """)
    dispatch = project.dispatch()
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.SUCCESS
    expected = "".join(f"{number}\n" for number in range(1, 1_000_001))
    assert orchestrator.text(dispatch.job_id) == expected
    (last,) = [s for s in orchestrator.steps(dispatch.job_id) if s.log_lines == 1_000_000]
    assert last.log_bytes == len(expected)


async def test_one_line_of_a_hundred_megabytes_arrives_whole(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def print_all(ctx: Context) -> None:
            await ctx.sh("head -c 100000000 /dev/zero | tr '\\\\0' x")

        jobs = [job("build", runs_on="x", steps=[print_all])]
    """)
    dispatch = project.dispatch()
    assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
    assert orchestrator.stream(dispatch.job_id, 0).data == b"x" * 100_000_000


async def test_a_log_beyond_its_limit_keeps_head_and_tail(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def print_all(ctx: Context) -> None:
            await ctx.sh("seq 1000000")

        jobs = [job("build", runs_on="x", steps=[print_all])]
    """)
    dispatch = project.dispatch(max_log_size_bytes=100_000)
    assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
    text = orchestrator.text(dispatch.job_id)
    stream = orchestrator.stream(dispatch.job_id, 0)
    assert text.startswith("1\n2\n3\n")
    assert text.endswith("\n999999\n1000000\n")
    assert len(text) < 200_000
    assert (stream.lines, stream.bytes) == (1_000_000, 6_888_896)


async def test_heartbeats_and_metrics_flow(orchestrator: Orchestrator, project: Project) -> None:
    project.workflow("""
        @step
        async def wait(ctx: Context) -> None:
            await ctx.sh("until test -e ../go; do sleep 0.02; done")

        jobs = [job("build", runs_on="x", steps=[wait])]
    """)
    data_dir = project.root.parent / "data"
    async with agent(orchestrator, data_dir, KICI_JOB_HEARTBEAT_INTERVAL_MS="100") as process:
        dispatch = project.dispatch()
        await orchestrator.send(dispatch)
        await orchestrator.until(
            lambda: len([m for m in orchestrator.loose if isinstance(m, JobHeartbeat)]) >= 2
        )
        health = (await process.get("/health"))[1]
        assert b'"activeJobs":1' in health
        (folder,) = (data_dir / "work").glob("*/job-*")
        (folder / "go").touch()
        await orchestrator.ended(dispatch.job_id)
        await orchestrator.until(lambda: any(isinstance(m, AgentMetrics) for m in orchestrator.loose))
        (metrics,) = [m for m in orchestrator.loose if isinstance(m, AgentMetrics)]
        assert 'kici_agent_jobs_total{status="success"} 1.0' in metrics.exposition
        status, exposition = await process.get("/metrics")
        assert status == 200
        for name in (
            "kici_agent_jobs_active 0.0",
            'kici_agent_steps_total{status="success"} 1.0',
            "kici_agent_step_duration_seconds_bucket",
            "kici_agent_clone_duration_seconds_bucket",
            "kici_agent_log_bytes_total",
            "kici_agent_log_lines_dropped_total 0.0",
            'kici_agent_log_backpressure_events_total{mode="pause"} 0.0',
            'kici_agent_log_backpressure_active{mode="drop"} 0.0',
            "kici_agent_connection_status 1.0",
        ):
            assert name in exposition.decode()
