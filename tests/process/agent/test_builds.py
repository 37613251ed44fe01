"""Dependencies that one agent builds and others unpack (AG-67, AG-69, AG-73…75)."""

import hashlib
import shutil
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.agent.packs import pack
from kici.protocol.agent_v1 import JobCancel, JobDispatch, JobStatusUpdate
from kici.spec.lock import LockStep
from kici.spec.states import JobStatus, StepStatus
from tests.process.agent.scripted import Orchestrator, Project, agent
from tests.process.agent.test_job import TINY, USES_TINY

pytestmark = pytest.mark.process


def build_of(project: Project, **changes: Any) -> JobDispatch:
    job = project.lock.workflows[0].jobs[0]
    row = msgspec.structs.replace(
        job, name="__build__ci", steps=[LockStep(name="build", source_location=job.source)], timeout=600_000
    )
    changes = {"purpose": "build", "job_name": row.name, "base_job_name": row.name, **changes}
    return msgspec.structs.replace(project.dispatch(**changes), job=changes.pop("job", row))


def needs_tiny(project: Project, requirements: str = "./tiny\n") -> None:
    project.write({f".kici/tiny/{name}": text for name, text in TINY.items()})
    project.write({".kici/requirements.txt": requirements}).workflow(USES_TINY)


def environment_of(ended: JobStatusUpdate) -> str:
    assert ended.outputs is not None, ended.error_message
    return ended.outputs["build"]["environment"]


async def test_a_build_installs_and_runs_no_author_code(
    orchestrator: Orchestrator, project: Project
) -> None:
    """AG-67, AG-69: one synthetic step, whose log is the installer's; its outputs say what it is good for."""
    needs_tiny(project)
    data = project.root.parent / "data"
    async with agent(orchestrator, data, UV_OFFLINE="1"):
        dispatch = build_of(project)
        ended = await orchestrator.run(dispatch)
        again = await orchestrator.run(build_of(project))
    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    (environment,) = [path.name for path in (data / "venvs").iterdir() if path.is_dir()]
    assert ended.outputs == {"build": {"environment": environment, "commit": project.sha}}
    assert again.outputs == ended.outputs
    said = orchestrator.text(dispatch.job_id)
    assert "Packed dependencies: none that fit this agent" in said
    assert f"Installing dependencies of requirements.txt ({environment})" in said
    assert "+ tiny==1.0" in said
    assert "Packed dependencies: kept already" in said
    rows = {step.step_index: step for step in orchestrator.steps(dispatch.job_id)}
    assert (rows[0].step_name, rows[0].step_type, rows[0].state) == ("build", "build", StepStatus.SUCCESS)
    assert rows[-1].state is StepStatus.SUCCESS
    assert "agent.execution.start" not in orchestrator.events(dispatch.job_id)
    orchestrator.check_order(dispatch.job_id)


async def test_a_build_that_fails_says_what_the_installer_said(
    orchestrator: Orchestrator, project: Project
) -> None:
    """AG-69, OR-210."""
    needs_tiny(project, "./nothing-here\n")
    async with agent(orchestrator, project.root.parent / "data", UV_OFFLINE="1"):
        dispatch = build_of(project)
        ended = await orchestrator.run(dispatch)
        stale = await orchestrator.run(build_of(project, content_hash="0" * 64))
    assert (ended.state, ended.init_failure_category) == (JobStatus.FAILED, "lock_resolution")
    assert "installing the workflow's dependencies failed" in (ended.error_message or "")
    assert "nothing-here" in orchestrator.text(dispatch.job_id)
    assert orchestrator.steps(dispatch.job_id)[-1].state is StepStatus.FAILED
    assert (stale.state, stale.init_failure_category) == (JobStatus.FAILED, "lock_resolution")
    assert (stale.error_message or "").startswith("Lock file is out of date")
    orchestrator.check_order(dispatch.job_id)


async def test_a_build_that_takes_too_long_is_ended(orchestrator: Orchestrator, project: Project) -> None:
    """AG-69, OR-139: with the installer, whatever that was doing."""
    slow = dict(TINY)
    slow["backend.py"] = "import time\ntime.sleep(600)\n"
    project.write({f".kici/tiny/{name}": text for name, text in slow.items()})
    project.write({".kici/requirements.txt": "./tiny\n"}).workflow(USES_TINY)
    dispatch = build_of(project)
    dispatch = msgspec.structs.replace(dispatch, job=msgspec.structs.replace(dispatch.job, timeout=2_000))
    async with agent(orchestrator, project.root.parent / "data", UV_OFFLINE="1"):
        ended = await orchestrator.run(dispatch)
    assert (ended.state, ended.init_failure_category) == (JobStatus.FAILED, "build_coordination")
    assert ended.error_message == "building the dependencies took longer than 2 s"


async def test_another_agent_unpacks_and_does_not_install(
    orchestrator: Orchestrator, project: Project
) -> None:
    """AG-73…75: and installs when the archive has changed on its way."""
    needs_tiny(project)
    home = project.root.parent
    async with agent(orchestrator, home / "data", UV_OFFLINE="1"):
        key = environment_of(await orchestrator.run(build_of(project)))
    archive = home / "archive"
    pack(str(home / "data" / "venvs" / key), str(archive), threading.Event())
    shutil.rmtree(home / "data")
    content = archive.read_bytes()
    orchestrator.blobs["/packed"] = content
    orchestrator.answers["dependencies.restore"] = {
        "hit": True,
        "path": "/packed",
        "sha256": hashlib.sha256(content).hexdigest(),
        "sizeBytes": len(content),
    }
    async with agent(orchestrator, home / "other", UV_OFFLINE="1", UV_NO_INDEX="1"):
        dispatch = project.dispatch()
        ended = await orchestrator.run(dispatch)
    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    assert ended.outputs is not None
    assert ended.outputs["use"][0] == 42
    assert str(ended.outputs["use"][1]).startswith(str(home / "other" / "venvs" / key))
    said = orchestrator.text(dispatch.job_id, -1)
    assert "Packed dependencies: fetched" in said
    assert "Installing" not in said
    leftovers = {path.suffix for path in (home / "other" / "venvs").iterdir()} - {"", ".lock"}
    assert leftovers == set()

    orchestrator.blobs["/packed"] = content[:-100] + bytes(100)
    async with agent(orchestrator, home / "third", UV_OFFLINE="1"):
        dispatch = project.dispatch()
        ended = await orchestrator.run(dispatch)
    assert (ended.state, ended.error_message) == (JobStatus.SUCCESS, None)
    said = orchestrator.text(dispatch.job_id, -1)
    assert "Packed dependencies: not used: the archive has another checksum" in said
    assert "Installing dependencies of requirements.txt" in said


async def test_a_cancelled_build_leaves_nothing_half(orchestrator: Orchestrator, project: Project) -> None:
    """AG-67: cancelled like any job, installer and all."""
    slow = dict(TINY)
    slow["backend.py"] = "import time\ntime.sleep(600)\n"
    project.write({f".kici/tiny/{name}": text for name, text in slow.items()})
    project.write({".kici/requirements.txt": "./tiny\n"}).workflow(USES_TINY)
    data: Path = project.root.parent / "data"
    async with agent(orchestrator, data, UV_OFFLINE="1"):
        dispatch = build_of(project)
        await orchestrator.send(dispatch)
        await orchestrator.until(lambda: "Installing" in orchestrator.text(dispatch.job_id))
        await orchestrator.send(
            JobCancel(run_id=dispatch.run_id, job_id=dispatch.job_id, attempt=1, reason="not wanted")
        )
        ended = await orchestrator.ended(dispatch.job_id)
    assert (ended.state, ended.error_message) == (JobStatus.CANCELLED, "not wanted")
    assert [path for path in (data / "venvs").iterdir() if path.is_dir()] == []
