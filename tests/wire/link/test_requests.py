"""RPC over the link: exactly one answer each, in any order, errors in words."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec import Struct

from kici.orchestrator.link.session import MAX_REQUESTS
from kici.orchestrator.rpc import Caller, RawResult
from kici.protocol import platform_v1 as wire
from kici.protocol.frames import RPC_BYTES, unpack_headed
from kici.spec.errors import Conflict
from tests.support.linked_orchestrator import Orchestrator
from tests.support.scripted_platform import Peer, ScriptedPlatform

pytestmark = pytest.mark.postgres


class Params(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str = ""
    size: int = 0


class View(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    asked_by: str
    org_id: str


@pytest.fixture
async def peer(orchestrator: Orchestrator, platform: ScriptedPlatform) -> Peer:
    async def show(params: Params, caller: Caller) -> View:
        return View(run_id=params.run_id, asked_by=caller.actor.id, org_id=caller.org_id)

    async def refuse(_params: Params, _caller: Caller) -> None:
        raise Conflict("the run has ended")

    async def crash(_params: Params, _caller: Caller) -> None:
        raise ZeroDivisionError("secret detail")

    async def hang(_params: Params, _caller: Caller) -> None:
        await orchestrator.accepting.wait()

    async def odd(_params: Params, _caller: Caller) -> Any:
        return object()

    async def data(params: Params, _caller: Caller) -> RawResult:
        return RawResult(meta={"nextByte": params.size}, data=b"\0" * params.size)

    for name, handler in (
        ("show", show), ("refuse", refuse), ("crash", crash), ("hang", hang), ("odd", odd), ("data", data)
    ):  # fmt: skip
        orchestrator.method(name, Params, handler)
    return await platform.session()


async def test_a_method_answers_for_the_asker_and_the_org(peer: Peer) -> None:
    """PD-38."""
    await peer.call("r1", "show", runId="run-7")
    said = await peer.next(wire.RpcResponse)
    assert (said.id, said.status, said.error_code) == ("r1", 200, None)
    assert said.result == {"runId": "run-7", "askedBy": "u1", "orgId": "org_1"}


@pytest.mark.parametrize(
    ("method", "params", "code", "status"),
    [
        ("no.such", {}, "unknown_method", 404),
        ("show", {"runId": 7}, "invalid_input", 400),
        ("refuse", {}, "conflict", 409),
        ("crash", {}, "internal_error", 500),
        ("odd", {}, "internal_error", 500),
    ],
)
async def test_what_goes_wrong_is_said_in_one_answer(
    peer: Peer, method: str, params: dict[str, Any], code: str, status: int
) -> None:
    """PD-21."""
    await peer.call("r1", method, **params)
    said = await peer.next(wire.RpcResponse)
    assert (said.id, said.error_code, said.status, said.result) == ("r1", code, status, None)
    assert "secret detail" not in str(said.error)
    await peer.call("r2", "show")
    assert (await peer.next(wire.RpcResponse)).id == "r2"
    assert not peer.has(wire.RpcResponse)


async def test_the_askers_deadline_is_kept(orchestrator: Orchestrator, peer: Peer) -> None:
    orchestrator.accepting.clear()
    await peer.call("r1", "hang", deadline_ms=20)
    said = await peer.next(wire.RpcResponse)
    assert (said.error_code, said.status) == ("deadline_exceeded", 504)


async def test_a_slow_request_holds_up_no_other(orchestrator: Orchestrator, peer: Peer) -> None:
    orchestrator.accepting.clear()
    await peer.call("slow", "hang")
    await peer.call("quick", "show")
    assert (await peer.next(wire.RpcResponse)).id == "quick"
    orchestrator.accepting.set()
    assert (await peer.next(wire.RpcResponse)).id == "slow"


async def test_bytes_travel_as_bytes(peer: Peer) -> None:
    await peer.call("r1", "data", size=2_000_000)
    frame = await peer.next_bytes()
    assert frame[0] == RPC_BYTES
    head, body = unpack_headed(frame)
    assert msgspec.json.decode(head, type=wire.RpcBytes) == wire.RpcBytes(
        id="r1", meta={"nextByte": 2_000_000}
    )
    assert len(body) == 2_000_000


async def test_too_many_at_once_are_refused_at_once(orchestrator: Orchestrator, peer: Peer) -> None:
    orchestrator.accepting.clear()
    for number in range(MAX_REQUESTS + 1):
        await peer.call(f"r{number}", "hang")
    said = await peer.next(wire.RpcResponse)
    assert (said.id, said.error_code, said.status) == (f"r{MAX_REQUESTS}", "busy", 503)
    orchestrator.accepting.set()
    others = {(await peer.next(wire.RpcResponse)).id for _ in range(MAX_REQUESTS)}
    assert len(others) == MAX_REQUESTS
    await peer.call("last", "show")
    assert (await peer.next(wire.RpcResponse)).error_code is None


async def test_requests_of_a_broken_connection_are_dropped(
    orchestrator: Orchestrator, peer: Peer, platform: ScriptedPlatform
) -> None:
    orchestrator.accepting.clear()
    await peer.call("r1", "hang")
    await peer.call("r2", "show")
    await peer.next(wire.RpcResponse)
    await peer.cut()
    async with asyncio.timeout(10):
        after = await platform.session()
        orchestrator.accepting.set()
        await after.call("r3", "show")
        assert (await after.next(wire.RpcResponse)).id == "r3"
    assert not after.has(wire.RpcResponse)
