"""Jobs on a real agent process: what is reported, in which order, and how each ending looks."""

import sys

import pytest

from kici.protocol.agent_v1 import JobAck, JobContext, JobReject, StepStatusUpdate
from kici.spec.ids import OUTSIDE_STEP, PREPARE_STEP
from kici.spec.states import STEP_TERMINAL, JobStatus, StepStatus
from tests.process.agent.scripted import AgentProcess, Orchestrator, Project, agent

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
    await agent_process.logged("job.ended")
    traced = [line for line in agent_process.lines if line.get("jobId") == dispatch.job_id]
    assert {(line["runId"], line["requestId"]) for line in traced} == {
        (dispatch.run_id, dispatch.request_id)
    }
    assert any(
        line["message"] == f"Run: {dispatch.run_id} | Trace: {dispatch.request_id}" for line in traced
    )


async def test_a_failing_step_fails_the_job_with_its_code_and_message(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def bad(ctx: Context) -> None:
            await ctx.sh("echo nearly; exit 7")

        @step
        async def never(ctx: Context) -> None:
            print("not reached")

        jobs = [job("build", runs_on="x", steps=[bad, never])]
    """)
    dispatch = project.dispatch()
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    last = {step.step_index: step for step in orchestrator.steps(dispatch.job_id)}
    assert (last[0].state, last[0].exit_code) == (StepStatus.FAILED, 7)
    assert last[1].state is StepStatus.SKIPPED
    assert orchestrator.text(dispatch.job_id).startswith("nearly\n")
    orchestrator.check_order(dispatch.job_id)


async def test_one_job_after_another_and_each_starts_clean(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.write({"file": "committed\n"}).workflow("""
        @step
        async def dirty(ctx: Context) -> None:
            await ctx.sh("cat file; ls | sort; echo changed > file; touch extra; git config user.name me")

        jobs = [job("build", runs_on="x", steps=[dirty])]
    """)
    for _ in range(3):
        dispatch = project.dispatch()
        assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
        assert orchestrator.text(dispatch.job_id) == "committed\nfile\n"


async def test_a_step_sees_the_allowed_environment_and_nothing_else(
    orchestrator: Orchestrator, project: Project, tmp_path: object
) -> None:
    project.workflow("""
        @step
        async def show(ctx: Context) -> dict[str, str]:
            return dict(os.environ)

        jobs = [job("build", runs_on="x", steps=[show], env={"MODE": "release"})]
    """)
    dispatch = project.dispatch(env={"KICI_RUN_ID": "run-9", "MODE": "overridden by the job"})
    hidden = {"SECRET_THING": "42", "KICI_DEFAULT_STEP_TIMEOUT_MS": "60000", "LANG": "C.UTF-8"}
    async with agent(orchestrator, project.root.parent / "data", **hidden):
        ended = await orchestrator.run(dispatch)
    assert ended.outputs is not None
    seen: dict[str, str] = ended.outputs["show"]
    assert seen["MODE"] == "release"
    assert seen["KICI_RUN_ID"] == "run-9"
    assert seen["LANG"] == "C.UTF-8"
    assert seen["FORCE_COLOR"] == seen["PYTHONUNBUFFERED"] == "1"
    assert {name for name in seen if name.startswith("KICI_")} == {"KICI_RUN_ID", "KICI_ENV", "KICI_PATH"}
    allowed = {"PATH", "HOME", "USER", "SHELL", "LANG", "LC_ALL", "TERM", "TMPDIR", "TZ"}
    ours = {"FORCE_COLOR", "PYTHONUNBUFFERED", "KICI_RUN_ID", "KICI_ENV", "KICI_PATH", "MODE"}
    assert set(seen) <= allowed | ours
    (context,) = orchestrator.of(JobContext, dispatch.job_id)
    shown = {entry["name"]: entry for entry in context.context["envVars"]}
    assert set(shown) <= allowed | ours
    assert shown["MODE"] == {"name": "MODE", "value": "release", "category": "user"}
    assert shown["LANG"]["category"] == "inherited"


async def test_a_changed_workflow_without_its_lock_is_refused_before_any_step(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def greet(ctx: Context) -> None:
            print("hello")

        jobs = [job("build", runs_on="x", steps=[greet])]
    """)
    good = project.dispatch()
    project.write({".kici/helpers.py": "sneaky = True\n"}).commit()
    stale = project.dispatch()

    assert (await orchestrator.run(good)).state is JobStatus.SUCCESS
    for dispatch in (stale, project.dispatch()):  # the second answer comes from memory
        ended = await orchestrator.run(dispatch)
        assert ended.state is JobStatus.FAILED
        assert ended.init_failure_category == "lock_resolution"
        assert ended.error_message is not None
        first, second = ended.error_message.split("\n")
        assert first.startswith(
            "Lock file is out of date: workflow source changed without regenerating kici.lock.json "
            f"(expected contentHash {dispatch.content_hash}, got "
        )
        assert "agent baked kici-sdk@" in first
        assert first.endswith("Run 'kici compile' and commit the updated lock file.")
        assert second == "First difference: .kici/helpers.py (not in the lock file)"
        assert {step.step_index for step in orchestrator.steps(dispatch.job_id)} == {-1}
        orchestrator.check_order(dispatch.job_id)
        assert "Lock file is out of date" in orchestrator.text(dispatch.job_id, -1)


async def test_an_sdk_difference_alone_is_a_warning(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def greet(ctx: Context) -> None:
            print("hello")

        jobs = [job("build", runs_on="x", steps=[greet])]
    """)
    dispatch = project.dispatch(sdk_version="9.9.9")
    assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
    assert "compiled with kici 9.9.9" in orchestrator.text(dispatch.job_id, -1)


async def test_without_checkout_only_the_workflow_is_there(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.write({"big.bin": "x"}).workflow("""
        @step
        async def look(ctx: Context) -> None:
            await ctx.sh("ls -A")

        jobs = [job("build", runs_on="x", steps=[look], checkout=False)]
    """)
    dispatch = project.dispatch()
    ended = await orchestrator.run(dispatch)
    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    assert orchestrator.text(dispatch.job_id).split() == [".kici"]


async def test_output_outside_of_steps_has_its_place(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    """AG-45: at import, in the preparation log; later, in a row that is there only then. A row's log is whole
    when the row ends."""
    project.workflow("""
        print("at import")

        def talk(ctx):
            print("in a rule")
            return True

        @step
        async def greet(ctx: Context) -> None:
            print("in the step")

        @step(rules=[rule("talks", talk)])
        async def leave(ctx: Context) -> None:
            print("in the last step")

        jobs = [job("build", runs_on="x", steps=[greet, leave])]
    """)
    dispatch = project.dispatch()
    assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
    assert orchestrator.text(dispatch.job_id, PREPARE_STEP).endswith("at import\n")
    assert orchestrator.text(dispatch.job_id, 0) == "in the step\n"
    rows = [m for m in orchestrator.of(StepStatusUpdate, dispatch.job_id) if m.state in STEP_TERMINAL]
    assert orchestrator.text(dispatch.job_id, OUTSIDE_STEP) == "in a rule\n"
    assert [row.step_index for row in rows] == [PREPARE_STEP, 0, 1, OUTSIDE_STEP]
    for row in rows:
        stream = orchestrator.stream(dispatch.job_id, row.step_index)
        assert stream.ended
        assert stream.lines == row.log_lines


async def test_a_second_job_is_rejected_as_busy_and_the_same_one_acknowledged_again(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def wait(ctx: Context) -> None:
            await ctx.sh("until test -e /proc/self/cwd/../go; do sleep 0.02; done")

        jobs = [job("build", runs_on="x", steps=[wait])]
    """)
    first, second = project.dispatch(), project.dispatch()
    await orchestrator.send(first)
    await orchestrator.started(first.job_id)
    await orchestrator.send(second)
    await orchestrator.send(first)
    await orchestrator.until(lambda: len(orchestrator.of(JobAck, first.job_id)) == 2)
    (rejected,) = orchestrator.of(JobReject, second.job_id)
    assert rejected.reason == "busy"
    (folder,) = (agent_process.data_dir / "work").glob("*/job-*/repo")
    (folder.parent / "go").touch()
    assert (await orchestrator.ended(first.job_id)).state is JobStatus.SUCCESS

    await orchestrator.send(first)  # sent again after its end
    await orchestrator.until(lambda: bool(orchestrator.of(JobReject, first.job_id)))
    assert orchestrator.of(JobReject, first.job_id)[0].reason == "stale_attempt"
    assert len(orchestrator.terminal(first.job_id)) == 1


async def test_an_unreadable_dispatch_fails_its_job_with_the_reason(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    connection = await orchestrator.registered()
    await connection.send('{"type":"job.dispatch","runId":"r","jobId":"j","attempt":3,"jobName":7}')
    ended = await orchestrator.ended("j")
    assert (ended.state, ended.attempt) == (JobStatus.FAILED, 3)
    assert "cannot read this dispatch" in (ended.error_message or "")
    await connection.send('{"type":"tea.pot"}')
    await connection.send("not json")
    await orchestrator.until(
        lambda: len([m for m in orchestrator.loose if type(m).__name__ == "ErrorFrame"]) == 2
    )
    project.workflow("""
        @step
        async def greet(ctx: Context) -> None:
            print("hello")

        jobs = [job("build", runs_on="x", steps=[greet])]
    """)
    assert (await orchestrator.run(project.dispatch())).state is JobStatus.SUCCESS
    assert len(orchestrator.registrations) == 1


async def test_a_commit_that_is_gone_fails_with_a_sentence(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def greet(ctx: Context) -> None:
            print("hello")

        jobs = [job("build", runs_on="x", steps=[greet])]
    """)
    dispatch = project.dispatch(checkout={"sha": "1" * 40})
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    assert f"commit {'1' * 40} is not in {project.root}" in (ended.error_message or "")
    orchestrator.check_order(dispatch.job_id)


async def test_a_runner_that_crashes_fails_its_job_and_the_next_one_runs(
    orchestrator: Orchestrator, agent_process: AgentProcess, project: Project
) -> None:
    project.workflow("""
        @step
        async def crash(ctx: Context) -> None:
            print("last words", flush=True)
            os.kill(os.getpid(), 11)

        @step
        async def fine(ctx: Context) -> None:
            print("fine")

        jobs = [
            job("build", runs_on="x", steps=[crash]),
            job("after", runs_on="x", steps=[fine]),
        ]
    """)
    dispatch = project.dispatch()
    ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    assert "SIGSEGV" in (ended.error_message or "")
    assert "last words" in orchestrator.text(dispatch.job_id)
    orchestrator.check_order(dispatch.job_id)
    assert (await orchestrator.run(project.dispatch("after"))).state is JobStatus.SUCCESS


TINY = {
    "pyproject.toml": """
        [build-system]
        requires = []
        build-backend = "backend"
        backend-path = ["."]

        [project]
        name = "tiny"
        version = "1.0"
    """,
    "backend.py": """
        import os, zipfile

        INFO = "tiny-1.0.dist-info/"

        def build_wheel(folder, config_settings=None, metadata_directory=None):
            name = "tiny-1.0-py3-none-any.whl"
            with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
                wheel.writestr("tiny.py", "answer = 42\\n")
                wheel.writestr(INFO + "METADATA", "Metadata-Version: 2.1\\nName: tiny\\nVersion: 1.0\\n")
                wheel.writestr(INFO + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
                wheel.writestr(INFO + "RECORD", "")
            return name
    """,
}
TINY_LOCK = {
    ".kici/pyproject.toml": """
        [project]
        name = "workflows"
        version = "0"
        requires-python = ">=3.11"
        dependencies = ["tiny"]

        [tool.uv.sources]
        tiny = { path = "tiny" }
    """,
    ".kici/uv.lock": """
        version = 1
        requires-python = ">=3.11"

        [[package]]
        name = "tiny"
        version = "1.0"
        source = { directory = "tiny" }

        [[package]]
        name = "workflows"
        version = "0"
        source = { virtual = "." }
        dependencies = [
            { name = "tiny" },
        ]

        [package.metadata]
        requires-dist = [{ name = "tiny", directory = "tiny" }]
    """,
}
USES_TINY = """
    @step
    async def use(ctx: Context) -> list[int | str]:
        import tiny
        return [tiny.answer, sys.executable]

    jobs = [job("build", runs_on="x", steps=[use])]
"""


async def test_requirements_are_installed_once_into_an_environment_that_is_kept(
    orchestrator: Orchestrator, project: Project
) -> None:
    project.write({f".kici/tiny/{name}": text for name, text in TINY.items()})
    project.write({".kici/requirements.txt": "./tiny\n"}).workflow(USES_TINY)
    data_dir = project.root.parent / "data"
    async with agent(orchestrator, data_dir, UV_OFFLINE="1"):
        first, second = project.dispatch(), project.dispatch()
        for dispatch, status in ((first, "miss"), (second, "hit")):
            ended = await orchestrator.run(dispatch)
            assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
            assert ended.outputs is not None
            answer, python = ended.outputs["use"]
            assert answer == 42
            assert python.startswith(str(data_dir / "venvs"))
            (context,) = orchestrator.of(JobContext, dispatch.job_id)
            assert context.context["depCacheStatus"] == status
        assert "Installing dependencies" in orchestrator.text(first.job_id, -1)
    async with agent(orchestrator, data_dir, UV_OFFLINE="1"):  # a restart keeps it
        dispatch = project.dispatch()
        assert (await orchestrator.run(dispatch)).state is JobStatus.SUCCESS
        assert "ready" in orchestrator.text(dispatch.job_id, -1)


async def test_a_uv_lock_is_synced_as_it_stands(orchestrator: Orchestrator, project: Project) -> None:
    project.write({f".kici/tiny/{name}": text for name, text in TINY.items()})
    project.write(TINY_LOCK).workflow(USES_TINY)
    async with agent(orchestrator, project.root.parent / "data", UV_OFFLINE="1"):
        ended = await orchestrator.run(project.dispatch())
    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    assert ended.outputs is not None
    assert ended.outputs["use"][0] == 42
    assert ended.outputs["use"][1] != sys.executable


async def test_dependencies_that_cannot_be_installed_fail_the_job_with_the_installers_words(
    orchestrator: Orchestrator, project: Project
) -> None:
    project.write({".kici/requirements.txt": "./nothing-here\n"}).workflow("""
        @step
        async def greet(ctx: Context) -> None:
            print("hello")

        jobs = [job("build", runs_on="x", steps=[greet])]
    """)
    async with agent(orchestrator, project.root.parent / "data", UV_OFFLINE="1"):
        dispatch = project.dispatch()
        ended = await orchestrator.run(dispatch)
    assert ended.state is JobStatus.FAILED
    assert "installing the workflow's dependencies failed" in (ended.error_message or "")
    assert "nothing-here" in orchestrator.text(dispatch.job_id, -1)
    orchestrator.check_order(dispatch.job_id)
