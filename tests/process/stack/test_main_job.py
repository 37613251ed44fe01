"""The main job on a whole stack: deliveries of every kind become runs, and runs end as they should."""

import hashlib
import hmac
import json
import threading
from typing import Any

import httpx
import pytest

from tests.support import postgres
from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

PIPELINE = """
from kici import Context, generic_webhook, job, push, step, workflow


@step
async def build(ctx: Context, *, flavour: str) -> dict[str, str]:
    ctx.log.info("building %s", flavour)
    await ctx.sh('echo "BUILT=$flavour" >> "$KICI_ENV"', flavour=flavour)
    return {"artifact": f"{flavour}.tar"}


@step
async def verify(ctx: Context) -> None:
    await ctx.sh('test "$BUILT" = "$flavour"', flavour=ctx.matrix["flavour"])


builds = job("build", runs_on="kici:os:linux", matrix={"flavour": ["plain", "sweet"]}, steps=[build, verify])


@job(runs_on="kici:os:linux", needs=[builds])
async def ship(ctx: Context) -> None:
    for need in ctx.needs["build"]:
        ctx.log.info("%s ended %s", need.name, need.status)


ci = workflow("ci", on=push(branches="main"), jobs=[builds, ship])


@job(runs_on="kici:os:linux", env={"TARGET": "here"})
async def deploy(ctx: Context) -> None:
    await ctx.sh('echo "to $TARGET: $version"', version=ctx.event.payload["version"])


release = workflow(
    "release", on=generic_webhook(source="deploys", events=["deploy.success"], match={"$.env": "prod"}), jobs=[deploy]
)
"""

TROUBLE = """
from kici import Context, HookContext, job, push, workflow


async def say_goodbye(ctx: HookContext) -> None:
    print("goodbye", ctx.outcome.status)


@job(runs_on="kici:os:linux", cleanup=say_goodbye, grace_period=5)
async def endless(ctx: Context) -> None:
    print("started", flush=True)
    await ctx.sh("sleep 600")


waits = workflow("endless", on=push(branches="endless"), jobs=[endless])


@job(runs_on="kici:os:linux")
async def broken(ctx: Context) -> None:
    await ctx.sh("echo before; exit 3")


@job(runs_on="kici:os:linux", needs=[broken])
async def never(ctx: Context) -> None:
    print("not reached")


fails = workflow("broken", on=push(branches="broken"), jobs=[broken, never])


@job(runs_on="kici:os:linux", timeout="1s")
async def slow(ctx: Context) -> None:
    await ctx.sh("sleep 60")


late = workflow("slow", on=push(branches="slow"), jobs=[slow])


@job(runs_on=["kici:os:linux", "gpu"])
async def picky(ctx: Context) -> None:
    print("not reached")


unmatched = workflow("picky", on=push(branches="picky"), jobs=[picky])
"""


@pytest.fixture(scope="module")
def stack():
    with Stack.started(agents=2) as running:
        running.admin(
            "POST",
            "/sources",
            json={
                "kind": "generic",
                "name": "deploys",
                "verificationMethod": "hmac_sha256",
                "secret": "hush",
            },
        )
        running.repository("pipeline", {"ci.py": PIPELINE}).push("Pipeline")
        running.wait_for_run(workflow="ci")
        running.repository("trouble", {"trouble.py": TROUBLE}).push("Trouble")
        yield running


def lines(stack: Stack, detail: dict[str, Any], job_name: str, step_index: int = 0) -> list[str]:
    job = next(job for job in detail["jobs"] if job["jobName"] == job_name)
    return stack.log(detail["run"]["runId"], job["jobId"], step_index).decode().splitlines()


def post(
    base: str, stack: Stack, body: dict[str, Any], *, secret: str = "hush", delivery: str = ""
) -> httpx.Response:
    raw = json.dumps(body).encode()
    headers = {
        "X-Event-Type": "deploy.success",
        "X-Signature-256": "sha256=" + hmac.new(secret.encode(), raw, hashlib.sha256).hexdigest(),
    }
    if delivery:
        headers["X-Delivery-Id"] = delivery
    url = f"{base}/webhook/{stack.org_id}/generic/deploys"
    return httpx.post(url, content=raw, headers=headers, trust_env=False, timeout=30)


def test_outputs_environment_and_needs_cross_steps_and_jobs(stack: Stack):
    """AU-15, AU-26, AG-49, OR-134: matrix children, exported variables, upstream results."""
    detail = stack.wait_for_run(workflow="ci")
    assert detail["run"]["status"] == "success"
    assert [job["jobName"] for job in detail["jobs"]] == ["build (plain)", "build (sweet)", "ship"]
    assert detail["jobs"][0]["displayName"] == "build (flavour:plain)"
    assert detail["jobs"][0]["outputs"] == {"build": {"artifact": "plain.tar"}}
    assert lines(stack, detail, "build (sweet)") == ["building sweet"]
    assert sorted(lines(stack, detail, "ship")) == [
        "build (plain) ended success",
        "build (sweet) ended success",
    ]


@pytest.mark.parametrize("way", ["direct", "relay"])
def test_a_signed_webhook_starts_the_registered_workflow_once(stack: Stack, way: str):
    """OR-30, OR-34, OR-55, PD-24…29: both ways in, one run per delivery, the same answer for a repeat."""
    base = stack.orchestrator_url if way == "direct" else stack.platform_url
    body = {"env": "prod", "version": f"1.0-{way}"}
    first = post(base, stack, body, delivery=f"d-{way}")
    assert first.status_code in {200, 202}, first.text
    assert first.json()["requestId"]
    repeat = post(base, stack, body, delivery=f"d-{way}")
    assert repeat.status_code == 200
    assert repeat.json()["duplicate"] is True

    def runs() -> list[dict[str, Any]]:
        return [run for run in stack.runs(workflow="release") if run["deliveryId"] == f"d-{way}"]

    eventually(runs, what="the run")
    detail = stack.wait_for_end(runs()[0]["runId"])
    assert lines(stack, detail, "deploy") == [f"to here: 1.0-{way}"]
    assert detail["run"]["requestId"] == first.json()["requestId"]
    assert len(runs()) == 1


def test_a_wrong_signature_is_refused_and_a_mismatch_is_explained(stack: Stack):
    """OR-31, OR-50: 401 with nothing stored; a delivery that matches nothing says why."""
    for base in (stack.orchestrator_url, stack.platform_url):
        assert post(base, stack, {"env": "prod"}, secret="guess").status_code == 401
    answer = post(stack.orchestrator_url, stack, {"env": "dev", "version": "x"}, delivery="d-dev")
    assert answer.status_code == 202
    decisions = eventually(
        lambda: stack.admin("GET", "/deliveries/d-dev")["decisions"], what="the decision is there"
    )
    decision = next(d for d in decisions if d["workflowName"] == "release")
    assert decision["matched"] is False
    assert any("$.env" in check["check"] or "$.env" in check["expected"] for check in decision["checks"])


def test_webhooks_wait_at_the_platform_while_the_orchestrator_is_away(stack: Stack):
    """PD-28, PD-41: 202 queued, replayed once it is back; pages show the Platform's copy meanwhile."""
    known = stack.wait_for_run(workflow="ci")["run"]["runId"]
    old = stack.kill("orchestrator")

    def queued() -> bool:
        return (
            post(stack.platform_url, stack, {"env": "prod", "version": "later"}, delivery="d-later")
            .json()
            .get("queued", False)
        )

    assert queued()
    shown = stack.detail(known)
    assert shown["run"]["status"] == "success"
    stack.wait_back("orchestrator", old)
    run = eventually(
        lambda: [r for r in stack.runs(workflow="release") if r["deliveryId"] == "d-later"],
        what="the replayed run",
    )[0]
    assert stack.wait_for_end(run["runId"])["run"]["status"] == "success"


def test_a_failure_names_step_and_code_and_skips_what_needs_it(stack: Stack):
    """OR-131, AU-67, OP-46."""
    stack.repositories["trouble"].push("Broken", branch="broken")
    detail = stack.wait_for_run(workflow="broken")
    assert detail["run"]["status"] == "failed"
    assert "broken" in detail["run"]["failureReason"]
    by_name = {job["jobName"]: job for job in detail["jobs"]}
    assert by_name["broken"]["status"] == "failed"
    step = next(step for step in by_name["broken"]["steps"] if step["stepIndex"] == 0)
    assert step["exitCode"] == 3
    assert by_name["never"]["status"] == "skipped"
    assert "before" in lines(stack, detail, "broken")


def test_latest_is_what_was_pushed_a_moment_ago(stack: Stack):
    """AU-136: the run may not be there yet; `watch` waits for it, and its exit code is the run's."""
    for name, branch, exit_code in (("pipeline", "main", 0), ("trouble", "broken", 1)):
        repository = stack.repositories[name]
        sha = repository.push("Again", branch=branch)
        watched = stack.watch_latest(repository.clone)
        assert watched.returncode == exit_code, watched.stderr
        assert json.loads(watched.stdout)["run"]["sha"] == sha


def test_trigger_local_says_what_it_starts(stack: Stack):
    """OR-242: and which check kept a workflow from starting."""
    options = ("--data-dir", str(stack.data_dir), "--ref", "main")
    said = stack.cli("source", "trigger-local", "pipeline", *options, program="kici.cli.admin.main").stdout
    assert "accepted push of refs/heads/main" in said
    assert "✓ ci: Push to main matches main  run " in said
    assert "– release: " in said


def test_a_job_over_its_time_is_ended_and_says_so(stack: Stack):
    """AG-42, OR-123: the tree is dead, the run is shown as timed out."""
    stack.repositories["trouble"].push("Slow", branch="slow")
    detail = stack.wait_for_run(workflow="slow")
    assert detail["run"]["displayStatus"] == "timed_out"
    assert detail["jobs"][0]["timeoutReason"] == "job_timeout"


def test_cancel_is_graceful_and_runs_the_cleanup(stack: Stack):
    """OR-170…172, AG-54, AG-56: `cleanup` runs after a graceful cancel, and the log stays."""
    stack.repositories["trouble"].push("Endless", branch="endless")
    run_id = stack.find_run(workflow="endless")["runId"]

    def started() -> bool:
        detail = stack.detail(run_id)
        steps = detail["jobs"][0]["steps"] if detail["jobs"] else []
        return any(step["stepIndex"] == 0 and step["status"] == "running" for step in steps)

    eventually(started, what="the step runs")
    answer = stack.api("POST", f"/runs/{run_id}/cancel", json={"force": False})
    assert answer["agentsNotified"] == 1
    detail = stack.wait_for_end(run_id)
    assert detail["run"]["status"] == "cancelled"
    hooks = [step for step in detail["jobs"][0]["steps"] if step["stepType"] == "hook:cleanup"]
    assert [hook["status"] for hook in hooks] == ["success"]
    assert lines(stack, detail, "endless", hooks[0]["stepIndex"]) == ["goodbye cancelled"]
    assert stack.cli("runs", "cancel", run_id, check=False).returncode == 1


def test_force_cancel_and_a_waiting_job_that_says_why(stack: Stack):
    """AG-57, OR-173, OR-245."""
    stack.repositories["trouble"].push("Picky", branch="picky")
    run_id = stack.find_run(workflow="picky")["runId"]
    job = stack.detail(run_id)["jobs"][0]
    assert job["status"] == "queued"
    assert "gpu" in job["waitingReason"]
    stack.api("POST", f"/runs/{run_id}/cancel", json={"force": True})
    assert stack.wait_for_end(run_id)["run"]["status"] == "cancelled"


def test_many_deliveries_at_once_become_exactly_as_many_runs(stack: Stack):
    """OR-35: concurrent deliveries, each with its run, in both directions of entry."""
    bases = [stack.orchestrator_url, stack.platform_url] * 10
    answers: list[int] = []

    def send(number: int, base: str) -> None:
        answers.append(
            post(
                base, stack, {"env": "prod", "version": str(number)}, delivery=f"many-{number}"
            ).status_code
        )

    threads = [threading.Thread(target=send, args=pair) for pair in enumerate(bases)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(200 <= answer < 300 for answer in answers)

    def ended() -> bool:
        found = [
            r
            for r in stack.runs(workflow="release", pageSize=100)
            if str(r["deliveryId"]).startswith("many-")
        ]
        assert len(found) <= 20
        return len(found) == 20 and all(run["status"] == "success" for run in found)

    eventually(ended, within_seconds=60, what="twenty green runs")


def test_a_server_that_you_bring():
    """`--external-database-url`: the same product on another PostgreSQL."""
    with (
        postgres.serve() as server,
        Stack.started(agents=1, external_database_url=server.url("postgres")) as stack,
    ):
        assert "postgres" not in [p["name"] for p in (stack.state() or {})["processes"]]
        repository = stack.repository("pipeline", {"ci.py": PIPELINE})
        assert stack.wait_for_run(sha=repository.push())["run"]["status"] == "success"
