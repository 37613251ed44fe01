"""The orchestrator's socket and what REST asks through it (PD-12…18, PD-38…41)."""

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
import websockets
from sqlalchemy import text

from kici.protocol import platform_v1 as wire
from kici.protocol.dashboard_v1 import LogPage, LogSearchResult, PlaceView, RunDetailView
from kici.runtime.ids import uuid7
from kici.spec.states import StepStatus
from tests.support import platform as kit
from tests.support.postgres import Database


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path, dashboard_proxy_timeout_ms=500) as served:
        yield served


async def dial(served: kit.Served):
    return await websockets.connect(
        f"ws://127.0.0.1:{served.port}/ws", compression=None, ping_interval=None
    )


async def closing_code(socket: websockets.ClientConnection) -> int:
    with pytest.raises(websockets.ConnectionClosed) as closed:
        async with asyncio.timeout(15):
            while True:
                await socket.recv()
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code


# ── greeting ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("hello", "words"),
    [
        ({"token": "kici_ok_unknown"}, "unknown or revoked"),
        ({"token": kit.TOKEN}, "orchestrator key"),
        ({"protocol_version": 0}, "too old"),
    ],
)
async def test_wrong_greetings_are_refused_with_a_reason(
    served: kit.Served, hello: dict[str, Any], words: str
):
    async with await dial(served) as socket:
        await socket.send(wire.encode(kit.greeting(**hello)).decode())
        answer = wire.decode_to_orchestrator(await socket.recv())
        assert isinstance(answer, wire.AuthFailure)
        assert words in answer.reason
        assert await closing_code(socket) == 4001


async def test_nothing_is_processed_before_the_greeting(served: kit.Served, platform_db: Database):
    async with await dial(served) as socket:
        await socket.send(wire.encode(wire.SourceRegister(message_id="1", sources=[])).decode())
        assert await closing_code(socket) == 4005
    async with await dial(served) as socket:
        await socket.send("{not json")
        assert await closing_code(socket) == 4003


async def test_the_greeting_names_the_org_and_registering_gives_urls(served: kit.Served):
    async with kit.orchestrator(served, sources=()) as orchestrator:
        assert orchestrator.hello.org_id == kit.ORG
        ack = await orchestrator.register("hooks", "other")
        assert [source.webhook_url for source in ack.accepted] == [
            f"{served.app.services.origins.public_url}/webhook/{kit.ORG}/generic/{name}"
            for name in ("hooks", "other")
        ]


async def test_unknown_frames_are_ignored_broken_ones_close_after_three(served: kit.Served):
    async with kit.orchestrator(served) as orchestrator:
        await orchestrator.socket.send('{"type": "from.the.future", "x": 1}')
        await orchestrator.socket.send(b"\xff\x00")
        await orchestrator.socket.send("{broken")
        await orchestrator.register("hooks")  # still served; a good frame forgives
        for _ in range(3):
            await orchestrator.socket.send("{broken")
        await asyncio.wait_for(orchestrator.socket.wait_closed(), 15)
        assert orchestrator.socket.close_code == 4003


async def test_revoking_the_key_closes_its_socket(served: kit.Served):
    async with served.client() as http:
        made = (await http.post(f"{served.api}/orchestrator-keys", json={"name": "second"})).json()
        async with kit.orchestrator(served, token=made["token"]) as orchestrator:
            assert (await http.delete(f"{served.api}/orchestrator-keys/{made['id']}")).status_code == 204
            await asyncio.wait_for(orchestrator.socket.wait_closed(), 15)
            assert orchestrator.socket.close_code == 4001
        async with await dial(served) as socket:
            await socket.send(wire.encode(kit.greeting(made["token"])).decode())
            assert isinstance(wire.decode_to_orchestrator(await socket.recv()), wire.AuthFailure)


async def test_orchestrators_and_sources_stay_listed_after_they_leave(served: kit.Served):
    async with served.client() as http:
        async with kit.orchestrator(served):
            here = (await http.get(f"{served.api}/orchestrators")).json()
            assert here["connected"] is True
            assert here["orchestrators"][0]["instanceId"] == "orch-1"

        async def gone():
            listing = (await http.get(f"{served.api}/orchestrators")).json()
            return None if listing["connected"] else listing

        listing = await kit.eventually(gone)
        assert [(o["instanceId"], o["connected"]) for o in listing["orchestrators"]] == [("orch-1", False)]
        assert [source["name"] for source in listing["sources"]] == ["hooks"]


async def test_a_crash_leaves_no_orchestrator_that_looks_connected(platform_db: Database, tmp_path: Path):
    async with kit.platform(platform_db, tmp_path) as served, kit.orchestrator(served):
        pass
    async with platform_db.engine.begin() as tx:  # as a killed process leaves it
        await tx.execute(text("UPDATE platform_connections SET replica = 'test'"))
    async with kit.platform(platform_db, tmp_path) as served, served.client() as http:
        assert (await http.get(f"{served.api}/orchestrators")).json()["connected"] is False


# ── projection over the wire ─────────────────────────────────────────────────────────────────────


async def test_batches_are_acknowledged_after_they_are_readable(served: kit.Served):
    async with kit.orchestrator(served) as orchestrator, served.client() as http:
        run = kit.run_projection()
        await orchestrator.project(kit.item(1, run.run_id, run=run))
        found = await http.get(f"{served.api}/runs/{run.run_id}")
        assert msgspec.json.decode(found.content, type=dict)["run"] == msgspec.to_builtins(run) | {
            "createdAt": "2030-01-01T12:00:00Z"
        }
        for other in (uuid7(), "nonsense"):
            assert (await http.get(f"{served.api}/runs/{other}")).status_code == 404


# ── asking ───────────────────────────────────────────────────────────────────────────────────────


def a_page(params: dict[str, Any]) -> LogPage:
    lines = [f"line {n}" for n in range(params["offset"], params["offset"] + 2)]
    return LogPage(
        lines=lines,
        ts=[1, 1],
        first_line=params["offset"],
        total_lines=9,
        total_bytes=90,
        complete=True,
        cut=[],
    )


async def test_logs_come_from_the_orchestrator(served: kit.Served):
    run = kit.run_projection()
    job_id = uuid7()
    base = f"{served.api}/runs/{run.run_id}/jobs/{job_id}/steps/0/logs"
    found = LogSearchResult(matches=[], total=0, truncated=False, scanned_lines=9)
    methods = {"logs.read": a_page, "logs.search": lambda params: found}
    async with kit.orchestrator(served, methods=methods) as orchestrator, served.client() as http:
        page = await http.get(base, params={"offset": 4, "limit": 100})
        assert page.json()["lines"] == ["line 4", "line 5"]
        await http.get(base, params={"tail": 7})
        assert (await http.get(base + "/search", params={"q": "x+", "regex": "true"})).json()[
            "scannedLines"
        ] == 9
    read, tail, search = orchestrator.requests
    where = {"runId": run.run_id, "jobId": job_id, "stepIndex": 0}
    assert read.params == {**where, "offset": 4, "limit": 100, "tail": None}
    assert tail.params == {**where, "offset": 0, "limit": 5000, "tail": 7}
    assert search.params == {**where, "query": "x+", "regex": True, "limit": 1000}
    assert (read.actor.kind, read.actor.display_name) == ("user", "Local operator")
    assert read.deadline_ms == 500


async def test_a_raw_log_is_streamed_page_by_page(served: kit.Served):
    content = bytes(range(256)) * 4096 * 3 + b"end"

    def raw(params: dict[str, Any]):
        start = params["fromByte"]
        part = content[start : start + params["maxBytes"]]
        after = start + len(part)
        return {"nextByte": after, "done": after == len(content), "totalBytes": len(content)}, part

    async with kit.orchestrator(served, methods={"logs.raw": raw}) as orchestrator, served.client() as http:
        answer = await http.get(f"{served.api}/runs/{uuid7()}/jobs/{uuid7()}/steps/3/logs/raw")
        assert answer.content == content
        assert answer.headers["content-type"].startswith("text/plain")
        assert "attachment" in answer.headers["content-disposition"]
        assert len(orchestrator.requests) == 4


async def test_a_refusal_keeps_its_code_and_status(served: kit.Served):
    def refuse(_params: dict[str, Any]):
        return wire.RpcResponse(id="", error_code="run_finished", error="This run has ended", status=409)

    async with (
        kit.orchestrator(served, methods={"run.cancel": refuse}) as orchestrator,
        served.client() as http,
    ):
        answer = await http.post(f"{served.api}/runs/{uuid7()}/cancel", json={"force": True})
        assert answer.status_code == 409
        assert (answer.json()["code"], answer.json()["error"]) == ("run_finished", "This run has ended")
        assert orchestrator.requests[0].params["force"] is True


async def test_cancel_without_a_body_is_graceful(served: kit.Served):
    methods = {"run.cancel": lambda _params: {"agentsNotified": 1, "pendingCancelled": 2}}
    async with kit.orchestrator(served, methods=methods) as orchestrator, served.client() as http:
        answer = await http.post(f"{served.api}/runs/{uuid7()}/cancel")
        assert (answer.status_code, answer.json()) == (202, {"agentsNotified": 1, "pendingCancelled": 2})
        assert orchestrator.requests[0].params["force"] is False


async def test_no_answer_is_504_no_orchestrator_503(served: kit.Served):
    path = f"{served.api}/registrations"
    async with served.client() as http:
        away = await http.get(path)
        assert (away.status_code, away.json()["error"]) == (503, "Orchestrator offline")
        async with kit.orchestrator(served, methods={"registrations.list": lambda _params: None}):
            late = await http.get(path)
            assert (late.status_code, late.json()["code"]) == (504, "orchestrator_timeout")


async def test_an_orchestrator_that_does_not_offer_a_method_is_not_asked(served: kit.Served):
    async with await dial(served) as socket, served.client() as http:
        await socket.send(wire.encode(kit.greeting(methods=["run.detail"])).decode())
        assert isinstance(wire.decode_to_orchestrator(await socket.recv()), wire.AuthSuccess)
        answer = await http.get(f"{served.api}/registrations")
        assert (answer.status_code, answer.json()["code"]) == (501, "unsupported_request_type")


async def test_a_socket_that_dies_fails_its_requests_at_once(platform_db: Database, tmp_path: Path):
    asked = asyncio.Event()

    def hang(_params: dict[str, Any]) -> None:
        asked.set()

    async with (
        kit.platform(platform_db, tmp_path, dashboard_proxy_timeout_ms=60_000) as served,
        served.client() as http,
        asyncio.TaskGroup() as tasks,
    ):
        async with kit.orchestrator(served, methods={"diagnostics": hang}) as orchestrator:
            asking = tasks.create_task(http.get(f"{served.api}/diagnostics"))
            async with asyncio.timeout(10):
                await asked.wait()
            orchestrator.socket.transport.abort()
        assert (await asyncio.wait_for(asking, 10)).status_code == 503


async def test_detail_falls_back_to_the_projection_and_says_so(served: kit.Served):
    run = kit.run_projection()
    old, new = kit.job_projection(run.run_id), kit.job_projection(run.run_id, position=1, attempt=2)
    steps = [
        kit.step_projection(run.run_id, new.job_id, 1, attempt=2, status=StepStatus.SUCCESS),
        kit.step_projection(run.run_id, new.job_id, 0, attempt=2),
        kit.step_projection(run.run_id, new.job_id, 0, attempt=1),
    ]
    path = f"{served.api}/runs/{run.run_id}/detail"
    live = RunDetailView(
        run=run,
        jobs=[
            kit.job_view(
                old,
                description="Unit tests",
                place=PlaceView(file=".kici/workflows/ci.py", line=12, column=1),
                context={"os": "linux"},
            )
        ],
        events=[],
        source="orchestrator",
    )
    async with served.client() as http:
        async with kit.orchestrator(served, methods={"run.detail": lambda _params: live}) as orchestrator:
            await orchestrator.project(kit.item(1, run.run_id, run=run, jobs=[new, old], steps=steps))
            answer = (await http.get(path)).json()
            assert answer["source"] == "orchestrator"
            assert answer["jobs"][0]["context"] == {"os": "linux"}
            assert answer["jobs"][0]["description"] == "Unit tests"
            assert answer["jobs"][0]["place"] == {"file": ".kici/workflows/ci.py", "line": 12, "column": 1}
        await kit.eventually(lambda: not served.app.connections.connected(kit.ORG))
        answer = (await http.get(path)).json()
        assert answer["source"] == "projection"
        assert [job["jobId"] for job in answer["jobs"]] == [old.job_id, new.job_id]
        assert [(job["place"], job["stepPlaces"]) for job in answer["jobs"]] == [(None, []), (None, [])]
        assert [(s["stepIndex"], s["attempt"]) for s in answer["jobs"][1]["steps"]] == [(0, 2), (1, 2)]
        assert (await http.get(f"{served.api}/runs/{uuid7()}/detail")).status_code == 404
        logs = await http.get(f"{served.api}/runs/{run.run_id}/jobs/{new.job_id}/steps/0/logs")
        assert (logs.status_code, logs.json()["code"]) == (503, "orchestrator_offline")


async def test_a_run_is_asked_of_its_own_cluster(served: kit.Served):
    run = kit.run_projection(started_at=kit.NOON + timedelta(seconds=1))
    job = uuid7()
    path = f"{served.api}/runs/{run.run_id}/jobs/{job}/steps/0/logs"
    methods = {"logs.read": a_page}
    async with (
        kit.orchestrator(served, methods=methods, cluster_name="east", sources=()) as east,
        kit.orchestrator(served, methods=methods, cluster_name="west", sources=()) as west,
        served.client() as http,
    ):
        await west.project(kit.item(1, run.run_id, run=run))
        for _ in range(4):
            assert (await http.get(path)).status_code == 200
        assert (len(east.requests), len(west.requests)) == (0, 4)
