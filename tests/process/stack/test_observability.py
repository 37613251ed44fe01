"""Logs, health and metrics of every tier, as an operator reads them."""

import json

import httpx
import pytest

from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

HELLO = """
from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def hello(ctx: Context) -> None:
    print("hello")


ci = workflow("ci", on=push(branches="main"), jobs=[hello])
"""
BUILD_FIELDS = {
    "sdkVersion",
    "sdkBundleHash",
    "sharedVersion",
    "sharedBundleHash",
    "engineVersion",
    "engineBundleHash",
}


@pytest.fixture(scope="module")
def stack():
    with Stack.started(agents=1) as running:
        running.wait_for_run(sha=running.repository("hello", {"ci.py": HELLO}).push("Hello"))
        yield running


def urls(stack: Stack) -> dict[str, str]:
    state = stack.state()
    assert state is not None
    return {
        "platform": state["platformUrl"],
        "orchestrator": state["orchestratorUrl"],
        "agent": state["agentUrls"][0],
    }


def test_health_carries_the_six_build_fields_and_they_agree(stack: Stack):
    """OR-213, OP-34, AG-93, AG-94, AU-103."""
    views = {tier: httpx.get(f"{url}/health", trust_env=False).json() for tier, url in urls(stack).items()}
    identities = [{name: view[name] for name in BUILD_FIELDS} for view in views.values()]
    assert identities[0] == identities[1] == identities[2]
    assert all(len(identities[0][name]) == 64 for name in BUILD_FIELDS if name.endswith("Hash"))
    assert views["agent"]["connected"] is True


def test_ready_says_what_was_checked(stack: Stack):
    for url in urls(stack).values():
        answer = httpx.get(f"{url}/ready", trust_env=False)
        assert answer.status_code == 200
        assert answer.json()["status"] == "ready"


@pytest.mark.parametrize(
    ("tier", "names"),
    [
        (
            "platform",
            [
                "kici_webhooks_received_total",
                "kici_ws_connections_active",
                "kici_platform_execution_status_updates_total",
                "process_resident_memory_bytes",
                "kici_runtime_event_loop_lag_seconds",
            ],
        ),
        (
            "orchestrator",
            [
                "kici_orch_webhooks_received_total",
                "kici_orch_webhooks_processed_total",
                "kici_orch_trigger_match_duration_seconds",
                "kici_orch_dedup_hits_total",
                "kici_orch_inbox_depth",
                "kici_orch_dispatch_queue_depth",
                "kici_orch_executions_total",
                "kici_orch_execution_duration_seconds",
                "kici_orch_steps_total",
                "kici_orch_agents_active",
                "kici_orch_outbox_depth",
                "kici_orch_log_bytes_stored_total",
                "kici_orch_stale_runs_detected_total",
            ],
        ),
        (
            "agent",
            [
                "kici_agent_jobs_total",
                "kici_agent_jobs_active",
                "kici_agent_steps_total",
                "kici_agent_step_duration_seconds",
                "kici_agent_clone_duration_seconds",
                "kici_agent_log_bytes_total",
                "kici_agent_connection_status",
            ],
        ),
    ],
)
def test_metrics_have_their_documented_names(stack: Stack, tier: str, names: list[str]):
    """OP-30, OR-242, AG-99."""
    text = httpx.get(f"{urls(stack)[tier]}/metrics", trust_env=False).text
    missing = [name for name in names if f"# TYPE {name.removesuffix('_total')}" not in text]
    assert missing == []


def test_the_orchestrator_shows_what_agents_pushed(stack: Stack):
    """AG-99: with the agent's id as a label, at the latest at the end of a job."""
    eventually(
        lambda: (
            'agent_id="agent-1"' in httpx.get(f"{stack.orchestrator_url}/metrics", trust_env=False).text
        ),
        what="the agent's metrics",
    )


def test_one_request_id_joins_the_lines_of_a_delivery_in_all_tiers(stack: Stack):
    """OP-24, OP-25, OR-244, seed 002: requestId from the answer to the agent's lines, runId and jobId with it."""
    run = stack.runs(workflow="ci")[0]
    lines: dict[str, list[dict[str, object]]] = {}
    for tier in ("orchestrator", "agent-1"):
        text = (stack.data_dir / "logs" / f"{tier}.log").read_text()
        lines[tier] = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    for tier, found in lines.items():
        mine = [line for line in found if line.get("requestId") == run["requestId"]]
        assert mine, tier
        assert any(line.get("runId") == run["runId"] for line in mine), tier
        assert any(line.get("jobId") for line in mine), tier
        assert {"timestamp", "level", "message", "service"} <= set(mine[0])
        assert {line["traceId"] for line in mine} == {run["requestId"].replace("-", "")}, tier
        assert all(len(str(line["spanId"])) == 16 for line in mine), tier


def test_no_token_is_ever_logged(stack: Stack):
    """SE: secrets never reach a log."""
    bootstrap = json.loads((stack.data_dir / "bootstrap.json").read_text())
    secrets = [value for name, value in bootstrap.items() if name.endswith(("Token", "Key"))]
    assert len(secrets) == 7
    for path in (stack.data_dir / "logs").glob("*.log"):
        text = path.read_text(errors="replace")
        assert [secret for secret in secrets if secret in text] == [], path.name
