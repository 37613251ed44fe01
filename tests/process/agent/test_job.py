"""A real agent process runs jobs for a scripted orchestrator."""

import pytest
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project

from kici.protocol.agent_v1 import JobAck, JobContext
from kici.spec.states import JobStatus, StepStatus

pytestmark = pytest.mark.process


async def test_a_job_succeeds_and_everything_is_told_in_order(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.write({"hello.txt": "hello from the tree\n"}).workflow("""
        @step
        async def greet(ctx: Context) -> dict[str, str]:
            print("printed")
            await ctx.sh("cat hello.txt; echo from sh")
            return {"said": "hello"}

        jobs = [job("build", runs_on="kici:os:linux", steps=[greet])]
    """)
    dispatch = project.dispatch()

    ended = await orchestrator.run(dispatch)

    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    assert ended.outputs == {"greet": {"said": "hello"}}
    assert orchestrator.text(dispatch.job_id) == "printed\nhello from the tree\nfrom sh\n"
    orchestrator.check_order(dispatch.job_id)
    assert isinstance(orchestrator.reliable[0], JobAck)
    assert orchestrator.events(dispatch.job_id) == [
        "agent.clone.start",
        "agent.clone.end",
        "agent.execution.start",
        "agent.execution.end",
        "agent.teardown",
    ]
    prepare = orchestrator.text(dispatch.job_id, -1)
    assert prepare.startswith(f"Run: {dispatch.run_id} | Trace: {dispatch.request_id}\n")
    states = [(step.step_index, step.state) for step in orchestrator.steps(dispatch.job_id)]
    assert states == [
        (-1, StepStatus.RUNNING),
        (-1, StepStatus.SUCCESS),
        (0, StepStatus.RUNNING),
        (0, StepStatus.SUCCESS),
    ]
    (context,) = orchestrator.of(JobContext, dispatch.job_id)
    assert context.context["gitRef"] == "refs/heads/main"
