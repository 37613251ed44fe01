"""Dependencies on a whole stack: built once, unpacked elsewhere, not built again (AG-69…75, OR-139, PD-123)."""

import textwrap
from collections.abc import Generator
from typing import Any

import pytest

from tests.process.agent.test_job import TINY, TINY_LOCK
from tests.support.stack import Repository, Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

WORKFLOW = """
import os
import sys
import time
from pathlib import Path

from kici import Context, job, push, step, workflow

MEETING = Path({meeting!r})


@step
async def use(ctx: Context) -> dict[str, str | int]:
    import tiny

    me = MEETING / os.environ["KICI_RUN_ID"]
    me.mkdir(parents=True, exist_ok=True)
    (me / os.environ["KICI_JOB"]).touch()
    until = time.monotonic() + 60
    while len(list(me.iterdir())) < 2 and time.monotonic() < until:  # so that both agents have one
        await ctx.sh("sleep 0.05")
    return {{"answer": tiny.answer, "python": sys.executable}}


a = job("a", runs_on="kici:os:linux", steps=[use])
b = job("b", runs_on="kici:os:linux", steps=[use])
ci = workflow("ci", on=push(), jobs=[a, b])
"""


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack.started(agents=2) as running:
        yield running


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Repository:
    meeting = str(stack.data_dir.parent / "meeting")
    repository = stack.repository("shop", {"ci.py": WORKFLOW.format(meeting=meeting)})
    repository.write({f".kici/tiny/{name}": textwrap.dedent(text) for name, text in TINY.items()})
    repository.write({name: textwrap.dedent(text) for name, text in TINY_LOCK.items()})
    return repository


def jobs_of(detail: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {job["jobName"]: job for job in detail["jobs"]}


def prepared(stack: Stack, detail: dict[str, Any], job: dict[str, Any]) -> str:
    return stack.log(detail["run"]["runId"], job["jobId"], -1).decode()


def test_one_agent_builds_the_other_unpacks_and_a_second_run_does_neither(
    stack: Stack, shop: Repository
) -> None:
    sha = shop.push("Needs tiny")
    first = stack.wait_for_run(sha=sha, within_seconds=120)
    assert first["run"]["status"] == "success", (first["run"]["failureReason"], stack.logs())
    jobs = jobs_of(first)
    assert [job["displayName"] for job in first["jobs"]] == ["Build: ci", "a", "b"]
    build = jobs["__build__ci"]
    assert (build["kind"], build["status"], build["outputs"]["build"]["commit"]) == (
        "build",
        "success",
        sha,
    )
    (row,) = [step for step in build["steps"] if step["stepIndex"] == 0]
    assert (row["stepName"], row["stepType"], row["status"]) == ("build", "build", "success")
    installer = stack.log(first["run"]["runId"], build["jobId"], 0).decode()
    assert "+ tiny==1.0" in installer
    environment = build["outputs"]["build"]["environment"]
    assert f"({environment})" in installer.splitlines()[-1]
    assert {jobs[name]["agentId"] for name in "ab"} == {"agent-1", "agent-2"}
    for name in "ab":
        assert jobs[name]["outputs"]["use"]["answer"] == 42
        said = prepared(stack, first, jobs[name])
        assert "Installing" not in said
        if jobs[name]["agentId"] == build["agentId"]:
            assert f"ready ({environment})" in said
        else:
            assert "Packed dependencies: fetched" in said

    again = stack.api("POST", f"/runs/{first['run']['runId']}/rerun", json={})
    second = stack.wait_for_end(again["newRunId"])
    assert second["run"]["status"] == "success"
    assert sorted(jobs_of(second)) == ["a", "b"]


def test_an_orchestrator_killed_around_a_build_loses_nothing(stack: Stack, shop: Repository) -> None:
    """OR-139: what follows from a build follows from the rows, whoever looks."""
    sha = shop.push("Again")
    run_id = stack.find_run(sha=sha)["runId"]

    def building() -> str | None:
        build = jobs_of(stack.detail(run_id)).get("__build__ci")
        return build["agentId"] if build and build["status"] in {"running", "success"} else None

    eventually(building, within_seconds=30, what="the build runs")
    stack.wait_back("orchestrator", stack.kill("orchestrator"))
    ended = stack.wait_for_end(run_id, within_seconds=120)
    assert ended["run"]["status"] == "success", (ended["run"]["failureReason"], stack.logs())
