"""Cancel at every phase, shut-down, drain and kill -9 (AG-43, AG-47, AG-56…58, AG-95)."""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kici.protocol.agent_v1 import JobReject
from kici.spec.states import JobStatus, StepStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project, agent

pytestmark = pytest.mark.process

SLEEPER = """
    @hook
    async def undo(ctx: HookContext) -> None:
        print("undone:", ctx.outcome.status)

    @step
    async def sleep(ctx: Context) -> None:
        await ctx.sh("echo $$ > pid; echo asleep; sleep 600 & wait")

    @step
    async def quick(ctx: Context) -> None:
        print("quick")

    jobs = [
        job("build", runs_on="x", steps=[sleep], on_cancel=undo),
        job("quick", runs_on="x", steps=[quick]),
    ]
"""


async def asleep(orchestrator: Orchestrator, job_id: str) -> None:
    """The step's shell runs and has said so."""
    await orchestrator.until(lambda: "asleep" in orchestrator.text(job_id))


def pid_of(process: AgentProcess) -> int:
    (file,) = (process.data_dir / "work").glob("*/job-*/repo/pid")
    return int(file.read_text())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> None:
    async with asyncio.timeout(20):
        while is_alive(pid):
            await asyncio.sleep(0.02)


async def test_a_graceful_cancel_ends_the_tree_and_runs_the_hooks(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    dispatch = project.workflow(SLEEPER).dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    pid = pid_of(agent_process)

    await orchestrator.send(project.cancel(dispatch))
    await orchestrator.send(project.cancel(dispatch))  # repeated on the wire, not escalated

    ended = await orchestrator.ended(dispatch.job_id)
    assert (ended.state, ended.error_message) == (JobStatus.CANCELLED, "asked to")
    hooks = [step for step in orchestrator.steps(dispatch.job_id) if step.step_type == "hook:onCancel"]
    assert hooks[-1].state is StepStatus.SUCCESS
    assert orchestrator.text(dispatch.job_id, hooks[-1].step_index) == "undone: cancelled\n"
    orchestrator.check_order(dispatch.job_id)
    await gone(pid)


async def test_a_forced_cancel_kills_without_hooks(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    dispatch = project.workflow(SLEEPER).dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    pid = pid_of(agent_process)
    await orchestrator.send(project.cancel(dispatch, force=True))
    ended = await orchestrator.ended(dispatch.job_id)
    assert ended.state is JobStatus.CANCELLED
    assert all(not step.step_type.startswith("hook") for step in orchestrator.steps(dispatch.job_id))
    orchestrator.check_order(dispatch.job_id)
    await gone(pid)
    assert (await orchestrator.run(project.dispatch("quick"))).state is JobStatus.SUCCESS


@asynccontextmanager
async def silent_server() -> AsyncGenerator[tuple[str, asyncio.Event]]:
    """An HTTP address that accepts and never answers; the event tells that somebody asks."""
    asked = asyncio.Event()

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.set()
        try:
            while await reader.read(65536):
                pass
        except ConnectionError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/repo.git", asked


async def test_a_cancel_before_the_runner_exists_ends_the_job_at_once(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow(SLEEPER)
    async with silent_server() as (url, asked):
        dispatch = project.dispatch(checkout={"repo_url": url, "token": "s3cret-token"})
        await orchestrator.send(dispatch)
        async with asyncio.timeout(20):
            await asked.wait()
        commands = [
            path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if b"git" in _read(path)
        ]
        assert not any(b"s3cret-token" in command for command in commands)
        await orchestrator.send(project.cancel(dispatch))
        ended = await orchestrator.ended(dispatch.job_id)
    assert (ended.state, ended.error_message) == (JobStatus.CANCELLED, "asked to")
    (last,) = [s for s in orchestrator.steps(dispatch.job_id) if s.state is not StepStatus.RUNNING]
    assert (last.step_index, last.state) == (-1, StepStatus.CANCELLED)
    orchestrator.check_order(dispatch.job_id)
    assert "s3cret-token" not in orchestrator.text(dispatch.job_id, -1)
    assert (await orchestrator.run(project.dispatch("quick"))).state is JobStatus.SUCCESS


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


async def test_a_cancel_right_behind_the_dispatch_ends_in_one_terminal_status(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow(SLEEPER)
    for _ in range(5):
        dispatch = project.dispatch()
        await orchestrator.send(dispatch)
        await orchestrator.send(project.cancel(dispatch))
        assert (await orchestrator.ended(dispatch.job_id)).state is JobStatus.CANCELLED
        orchestrator.check_order(dispatch.job_id)


async def test_cancelling_a_job_that_is_not_here_still_ends_it(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow(SLEEPER)
    never_sent = project.dispatch()
    await orchestrator.send(project.cancel(never_sent))
    assert (await orchestrator.ended(never_sent.job_id)).state is JobStatus.CANCELLED
    done = project.dispatch("quick")
    await orchestrator.run(done)
    await orchestrator.send(project.cancel(done))
    await orchestrator.run(project.dispatch("quick"))
    assert [status.state for status in orchestrator.terminal(done.job_id)] == [JobStatus.SUCCESS]


async def test_terminate_waits_for_the_job_tells_its_end_and_exits(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def wait(ctx: Context) -> None:
            await ctx.sh("echo asleep; until test -e ../go; do sleep 0.02; done; echo finished")

        jobs = [job("build", runs_on="x", steps=[wait])]
    """)
    dispatch = project.dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    agent_process.signal(signal.SIGTERM)
    await agent_process.logged("agent.stopping")
    (folder,) = (agent_process.data_dir / "work").glob("*/job-*")
    (folder / "go").touch()
    assert await agent_process.exit_status() == 0
    assert (await orchestrator.ended(dispatch.job_id)).state is JobStatus.SUCCESS
    assert "finished" in orchestrator.text(dispatch.job_id)
    assert list((agent_process.data_dir / "work").iterdir()) == []


async def test_a_job_that_outlasts_the_shut_down_fails_and_says_why(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    dispatch = project.workflow(SLEEPER).dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    pid = pid_of(agent_process)
    agent_process.signal(signal.SIGINT)
    assert await agent_process.exit_status() == 0
    ended = await orchestrator.ended(dispatch.job_id)
    assert (ended.state, ended.error_message) == (JobStatus.FAILED, "agent shut down")
    await gone(pid)


async def test_a_second_signal_ends_everything_at_once(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    dispatch = project.workflow(SLEEPER).dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    pid = pid_of(agent_process)
    agent_process.signal(signal.SIGTERM)
    await agent_process.logged("agent.stopping")
    agent_process.signal(signal.SIGTERM)
    assert await agent_process.exit_status(5) == 130
    await gone(pid)


async def test_a_drain_finishes_the_job_rejects_others_and_exits(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    dispatch = project.workflow(SLEEPER).dispatch()
    await orchestrator.send(dispatch)
    await asleep(orchestrator, dispatch.job_id)
    agent_process.signal(signal.SIGUSR1)
    await agent_process.logged("agent.draining")
    other = project.dispatch("quick")
    await orchestrator.send(other)
    await orchestrator.until(lambda: bool(orchestrator.of(JobReject, other.job_id)))
    assert orchestrator.of(JobReject, other.job_id)[0].reason == "draining"
    await orchestrator.send(project.cancel(dispatch, force=True))
    assert await agent_process.exit_status() == 0
    assert (await orchestrator.ended(dispatch.job_id)).state is JobStatus.CANCELLED


async def test_killed_nothing_lives_on_and_the_next_start_cleans_up(
    orchestrator: Orchestrator, project: Project
) -> None:
    project.workflow(SLEEPER)
    data_dir = project.root.parent / "data"
    async with agent(orchestrator, data_dir) as first:
        dispatch = project.dispatch()
        await orchestrator.send(dispatch)
        await asleep(orchestrator, dispatch.job_id)
        pid = pid_of(first)
        first.signal(signal.SIGKILL)
        await first.exit_status()
        await gone(pid)
    assert list((data_dir / "work").glob("*/job-*"))
    async with agent(orchestrator, data_dir) as second:
        await orchestrator.registered(2)
        assert orchestrator.registrations[0].session_id != orchestrator.registrations[1].session_id
        assert orchestrator.registrations[1].in_flight == []
        await second.logged("workspace.leftover_removed")
        assert not list((data_dir / "work").glob("*/job-*"))
        assert (await orchestrator.run(project.dispatch("quick"))).state is JobStatus.SUCCESS
