"""Requests of author code through a real agent: answered, refused, and asked again after a lost connection."""

import base64
from typing import Any

import pytest

from kici.protocol.agent_v1 import AgentResponse
from kici.spec.states import JobStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project

pytestmark = pytest.mark.process


async def test_a_request_outlives_its_connection(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-12: the step waits; the question comes again under the same id; one answer ends it."""
    project.workflow("""
        @step
        async def look(ctx: Context) -> dict[str, Any]:
            host = await ctx.kici.inventory.get("agent-9")
            return {"host": host.host, "labels": list(host.labels)}

        jobs = [job("build", runs_on="kici:os:linux", steps=[look])]
    """)
    dispatch = project.dispatch()
    connection = await orchestrator.registered()
    await orchestrator.send(dispatch)
    await orchestrator.until(lambda: len(orchestrator.asked("inventory.get")) == 1)
    connection.transport.abort()
    await orchestrator.registered(2)
    await orchestrator.until(lambda: len(orchestrator.asked("inventory.get")) == 2)
    first, again = orchestrator.asked("inventory.get")
    assert again == first
    assert (first.job_id, first.attempt, first.params) == (dispatch.job_id, 1, {"agentId": "agent-9"})
    answer = {"host": {"host": "web-9", "labels": ["role:web"], "agentId": "agent-9"}}
    await orchestrator.send(
        AgentResponse(request_id=first.request_id, job_id=dispatch.job_id, result=answer)
    )
    await orchestrator.until(lambda: bool(orchestrator.terminal(dispatch.job_id)))
    (ended,) = orchestrator.terminal(dispatch.job_id)
    assert ended.outputs == {"look": {"host": "web-9", "labels": ["role:web"]}}, ended.error_message


async def test_a_refusal_is_the_authors_exception(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-70, AU-86: its code decides which."""
    project.workflow("""
        @step
        async def send(ctx: Context) -> dict[str, str]:
            try:
                await ctx.emit("deployed", {"to": "prod"}, target_repos=["acme/other"])
            except EventRejectedError as error:
                return {"said": str(error)}
            return {"said": "sent"}

        jobs = [job("build", runs_on="kici:os:linux", steps=[send])]
    """)
    dispatch = project.dispatch()
    await orchestrator.registered()
    await orchestrator.send(dispatch)
    await orchestrator.until(lambda: bool(orchestrator.asked("event.emit")))
    (asked,) = orchestrator.asked("event.emit")
    assert asked.params == {"name": "deployed", "payload": {"to": "prod"}, "targetRepos": ["acme/other"]}
    await orchestrator.send(
        AgentResponse(
            request_id=asked.request_id,
            job_id=dispatch.job_id,
            error_code="event_rejected",
            error="acme/other does not trust acme/widgets",
        )
    )
    await orchestrator.until(lambda: bool(orchestrator.terminal(dispatch.job_id)))
    (ended,) = orchestrator.terminal(dispatch.job_id)
    assert ended.outputs == {"send": {"said": "acme/other does not trust acme/widgets"}}


async def test_a_cache_that_is_away_fails_nobody(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-78: it is said, and the job goes on."""
    project.workflow("""
        @step(cache=Cache(key="k", paths=["deps"]))
        async def build(ctx: Context) -> None:
            os.makedirs("deps", exist_ok=True)

        jobs = [job("build", runs_on="kici:os:linux", steps=[build])]
    """)
    dispatch = project.dispatch()
    await orchestrator.registered()
    await orchestrator.send(dispatch)
    answered: set[str] = set()

    async def refuse(method: str) -> None:
        await orchestrator.until(
            lambda: bool(orchestrator.asked(method)) or bool(orchestrator.terminal(dispatch.job_id))
        )
        for asked in orchestrator.asked(method):
            if asked.request_id not in answered:
                answered.add(asked.request_id)
                await orchestrator.send(
                    AgentResponse(
                        request_id=asked.request_id,
                        job_id=dispatch.job_id,
                        error_code="store_unavailable",
                        error="the object store does not answer",
                    )
                )

    await refuse("cache.restore")
    await refuse("cache.save")
    await orchestrator.until(lambda: bool(orchestrator.terminal(dispatch.job_id)))
    (ended,) = orchestrator.terminal(dispatch.job_id)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    logs = "".join(
        orchestrator.text(dispatch.job_id, index)
        for job_id, _attempt, index in orchestrator.streams
        if job_id == dispatch.job_id
    )
    assert "the object store does not answer" in logs


_LEAVES_A_SECRET = """
    @step
    async def mint(ctx: Context) -> None:
        await ctx.set_secret_output("TOKEN", "s3cr3t-value")
        print("s3cr3t-value")

    jobs = [job("build", runs_on="kici:os:linux", steps=[mint])]
"""


async def test_outputs_that_cannot_be_sealed_fail_the_job(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-52: instead of getting lost; and never in the clear."""
    project.workflow(_LEAVES_A_SECRET)
    broken = base64.b64encode(bytes(32)).decode()  # the point at infinity: no exchange works
    dispatch = project.dispatch(run_public_key=broken)
    await orchestrator.registered()
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    assert ended.error_message is not None
    assert ended.error_message.startswith("the job's secret outputs cannot be sealed")
    assert ended.secret_outputs == {}
    everything: list[Any] = [*orchestrator.reliable, orchestrator.text(dispatch.job_id)]
    assert "s3cr3t-value" not in str(everything)


async def test_secrets_of_the_dispatch_are_masked_from_the_start(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-64, AG-65, AG-88: also when nobody asked for them; the job page has names only."""
    project.workflow("""
        @step
        async def leak(ctx: Context) -> dict[str, str]:
            print("is it pre-known-value?")
            return {"value": (await ctx.secrets.get("TOKEN"))[:3]}

        jobs = [job("build", runs_on="kici:os:linux", steps=[leak])]
    """)
    dispatch = project.dispatch(secrets={"TOKEN": "pre-known-value"})
    await orchestrator.registered()
    ended = await orchestrator.run(dispatch)
    assert ended.outputs == {"leak": {"value": "pre"}}
    assert orchestrator.text(dispatch.job_id) == "is it ***?\n"
    step = next(s for s in orchestrator.steps(dispatch.job_id) if s.step_index == 0 and s.log_lines)
    assert step.secrets_accessed == ["TOKEN"]
    assert "pre-known-value" not in str(orchestrator.reliable)
