"""Remote runs, re-runs and what a cluster can do, as the Platform passes them on (AU-123, PD-21, PD-62)."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from kici.protocol import platform_v1 as wire
from kici.protocol.remote_v1 import MAX_LOCK_BYTES
from kici.runtime.buildinfo import build_info
from kici.runtime.ids import uuid7
from tests.support import platform as kit
from tests.support.postgres import Database
from tests.support.scripted_run import ScriptedRun

UPLOAD = {"sha": "a" * 40, "fileCount": 3, "compressedSize": 1000}
UPLOADED = {
    "uploadId": "u",
    "signedUrl": "http://127.0.0.1:1/blobs/x",
    "publicKey": "AAAA",
    "expiresIn": 3600,
}
TRIGGER: dict[str, Any] = {
    "fixtureId": "push",
    "event": {"type": "push", "targetBranch": "main"},
    "uploadId": "u",
    "cliPublicKey": "AAAA",
    "inlineLockFile": "{}",
}


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served:
        yield served


def triggered(run_id: str) -> dict[str, Any]:
    return {
        "runId": run_id,
        "status": "accepted",
        "reason": None,
        "message": None,
        "jobIds": ["j"],
        "runs": [{"runId": run_id, "workflowName": "ci", "jobIds": ["j"]}],
    }


async def test_the_cluster_is_the_wanted_the_saved_or_the_only_one(served: kit.Served):
    """AU-123: 422 `no_cluster` and `ambiguous_cluster` name what there is."""
    url = f"{served.api}/test/uploads/init"

    def init(name: str) -> dict[str, kit.Answer]:
        return {"remote.upload": lambda _params: {**UPLOADED, "uploadId": name}}

    async with served.client() as http:
        nobody = await http.post(url, json=UPLOAD)
        assert (nobody.status_code, nobody.json()["code"]) == (422, "no_cluster")
        async with kit.orchestrator(served, cluster_name="east", methods=init("east")):
            assert (await http.post(url, json=UPLOAD)).json()["uploadId"] == "east"
            async with kit.orchestrator(served, cluster_name="west", methods=init("west")):
                both = await http.post(url, json=UPLOAD)
                assert (both.status_code, both.json()["code"]) == (422, "ambiguous_cluster")
                assert both.json()["details"] == {"clusters": ["east", "west"]}
                wanted = await http.post(url, json=UPLOAD, params={"orchestrator": "west"})
                assert wanted.json()["uploadId"] == "west"
                saved = await http.post(url, json=UPLOAD, params={"defaultCluster": "west"})
                assert saved.json()["uploadId"] == "west"
                gone = await http.post(url, json=UPLOAD, params={"orchestrator": "north"})
                assert (gone.status_code, gone.json()["code"]) == (422, "no_cluster")
            await kit.eventually(lambda: len(served.app.connections.of_org(kit.ORG)) == 1)
            stale = await http.post(url, json=UPLOAD, params={"defaultCluster": "west"})
            assert stale.json()["uploadId"] == "east"  # a saved default that is away gives way


async def test_a_trigger_is_passed_on_and_audited(served: kit.Served, platform_db: Database):
    """AU-123: a lock file of 5 MiB fits; the body reaches the orchestrator as it was sent."""
    run_id = uuid7()
    async with (
        kit.orchestrator(
            served, methods={"remote.trigger": lambda _params: triggered(run_id)}
        ) as orchestrator,
        served.client() as http,
    ):
        lock = '"' * MAX_LOCK_BYTES
        body = {**TRIGGER, "inlineLockFile": lock, "encryptedSecrets": "c2VjcmV0"}
        answer = await http.post(f"{served.api}/test/trigger", json=body)
        assert (answer.status_code, answer.json()["runId"]) == (202, run_id)
    (request,) = orchestrator.requests
    assert request.params["inlineLockFile"] == lock
    assert request.params["encryptedSecrets"] == "c2VjcmV0"
    assert request.actor.display_name == "Local operator"
    async with platform_db.engine.connect() as tx:
        row = (
            await tx.execute(
                text("SELECT target_id, details::text FROM audit_log WHERE action = 'remote_run.start'")
            )
        ).one()
        rows = await tx.scalars(text("SELECT a::text FROM audit_log a"))
        assert not any("c2VjcmV0" in row for row in rows)
    assert row[0] == run_id


async def test_a_rejection_is_a_422_with_its_reason(served: kit.Served):
    """AU-123."""
    rejected = {
        "runId": None,
        "status": "rejected",
        "reason": "unknown_workflow",
        "message": "no workflow 'x'; there are: ci",
        "jobIds": [],
        "runs": [],
    }
    async with (
        kit.orchestrator(served, methods={"remote.trigger": lambda _params: rejected}),
        served.client() as http,
    ):
        answer = await http.post(f"{served.api}/test/trigger", json=TRIGGER)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_workflow")
    assert answer.json()["error"] == "no workflow 'x'; there are: ci"
    assert answer.json()["details"] == {"status": "rejected", "reason": "unknown_workflow"}


async def test_a_body_without_bottom_is_the_senders_fault(served: kit.Served):
    """AU-136, PD-64: nothing of ours broke, and nothing is passed on."""
    deep = "[" * 5_000 + "]" * 5_000
    body = f'{{"fixtureId": "x", "event": {{"type": "push", "payload": {{"a": {deep}}}}}}}'
    async with kit.orchestrator(served), served.client() as http:
        answer = await http.post(
            f"{served.api}/test/trigger", content=body, headers={"content-type": "application/json"}
        )
    assert (answer.status_code, answer.json()["error"]) == (400, "The body is nested too deeply")


@pytest.mark.parametrize(
    ("path", "body", "method"),
    [
        ("/runs/{id}/rerun", {"mode": "all"}, "run.rerun"),
        ("/runs/cancel-by-branch", {"branch": "main"}, "run.cancel_branch"),
        ("/registrations/{id}/run", {"inputs": {}}, "registration.run"),
        ("/test/uploads/init", UPLOAD, "remote.upload"),
    ],
)
async def test_an_older_orchestrator_is_named(
    served: kit.Served, path: str, body: dict[str, Any], method: str
):
    """PD-21, AU-142: 501 with both versions and who must upgrade; also when it says so only when asked."""
    for manifest in (["run.detail"], []):
        async with (
            kit.orchestrator(served, version="0.0.9") as orchestrator,
            served.client() as http,
        ):
            (connection,) = served.app.connections.of_org(kit.ORG)
            connection.hello.methods.extend(manifest)
            answer = await http.post(served.api + path.format(id=uuid7()), json=body)
            assert (answer.status_code, answer.json()["code"]) == (501, "unsupported_request_type")
            assert answer.json()["details"] == {
                "requestType": method,
                "orchVersion": "0.0.9",
                "platformVersion": build_info().version,
            }
            assert "upgrade the orchestrator" in answer.json()["error"]
            assert bool(orchestrator.requests) is not bool(manifest)
        await kit.eventually(lambda: not served.app.connections.connected(kit.ORG))


async def test_runs_start_again_and_by_hand(served: kit.Served):
    new = uuid7()
    methods: dict[str, kit.Answer] = {
        "run.rerun": lambda _params: {"newRunId": new},
        "registration.run": lambda _params: {"newRunId": new},
        "run.cancel_branch": lambda _params: {"cancelledRuns": 2},
    }
    async with (
        kit.orchestrator(served, cluster_name="east", methods=methods) as east,
        kit.orchestrator(served, cluster_name="west", methods=methods) as west,
        served.client() as http,
    ):
        run_id = uuid7()
        await west.project(kit.item(1, run_id, run=kit.run_projection(run_id)))
        again = await http.post(f"{served.api}/runs/{run_id}/rerun", json={"mode": "failed"})
        assert (again.status_code, again.json()) == (202, {"newRunId": new})
        assert [r.params for r in west.requests] == [{"runId": run_id, "mode": "failed"}]  # its own cluster
        odd = await http.post(f"{served.api}/runs/{run_id}/rerun", json={"mode": "some"})
        assert odd.status_code == 400
        branch = await http.post(f"{served.api}/runs/cancel-by-branch", json={"branch": "main"})
        assert branch.json() == {"cancelledRuns": 4}  # on both
        assert (
            await http.post(f"{served.api}/runs/cancel-by-branch", json={"branch": " "})
        ).status_code == 400
        now = await http.post(f"{served.api}/registrations/r1/run", json={"inputs": {"level": 3}})
        assert (now.status_code, now.json()) == (202, {"newRunId": new})
        (asked,) = [r for r in (*east.requests, *west.requests) if r.method == "registration.run"]
        assert asked.params == {"registrationId": "r1", "inputs": {"level": 3}}


async def test_what_a_cluster_can_do(served: kit.Served):
    """PD-62, and AU-136 for clusters with versions and the default."""
    async with served.client() as http:
        assert (await http.get(f"{served.api}/capabilities")).status_code == 503
        async with kit.orchestrator(served, cluster_name="east", version="0.2.0"):
            found = (await http.get(f"{served.api}/capabilities", params={"cluster": "east"})).json()
            assert found == {
                "clusterName": "east",
                "orchVersion": "0.2.0",
                "platformVersion": build_info().version,
                "supportedDashboardRequests": [],
            }
            assert (
                await http.get(f"{served.api}/capabilities", params={"cluster": "west"})
            ).status_code == 503
            listed = (await http.get(f"{served.api}/orchestrators")).json()
            assert listed["clusters"] == [{"name": "east", "connected": True, "versions": ["0.2.0"]}]
            assert listed["defaultCluster"] == "east"

        async def gone() -> bool:
            away = (await http.get(f"{served.api}/orchestrators")).json()
            assert len(away["clusters"]) == 1
            return not away["clusters"][0]["connected"] and away["defaultCluster"] is None

        await kit.eventually(gone)


async def test_a_cursor_goes_through_all_steps_without_gap_or_repetition(served: kit.Served):
    """AU-123: half a line waits for its other half; done comes after the last chunk, and stays."""
    script = ScriptedRun()
    methods: dict[str, kit.Answer] = {"run.detail": script.detail, "logs.read": script.page}
    url = f"{served.api}/test/runs/{script.run_id}/logs"
    async with kit.orchestrator(served, methods=methods), served.client() as http:

        async def read(cursor: int) -> dict[str, Any]:
            return (await http.get(url, params={"cursor": cursor})).json()

        assert await read(0) == {"lines": ["a", "b", "c"], "nextCursor": 3, "done": False}
        assert await read(3) == {"lines": [], "nextCursor": 3, "done": False}
        assert await read(1) == {"lines": ["b", "c"], "nextCursor": 3, "done": False}
        script.logs[1] = ["c", "half a line", "end"]
        script.ended = True
        assert await read(3) == {"lines": ["half a line", "end"], "nextCursor": 5, "done": True}
        assert await read(5) == {"lines": [], "nextCursor": 5, "done": True}
        assert (await http.get(url, params={"cursor": -1})).status_code == 400
        view = (await http.get(f"{served.api}/test/runs/{script.run_id}")).json()
        assert (view["status"], view["done"], view["jobs"][0]["jobName"]) == ("success", True, "test")
        assert (await http.get(f"{served.api}/test/runs/no-such-run")).status_code == 404


async def test_a_remote_run_is_cancelled_gracefully(served: kit.Served):
    run_id = uuid7()
    ended = wire.RpcResponse(id="", error_code="run_ended", error="it has ended", status=409)
    answers: list[Any] = [{"agentsNotified": 1, "pendingCancelled": 0}, ended]
    async with (
        kit.orchestrator(served, methods={"run.cancel": lambda _params: answers.pop(0)}) as orchestrator,
        served.client() as http,
    ):
        url = f"{served.api}/test/runs/{run_id}/cancel"
        first = await http.post(url)
        assert (first.status_code, first.json()) == (202, {"cancelled": True})
        assert orchestrator.requests[0].params == {"runId": run_id, "force": False}
        assert (await http.post(url)).status_code == 409
