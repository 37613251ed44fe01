"""Examples and templates do what they say: compiled, planned and executed by the real runner (AU-7, AU-145)."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from kici.cli.main import app
from kici.engine.graph import PlannedJob, plan
from kici.protocol.runner_v1 import Execute, Ready, StepEnded, StepStarted
from kici.runner.environment import step_environment
from kici.runner.host import JobResult, Zygote
from kici.spec.events import Event
from kici.spec.lock import LockWorkflow
from kici.spec.states import JobStatus
from tests.support.repository import Repository

pytestmark = pytest.mark.process

EXAMPLES = Path(__file__).parents[3] / "examples"


class Output:
    """Everything that the steps of one job print."""

    def __init__(self) -> None:
        self.text = ""

    def ready(self, m: Ready) -> None: ...

    def step_started(self, m: StepStarted) -> None: ...

    def step_ended(self, m: StepEnded) -> None: ...

    def output(self, step_index: int, data: bytes) -> None:
        self.text += data.decode()


class WorkflowRun:
    """All jobs of a workflow, one after the other, as the graph allows."""

    def __init__(self, root: Path, tmp: Path, workflow: LockWorkflow) -> None:
        self.results: dict[str, JobResult] = {}
        self.output: dict[str, str] = {}
        self._root = root
        self._tmp = tmp
        self._workflow = workflow

    async def run(self) -> "WorkflowRun":
        jobs = plan(self._workflow)
        waiting = list(range(len(jobs)))
        async with asyncio.timeout(100), Zygote.start() as zygote:
            while waiting:
                index = next(
                    index
                    for index in waiting
                    if not {need.upstream for need in jobs[index].needs} & set(waiting)
                )
                waiting.remove(index)
                seen = Output()
                name = jobs[index].variant.job_name
                self.results[name] = await zygote.run(self._execute(jobs, index), seen)
                self.output[name] = seen.text
        return self

    def _execute(self, jobs: list[PlannedJob], index: int) -> Execute:
        variant = jobs[index].variant
        upstreams = [jobs[need.upstream].variant.job_name for need in jobs[index].needs]
        tmp = self._tmp / str(index)
        tmp.mkdir(parents=True)
        outputs: dict[str, dict[str, Any]] = {name: self.results[name].outputs for name in upstreams}
        return Execute(
            run_id="run-1",
            job_id=str(index),
            attempt=1,
            workflow_name=self._workflow.name,
            workflow_file=self._workflow.source.file,
            export=str(self._workflow.source.export),
            job_name=variant.job_name,
            base_job_name=variant.base_job_name,
            workspace=str(self._root),
            tmp=str(tmp),
            matrix=variant.values,
            event=Event(type="push", target_branch="main"),
            upstream_outputs=outputs,
            upstream_statuses={name: self.results[name].status for name in upstreams},
            run_info={"sha": "0" * 40, "ref": "main"},
            env={**step_environment(os.environ), **jobs[index].job.env},
            default_step_timeout_ms=60_000,
            max_grace_period_ms=10_000,
        )

    def statuses(self) -> dict[str, JobStatus]:
        return {name: result.status for name, result in self.results.items()}


def commit_all(root: Path) -> None:
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    identity = ("-c", "user.name=Ada", "-c", "user.email=ada@example.com")
    for arguments in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "First commit"]):
        command = ["git", "-C", str(root), *identity, *arguments]
        subprocess.run(command, check=True, capture_output=True, env=environment)


async def run_example(name: str, tmp_path: Path) -> WorkflowRun:
    root = tmp_path / "repository"
    shutil.copytree(EXAMPLES / name, root, ignore=shutil.ignore_patterns("__pycache__", "dist"))
    commit_all(root)
    (workflow,) = Repository(root).lock().workflows
    return await WorkflowRun(root, tmp_path / "tmp", workflow).run()


async def test_hello_world(tmp_path: Path) -> None:
    done = await run_example("hello_world", tmp_path)

    assert done.statuses() == {"greet": "success"}
    assert "This repository has 3 files" in done.output["greet"]


async def test_matrix(tmp_path: Path) -> None:
    done = await run_example("matrix", tmp_path)

    variants = ["default, 0", "default, 1", "optimized, 0", "optimized, 1", "warnings, 0", "dev, 0"]
    assert done.statuses() == {
        **{f"test ({variant})": "success" for variant in variants},
        "count": "success",
    }
    assert done.results["count"].outputs == {"count": 18}
    assert "dev, 0         3 tests in" in done.output["count"]


async def test_pipeline(tmp_path: Path) -> None:
    done = await run_example("pipeline", tmp_path)

    assert done.statuses() == {"package": "success", "reproduce": "success", "report": "success"}
    built = done.results["package"].outputs["build"]
    assert (built["version"], len(built["sha256"])) == ("1.2.0", 64)
    assert "ended as success" in done.output["package"]
    assert "version 1.2.0 is ready" in done.output["report"]


async def test_templates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "repository"
    repository = Repository(root).write({"/test_it.py": "import unittest\n", "/ok.sh": "echo fine\n"})
    commit_all(root)
    monkeypatch.chdir(root)
    for command in ("init", "compile"):
        assert CliRunner().invoke(app, [command]).exit_code == 0

    hello, checks = repository.lock().workflows
    greeted = await WorkflowRun(root, tmp_path / "hello", hello).run()
    checked = await WorkflowRun(root, tmp_path / "checks", checks).run()

    assert greeted.statuses() == {"inspect": "success", "greet": "success"}
    assert "Hello, Ada! Your repository has 2 files." in greeted.output["greet"]
    assert greeted.results["inspect"].outputs["look"]["subject"] == "First commit"
    assert checked.statuses() == {"lint": "success", "test": "success"}
    assert checked.results["test"].outputs == {"run-tests": 1}

    (root / "ok.sh").write_text("if\n")
    broken = await WorkflowRun(root, tmp_path / "broken", checks).run()
    assert broken.statuses()["lint"] == "failed"
    assert "syntax error" in broken.output["lint"]
