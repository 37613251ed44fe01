"""Setup rows, generated jobs, check mode and what steps report beside their end, on a real agent."""

import msgspec
import pytest

from kici.protocol.runner_v1 import RunOutcome
from kici.spec.lock import Amount, Resources
from kici.spec.states import JobStatus, StepStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project

pytestmark = pytest.mark.process


async def test_setup_rows_work_values_out_and_log_what_they_print(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-67, AG-68, AG-70, AU-42…44: init, generator and hooks are jobs with a log of their own."""
    project.workflow("""
        def values(event: Event) -> dict[str, str]:
            print("looking around", event.target_branch)
            return {"BRANCH": str(os.path.basename(event.target_branch or ""))}

        @job(runs_on="kici:os:linux", env=values)
        async def build(ctx: Context) -> None:
            pass

        @step
        async def scan(ctx: Context, *, target: str) -> dict[str, str]:
            print("scanning", target)
            return {"scanned": target}

        @dynamic_jobs("reports")
        async def reports(g: GenerateContext) -> list[MultiJob]:
            print("generating")
            await g.sh("echo from a program")
            return [job(f"report-{t}", runs_on="kici:os:linux", steps=[scan.bind(target=t)]) for t in "ab"]

        jobs = [build, reports]
    """)
    await orchestrator.registered()
    init = project.dispatch(purpose="init", job_name="__init__ci__build")
    ended = await orchestrator.run(init)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.init is not None
    assert ended.init.env == {"BRANCH": "main"}
    assert orchestrator.text(init.job_id) == "looking around main\n"

    generator = project.dispatch("reports", purpose="dynamic", job_name="__dynamic__ci__0")
    ended = await orchestrator.run(generator)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.generated is not None
    assert [job.name for job in ended.generated] == ["report-a", "report-b"]
    said = orchestrator.text(generator.job_id)
    assert said.startswith("generating\nfrom a program\n")
    assert [step.step_name for step in orchestrator.steps(generator.job_id)][-1] == "evaluate"

    made = ended.generated[1]
    report = msgspec.structs.replace(
        project.dispatch("reports"), job=made, job_name=made.name, base_job_name=made.name
    )
    ended = await orchestrator.run(report)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.outputs == {"scan": {"scanned": "b"}}


async def test_hooks_of_the_workflow_see_how_it_went(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-33: a job of its own, whose rows are hooks."""
    source = """
        import asyncio, os, sys, time
        from kici import *

        @job(runs_on="kici:os:linux")
        async def build(ctx: Context) -> None:
            pass

        async def report(ctx: Context) -> None:
            print("it", ctx.outcome.status, "because", ctx.outcome.reason)

        ci = workflow("ci", on=push(), jobs=[build], on_failure=report)
    """
    project.write({".kici/workflows/ci.py": source})
    project.compile()
    project.commit()
    await orchestrator.registered()
    outcome = RunOutcome(status="failed", reason="a test failed", failed_job="build", duration_ms=5)
    hooks = project.dispatch(
        purpose="hooks", job_name="__hooks__ci", base_job_name="__hooks__ci", run_outcome=outcome
    )
    ended = await orchestrator.run(hooks)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    rows = [step for step in orchestrator.steps(hooks.job_id) if step.step_index >= 0]
    assert rows[-1].step_type == "hook:onFailure"
    assert orchestrator.text(hooks.job_id, rows[-1].step_index) == "it failed because a test failed\n"


async def test_what_a_step_found_travels_with_its_end(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-34, AU-48, AG-44: check mode, drift, rules, summary and annotations; rules skip a job as such."""
    project.workflow("""
        async def inspect(ctx: Context) -> str | None:
            return "port 80 is open"

        @step("firewall", check=inspect, summarize=lambda drift: f"would close: {drift}")
        async def firewall(ctx: Context, drift: str) -> None:
            raise AssertionError("not in check mode")

        def ready(context: object) -> bool:
            return bool(os.environ.get("NEVER"))

        @step(rules=[rule("only when ready", ready)])
        async def later(ctx: Context) -> None:
            pass

        async def inspect_and_tell(ctx: Context) -> str | None:
            ctx.summary("## All well")
            ctx.annotate("warning", "old syntax", file="a.py", line=3)
            return None

        @step("told", check=inspect_and_tell, summarize=str)
        async def told(ctx: Context, drift: str) -> None:
            pass

        jobs = [job("build", runs_on="kici:os:linux", steps=[firewall, later, told])]
    """)
    await orchestrator.registered()
    dispatch = project.dispatch(check_mode="check")
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    assert ended.drifted
    last = {step.step_index: step for step in orchestrator.steps(dispatch.job_id)}
    assert (last[0].check_outcome, last[0].drift_summary) == (
        "would_change",
        "would close: port 80 is open",
    )
    assert last[1].state is StepStatus.SKIPPED
    assert [(rule.label, rule.passed) for rule in last[1].rules] == [("only when ready", False)]
    assert (last[2].check_outcome, last[2].summary) == ("in_sync", "## All well")
    assert [(note.level, note.file, note.line) for note in last[2].annotations] == [("warning", "a.py", 3)]


async def test_what_does_not_fit_into_a_frame_is_left_out(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-7, AG-37: the step still ends, and the log says what is missing."""
    project.workflow("""
        @step
        async def chatter(ctx: Context) -> None:
            ctx.summary("\\x01" * 1_000_000)
            ctx.annotate("notice", "kept")

        jobs = [job("build", runs_on="kici:os:linux", steps=[chatter])]
    """)
    await orchestrator.registered()
    dispatch = project.dispatch()
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    last = orchestrator.steps(dispatch.job_id)[-1]
    assert (last.state, last.summary) == (StepStatus.SUCCESS, None)
    assert "Left out, too large to be sent: annotations, summary" in orchestrator.text(dispatch.job_id)


async def test_limits_that_are_not_enforced_are_said(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AU-56, AU-102: in the preparation log, once, beside an SDK that differs."""
    project.workflow("""
        @job(runs_on="kici:os:linux")
        async def build(ctx: Context) -> None:
            pass

        jobs = [build]
    """)
    await orchestrator.registered()
    plain = project.dispatch()
    await orchestrator.run(plain)
    assert "Warning" not in orchestrator.text(plain.job_id, -1)
    limits = Resources(limits=Amount(memory_bytes=4 << 30, cpus=1.5))
    limited = msgspec.structs.replace(
        project.dispatch(sdk_version="0.0.9"), job=msgspec.structs.replace(plain.job, resources=limits)
    )
    ended = await orchestrator.run(limited)
    assert ended.state is JobStatus.SUCCESS, ended.error_message
    prepared = orchestrator.text(limited.job_id, -1)
    assert prepared.count("does not enforce the memory limit of 4 GiB and the limit of 1.5 CPUs") == 1
    assert prepared.count("the lock file was compiled with kici 0.0.9, this agent has") == 1
