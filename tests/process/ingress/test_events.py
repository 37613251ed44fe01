"""Workflows that start each other, on a whole stack (OR-90…102, AU-80, AU-82, AU-86)."""

import json
import subprocess

import pytest

from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

SENDER = """
from kici import Context, EventPayload, job, kici_event, push, schedule, workflow, workflow_complete
from kici import dispatch, lifecycle, Inputs


class DeployComplete(EventPayload, event="deploy-complete"):
    env: str
    version: int


class Target(Inputs):
    env: str
    times: int = 1


@job(runs_on="kici:os:linux")
async def deploy(ctx: Context) -> None:
    sent = await ctx.emit(DeployComplete(env="prod", version=7))
    ctx.log.info("sent %s", sent.id)
    await ctx.emit("other", {"env": "dev"})


release = workflow("release", on=push(branches="main"), jobs=[deploy])


@job(runs_on="kici:os:linux")
async def look(ctx: Context) -> None:
    ctx.log.info("saw %s", ctx.event.payload["payload"]["version"])


smoke = workflow("smoke", on=kici_event(DeployComplete, match={"$.env": "prod"}), jobs=[look])
never = workflow("never", on=kici_event(DeployComplete, match={"$.env": "dev"}), jobs=[look])


@job(runs_on="kici:os:linux")
async def report(ctx: Context) -> None:
    ctx.log.info("%s ended %s", ctx.event.payload["workflowName"], ctx.event.payload["status"])


after = workflow("after", on=workflow_complete(name="smoke", status="success"), jobs=[report])


@job(runs_on="kici:os:linux")
async def bad(ctx: Context) -> None:
    await ctx.sh("exit 3")


broken = workflow("broken", on=push(branches="main"), jobs=[bad])


@job(runs_on="kici:os:linux")
async def alarm(ctx: Context) -> None:
    ctx.log.info("alarm: %s", ctx.event.payload["jobName"])


watchdog = workflow("watchdog", on=lifecycle(events="job_failed"), jobs=[alarm])


@job(runs_on="kici:os:linux")
async def act(ctx: Context) -> None:
    asked = ctx.inputs(Target)
    ctx.log.info("to %s, %d times", asked.env, asked.times)


by_hand = workflow("by-hand", on=dispatch(types="deploy", inputs=Target), jobs=[act])


@job(runs_on="kici:os:linux")
async def ping(ctx: Context) -> None:
    await ctx.emit("loop", {})


loop = workflow("loop", on=[kici_event(name="loop"), dispatch(types="loop")], jobs=[ping])
"""


def log_of(stack: Stack, run_id: str) -> str:
    (job,) = stack.detail(run_id)["jobs"]
    return stack.log(run_id, job["jobId"], 0).decode()


def test_workflows_start_each_other() -> None:
    """OR-90, OR-93, OR-100, AU-80, AU-82, AU-86: an emitted event, completions, lifecycle, and a loop that trips."""
    with Stack.started(agents=2, settings={"orchestrator:KICI_EVENT_ROUTER_MAX_CHAIN_DEPTH": "3"}) as stack:
        repo = stack.repository("shop", {"flow.py": SENDER})
        repo.push("Everything")
        release = stack.wait_for_run(workflow="release")
        assert release["run"]["status"] == "success", release

        smoke = stack.wait_for_run(workflow="smoke")
        assert smoke["run"]["status"] == "success"
        assert smoke["run"]["triggerEvent"] == "kici_event"
        assert smoke["run"]["triggerReason"] == "Event deploy-complete from shop"
        assert smoke["run"]["sha"] == release["run"]["sha"]
        assert "saw 7" in log_of(stack, smoke["run"]["runId"])

        after = stack.wait_for_run(workflow="after")
        assert "smoke ended success" in log_of(stack, after["run"]["runId"])
        watchdog = stack.wait_for_run(workflow="watchdog")
        assert "alarm: bad" in log_of(stack, watchdog["run"]["runId"])
        assert stack.runs(workflow="never") == []

        # Why nothing started is there to be read.
        def admin(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
            where = ("--data-dir", str(stack.data_dir))
            return stack.cli(*arguments, *where, program="kici.cli.admin.main", check=check)

        listed = json.loads(admin("event", "list", "--json").stdout)["events"]
        sent = next(event for event in listed if event["eventName"] == "deploy-complete")
        shown = admin("event", "show", sent["eventId"]).stdout
        assert "– never: kici_event.match $.env: wanted 'dev', got 'prod'" in shown
        assert f"✓ smoke: Event deploy-complete from shop  run {smoke['run']['runId']}" in shown

        # By hand, with inputs; then a loop that its depth ends.
        registrations = {
            r["workflowName"]: r["id"] for r in stack.api("GET", "/registrations")["registrations"]
        }
        run_id = admin("registration", "run", registrations["by-hand"], "--input", "env=qa").stdout.strip()
        assert stack.wait_for_end(run_id)["run"]["status"] == "success"
        assert "to qa, 1 times" in log_of(stack, run_id)
        refused = admin("registration", "run", registrations["by-hand"], check=False)
        assert refused.returncode == 2
        assert "input 'env' is missing" in refused.stderr
        asked = {"inputs": {"env": "stage", "times": "2"}}
        started = stack.api("POST", f"/registrations/{registrations['by-hand']}/run", json=asked)
        assert stack.wait_for_end(started["newRunId"])["run"]["inputs"] == {"env": "stage", "times": 2}
        assert "to stage, 2 times" in log_of(stack, started["newRunId"])
        stack.admin("POST", "/dispatch", json={"repository": "shop", "type": "loop"})

        def tripped() -> bool:
            runs = stack.runs(workflow="loop")
            return len(runs) == 4 and all(run["status"] in {"success", "failed"} for run in runs)

        eventually(tripped, within_seconds=60, what="the loop's end")
        last, *earlier = stack.runs(workflow="loop")
        assert {run["status"] for run in earlier} == {"success"}
        assert last["status"] == "failed"
        (job,) = stack.detail(last["runId"])["jobs"]
        assert "at most 3 may follow from each other" in job["errorMessage"]
