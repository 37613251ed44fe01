"""The program itself: webhooks over HTTP become runs, also when it is killed in between."""

import asyncio
import json
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from kici.spec.lock import LockWorkflow
from kici.spec.triggers import GenericWebhookTrigger, PushTrigger, Trigger
from tests.db.ingress.builders import ORG, lock_job, lock_workflow
from tests.db.ingress.running import Repo, signature
from tests.process.ingress.orchestrator import Orchestrator, orchestrator
from tests.support.postgres import Database

pytestmark = [pytest.mark.postgres, pytest.mark.process]


def workflow(name: str, trigger: Trigger) -> LockWorkflow:
    made = lock_workflow(name, lock_job("build"), lock_job("ship", "build"))
    return msgspec.structs.replace(made, triggers=[trigger])


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    made = Repo(tmp_path / "shop")
    made.commit_lock(
        workflow("ci", PushTrigger()),
        workflow("deploy", GenericWebhookTrigger(source="hook", events=["release"])),
    )
    return made


async def post(
    running: Orchestrator, body: bytes, *, secret: str = "s3cret", delivery: str = "d1", **headers: str
) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.post(
            f"{running.url}/webhook/{ORG}/generic/hook",
            content=body,
            headers={
                "X-Signature-256": signature(secret, body),
                "X-Event-Type": "release",
                "X-Delivery-Id": delivery,
                **headers,
            },
        )


async def add_sources(running: Orchestrator, repo: Repo) -> None:
    await running.call("POST", "/sources", json={"kind": "local", "name": "shop", "path": str(repo.path)})
    answer = await running.call(
        "POST",
        "/sources",
        json={"kind": "generic", "name": "hook", "verificationMethod": "hmac_sha256", "secret": "s3cret"},
    )
    assert answer["directUrl"] == f"{running.url}/webhook/{ORG}/generic/hook"


async def test_a_signed_webhook_becomes_a_run(
    orchestrator_db: Database, tmp_path: Path, repo: Repo
) -> None:
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await add_sources(running, repo)
        triggered = await running.call("POST", "/sources/shop/trigger", json={"deliveryId": "push-1"})
        assert triggered["accepted"]
        (run,) = await running.runs(1)
        assert (run["workflowName"], run["status"], run["deliveryId"]) == ("ci", "queued", "push-1")
        assert run["commitMessage"] == "Workflows"

        answer = await post(running, b'{"tag": "v1"}')
        assert answer.status_code == 202
        assert answer.json()["accepted"] is True
        assert answer.json()["deliveryId"] == "d1"
        runs = await running.runs(2)
        deploy = next(run for run in runs if run["workflowName"] == "deploy")
        assert deploy["requestId"] == answer.json()["requestId"]
        assert deploy["triggerReason"] == "Webhook release from hook"
        detail = await running.call("GET", f"/runs/{deploy['runId']}")
        assert [(job["jobName"], job["status"]) for job in detail["jobs"]] == [
            ("build", "queued"),
            ("ship", "pending"),
        ]
        payload = await running.call("GET", f"/runs/{deploy['runId']}/payload")
        assert payload["payload"] == {"tag": "v1"}

        again = await post(running, b'{"tag": "v1"}')
        assert (again.status_code, again.json()["duplicate"]) == (200, True)
        forged = await post(running, b'{"tag": "v1"}', secret="guess", delivery="d2")
        assert (forged.status_code, forged.json()["code"]) == (401, "not_verified")
        assert forged.json()["traceId"]
        delivery = await running.call("GET", "/event-log/d1")
        assert (delivery["status"], delivery["matchedCount"]) == ("processed", 1)
        assert [job["jobName"] for job in await running.call("GET", "/queue")] == ["build", "build"]
        assert await running.stop() == 0
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert all(line["service"] == "orchestrator" and line["instance"] for line in lines)
    processed = next(line for line in lines if line["message"] == "webhook.processed")
    assert processed["requestId"]
    assert processed["routingKey"].startswith("generic:")


async def test_events_that_we_make_ourselves_look_like_a_forges(
    orchestrator_db: Database, tmp_path: Path, repo: Repo
) -> None:
    before = repo.git("rev-parse", "HEAD")
    repo.git("checkout", "-q", "-b", "feature")
    head = repo.commit("Feature", {"src/a.py": "1"})
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await add_sources(running, repo)
        pushed = await running.call("POST", "/sources/shop/trigger", json={})
        assert (pushed["ref"], pushed["sha"]) == ("refs/heads/feature", head)
        opened = await running.call("POST", "/sources/shop/trigger", json={"event": "pull_request"})
        assert opened["sha"] == head
        older = await running.call("POST", "/sources/shop/trigger", json={"ref": "main"})
        assert (older["ref"], older["sha"]) == ("refs/heads/main", before)
        runs = await running.runs(2)
        payload = await running.call("GET", f"/runs/{runs[-1]['runId']}/payload")
        assert payload["payload"]["before"] == before
        assert payload["payload"]["head_commit"]["message"] == "Feature"
        assert payload["payload"]["commits"][0]["modified"] == ["src/a.py"]
        assert payload["payload"]["repository"]["default_branch"] == "main"
        for wrong, code in (
            ({"ref": "nowhere"}, "commit_unknown"),
            ({"ref": "a..b"}, "invalid_input"),
            ({"event": "ping"}, "invalid_input"),
        ):
            answer = await running.client.post("/sources/shop/trigger", json=wrong)
            assert answer.json()["code"] == code


async def test_answers_of_the_webhook_route(orchestrator_db: Database, tmp_path: Path, repo: Repo) -> None:
    """OR-31, OR-32."""
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await add_sources(running, repo)
        await running.call("PATCH", "/sources/hook", json={"maxPayloadBytes": 64, "rateLimitRpm": 3})
        async with httpx.AsyncClient(trust_env=False, base_url=running.url) as client:
            missing = await client.post(f"/webhook/{ORG}/generic/nobody", content=b"{}")
            assert (missing.status_code, missing.json()["code"]) == (404, "unknown_source")
            assert (await client.get(f"/webhook/{ORG}/generic/hook")).status_code == 405
            assert (await client.post(f"/webhook/{ORG}/other/hook")).status_code == 404
            assert (await client.post("/webhook/")).status_code == 404
        large = await post(running, b"x" * 65)
        assert (large.status_code, large.json()["details"]) == (413, {"maxBytes": 64})
        codes = [(await post(running, b"{}", delivery=f"r{n}")).status_code for n in range(5)]
        assert codes == [202, 202, 202, 429, 429]
        limited = await post(running, b"{}")
        assert int(limited.headers["Retry-After"]) >= 1


async def test_killed_at_any_moment_it_loses_nothing_and_doubles_nothing(
    orchestrator_db: Database, tmp_path: Path, repo: Repo
) -> None:
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await add_sources(running, repo)
        await running.call("POST", "/sources/shop/trigger", json={"deliveryId": "push-1"})
        await running.runs(1)
        await running.call("PATCH", "/sources/hook", json={"rateLimitRpm": 0})
        accepted: list[str] = []

        async def sender(worker: int) -> None:
            for number in range(40):
                delivery = f"k{worker}-{number}"
                while delivery not in accepted:
                    try:
                        answer = await post(running, b'{"n": 1}', delivery=delivery)
                    except httpx.TransportError:
                        await asyncio.sleep(0.02)
                        continue
                    if answer.status_code in {200, 202}:
                        accepted.append(delivery)

        async with asyncio.TaskGroup() as tasks:
            for worker in range(4):
                tasks.create_task(sender(worker))
            for threshold in (20, 60, 100):
                while len(accepted) < threshold:
                    await asyncio.sleep(0.005)
                await running.stop(signal.SIGKILL)
                await running.start()
        found = await running.runs(100)  # a full page
        assert found

        async def all_done() -> None:
            async with asyncio.timeout(30):
                while (await running.call("GET", "/deliveries/pending"))["pending"]:
                    await asyncio.sleep(0.02)

        await all_done()
        runs: list[dict[str, Any]] = []
        for page in (1, 2, 3):
            answer = await running.call("GET", "/runs", params={"pageSize": 100, "page": page})
            runs += answer["runs"]
        started = [run["deliveryId"] for run in runs if run["workflowName"] == "deploy"]
        assert sorted(started) == sorted(accepted)
        assert len(accepted) == 160


async def test_health_metrics_and_tokens(orchestrator_db: Database, tmp_path: Path, repo: Repo) -> None:
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        await add_sources(running, repo)
        await post(running, b"{}")
        async with httpx.AsyncClient(trust_env=False, base_url=running.url) as client:
            health = (await client.get("/health")).json()
            assert health["status"] == "ok"
            assert {"sdkBundleHash", "sharedBundleHash", "engineBundleHash"} <= set(health)
            cluster = (await client.get("/cluster/health")).json()
            assert (cluster["clusterName"], cluster["role"], cluster["peers"]) == ("local", "leader", [])
            assert cluster["instanceId"] == health["instanceId"]
            exposition = (await client.get("/metrics")).text
            assert 'kici_orch_webhooks_received_total{event="release",source="generic"} 1.0' in exposition
            for name in (
                "kici_orch_webhooks_processed_total",
                "kici_orch_dedup_hits_total",
                "kici_orch_trigger_match_duration_seconds",
                "kici_orch_inbox_depth",
                "kici_orch_inbox_lag_seconds",
            ):
                assert name in exposition
            path = "/api/v1/admin/sources"
            assert (await client.get(path)).status_code == 401
            assert (await client.get(path, headers={"Authorization": "Bearer kat_x"})).status_code == 401
        created = await running.call("POST", "/agent-tokens", json={"labels": ["Linux"]})
        assert created["token"].startswith("kat_")
        tokens = await running.call("GET", "/agent-tokens")
        assert [token["labels"] for token in tokens] == [None, ["linux"]]
        await running.call("DELETE", f"/agent-tokens/{created['id']}")
        assert (await running.call("GET", "/agent-tokens"))[1]["revokedAt"] is not None
        refused = await running.client.post("/agent-tokens", json={"labels": ["kici:role:x"]})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")


async def run_program(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from kici.orchestrator.cli import main; main()", *arguments),
        env={"PATH": "/usr/bin:/bin", **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(30):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def test_bad_settings_stop_the_start_and_name_every_problem() -> None:
    """OR-1, OR-7."""
    code, output = await run_program(
        {
            "KICI_DATABASE_URL": "mysql://x",
            "KICI_SECRET_KEY": "0" * 64,
            "KICI_CLUSTER_NAME": "Not Good",
            "KICI_BASE_PATH": "x",
        },
        "--check-config",
    )
    assert code == 2
    for name in ("DATABASE_URL", "PLATFORM_URL", "PLATFORM_TOKEN", "CLUSTER_NAME", "BASE_PATH"):
        assert f"KICI_{name}" in output
    code, output = await run_program({"KICI_DATABASE_URL": "postgresql://x", "KICI_SECRET_KY": "0" * 64})
    assert code == 2
    assert "did you mean KICI_SECRET_KEY?" in output


async def test_an_admin_token_can_be_made_and_reads_only_as_an_auditor(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    async with orchestrator(orchestrator_db, tmp_path / "o") as running:
        code, output = await run_program(running.environment, "admin-token", "ann", "--role", "auditor")
        assert code == 0
        token = {"Authorization": f"Bearer {output.strip()}"}
        assert (await running.client.get("/sources", headers=token)).status_code == 200
        refused = await running.client.post("/agent-tokens", headers=token)
        assert (refused.status_code, refused.json()["code"]) == (403, "forbidden")
