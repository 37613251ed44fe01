"""What authors may leave open until the run, decided by a whole stack: rules, values, matrices, jobs, hooks."""

from typing import Any

import pytest

from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

OPEN = """
import os

from kici import (
    Context, GenerateContext, HookContext, MultiJob, RuleContext, dynamic_jobs, group, job, push, rule, step, workflow
)

LINUX = "kici:os:linux"


@job(runs_on=LINUX)
async def discover(ctx: Context) -> dict[str, list[str]]:
    return {"targets": ["north", "south"], "sizes": ["s", "m"]}


def sizes(g: GenerateContext):
    return {"size": g.job_outputs(discover)["sizes"]}


def variables(event) -> dict[str, str]:
    return {"BRANCH": event.target_branch, "HOME_OF": os.path.basename(os.getcwd()) or "x"}


@job(runs_on=LINUX, needs=[discover], matrix=sizes, env=variables, max_parallel=1)
async def build(ctx: Context, *, size: str) -> str:
    await ctx.sh('echo "$BRANCH $size"', size=size)
    return size


@step
async def scan(ctx: Context, *, target: str) -> str:
    ctx.log.info("scanning %s", target)
    return target.upper()


@dynamic_jobs("scans", needs=[discover])
async def scans(g: GenerateContext) -> list[MultiJob]:
    print("making", len(g.job_outputs(discover)["targets"]))
    return [job(f"scan-{t}", runs_on=LINUX, steps=[scan.bind(target=t)]) for t in g.job_outputs(discover)["targets"]]


@job(runs_on=LINUX, needs=[group("scans"), build])
async def report(ctx: Context) -> None:
    for need in ctx.needs["scans"]:
        ctx.log.info("%s: %s", need.name, need.status)


@job(runs_on=LINUX, rules=[rule("only nightly", lambda ctx: ctx.event.target_branch == "nightly")])
async def nightly(ctx: Context) -> None:
    print("not reached")


@rule("asks the machine")
async def asks(ctx: RuleContext) -> bool:
    return os.path.exists("/nowhere")


@job(runs_on=LINUX, rules=[rule("on main", lambda ctx: ctx.event.target_branch == "main"), asks])
async def picky(ctx: Context) -> None:
    print("not reached")


async def applaud(ctx: HookContext) -> None:
    print("all went", ctx.outcome.status)


whole = workflow(
    "open", on=push(branches="main"), jobs=[discover, build, scans, report, nightly, picky], on_success=applaud
)
"""

TURNS = """
from kici import Concurrency, Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def deploy(ctx: Context) -> None:
    print("deploying", flush=True)
    await ctx.sh("sleep 600")


turns = workflow(
    "turns", on=push(branches="main"), jobs=[deploy], concurrency=Concurrency(group=lambda ctx: f"deploy-{ctx.ref}")
)
"""


@pytest.fixture(scope="module")
def stack():
    with Stack.started(agents=2) as running:
        yield running


def _lines(stack: Stack, detail: dict[str, Any], job: dict[str, Any], step_index: int = 0) -> list[str]:
    return stack.log(detail["run"]["runId"], job["jobId"], step_index).decode().splitlines()


def test_what_is_open_is_found_out_in_rows_of_its_own(stack: Stack):
    """AU-33, AU-34, AU-40…45, OR-134, OR-136, OR-137: from push to the hooks of the workflow."""
    stack.repository("open", {"open.py": OPEN}).push("Open")
    detail = stack.wait_for_run(workflow="open", within_seconds=120)
    jobs = {job["jobName"]: job for job in detail["jobs"]}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "discover": "success",
        "__init__open__build": "success",
        "build (s)": "success",
        "build (m)": "success",
        "__dynamic__open__0": "success",
        "scan-north": "success",
        "scan-south": "success",
        "report": "success",
        "nightly": "skipped",
        "picky": "skipped",
        "__hooks__open": "success",
    }, {name: job["errorMessage"] for name, job in jobs.items() if job["errorMessage"]}
    assert detail["run"]["status"] == "success"
    assert _lines(stack, detail, jobs["build (m)"]) == ["main m"]
    assert "making 2" in _lines(stack, detail, jobs["__dynamic__open__0"])
    assert jobs["scan-north"]["outputs"] == {"scan": "NORTH"}
    assert sorted(_lines(stack, detail, jobs["report"])) == ["scan-north: success", "scan-south: success"]
    assert [rule["passed"] for rule in jobs["picky"]["rules"]] == [True, False]
    (hook,) = [step for step in jobs["__hooks__open"]["steps"] if step["stepType"] == "hook:onSuccess"]
    assert _lines(stack, detail, jobs["__hooks__open"], hook["stepIndex"]) == ["all went success"]


def test_a_newer_push_supersedes_the_run_before_it(stack: Stack):
    """OR-180, OR-181, AU-59."""
    repository = stack.repository("turns", {"turns.py": TURNS})
    repository.push("First")
    first = stack.find_run(workflow="turns")
    eventually(
        lambda: stack.detail(first["runId"])["jobs"][0]["status"] == "running", what="the first run runs"
    )
    repository.push("Second")
    ended = stack.wait_for_end(first["runId"])
    assert ended["run"]["status"] == "cancelled"
    group = "deploy-refs/heads/main"
    assert ended["run"]["failureReason"] == f"Superseded by run in concurrency group '{group}'"
    (second,) = [run for run in stack.runs(workflow="turns") if run["runId"] != first["runId"]]
    eventually(
        lambda: stack.detail(second["runId"])["jobs"][0]["status"] == "running", what="the second run runs"
    )
    began = stack.detail(second["runId"])["jobs"][0]["startedAt"]
    assert began >= ended["run"]["completedAt"]
    stack.api("POST", f"/runs/{second['runId']}/cancel", json={"force": True})
    assert stack.wait_for_end(second["runId"])["run"]["status"] == "cancelled"
