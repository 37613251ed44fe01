"""Greeting, sources, heartbeats, reconnection: the order of things on the link (PD-12…18)."""

import asyncio

import pytest

from kici.orchestrator.link.link import is_loopback, socket_url
from kici.protocol import platform_v1 as wire
from tests.support.linked_orchestrator import Orchestrator
from tests.support.scripted_platform import ScriptedPlatform

pytestmark = pytest.mark.postgres


async def test_nothing_is_said_before_its_turn(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-12, PD-13."""
    rows = await orchestrator.emit(1)
    peer = await platform.peer()
    hello = await peer.next(wire.AuthRequest)
    assert hello == wire.AuthRequest(
        token="kici_ok_test",
        protocol_version=1,
        instance_id="orch-1",
        cluster_name="local",
        version="1.2.3",
        mode="hybrid",
        hostname="host",
        methods=["logs.raw", "logs.read", "logs.search"],
    )
    assert peer.frames == []
    await peer.send(wire.AuthSuccess(connection_id="c1", org_id="org_1", org_public_alias="acme"))
    asked = await peer.next(wire.SourceRegister)
    assert [source.name for source in asked.sources] == ["shop"]
    assert not peer.has(wire.ProjectionBatch)
    await peer.send(wire.SourceRegisterAck(message_id="somebody-else", accepted=[]))
    await peer.call("r1", "no.such")  # answered meanwhile, so the wrong ack was looked at
    await peer.next(wire.RpcResponse)
    assert not peer.has(wire.ProjectionBatch)
    await peer.send(wire.SourceRegisterAck(message_id=asked.message_id, accepted=[]))
    batch = await peer.next(wire.ProjectionBatch)
    assert [item.rev for item in batch.items] == rows


async def test_the_whole_set_of_sources_is_sent_again_when_it_changes(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-13."""
    peer = await platform.session()
    assert orchestrator.link is not None
    for names in (["shop", "site"], []):
        orchestrator.sources.names = names
        orchestrator.link.sources_changed()
        asked = await peer.next(wire.SourceRegister)
        assert [source.name for source in asked.sources] == names


async def test_the_platforms_webhook_addresses_are_known(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    await peer.next(wire.Heartbeat)
    await peer.call("r1", "no.such")
    await peer.next(wire.RpcResponse)
    assert orchestrator.link is not None
    assert orchestrator.link.webhook_url("generic:org_1:shop") == "https://p/shop"
    assert orchestrator.link.webhook_url("generic:org_1:other") is None


async def test_a_cut_connection_is_dialled_again_with_the_whole_greeting(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-13, PD-14."""
    for _ in range(3):
        peer = await platform.session()
        await peer.call("r1", "no.such")
        await peer.next(wire.RpcResponse)
        assert orchestrator.link is not None
        assert orchestrator.link.connected
        assert orchestrator.sample("platform_connected") == 1
        await peer.cut()
    await platform.session()
    assert orchestrator.delays == [0, 0, 0]  # each greeting succeeded, so each time from the start


async def test_a_platform_that_comes_late_is_found(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-14."""
    await (await platform.session()).cut()
    await platform.stop()
    async with asyncio.timeout(10):
        while len(orchestrator.delays) < 5:
            await asyncio.sleep(0.01)
    assert orchestrator.delays[:5] == [0, 1, 2, 3, 4]
    assert orchestrator.sample("platform_connected") == 0
    await platform.start()
    await platform.session()


async def test_a_refused_key_is_tried_again_slowly(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-12, PD-14."""
    for _ in range(3):
        peer = await platform.peer()
        await peer.next(wire.AuthRequest)
        await peer.send(wire.AuthFailure(reason="unknown or revoked orchestrator key"))
        await peer.closed.wait()
        assert peer.frames == []
    await platform.session()
    assert orchestrator.delays == [6, 7, 8]
    assert orchestrator.sample("platform_connections_total", result="refused") == 3


@pytest.mark.parametrize("said", ["not json", '{"type":"heartbeat","timestamp":1}', '{"type":"strange"}'])
async def test_a_strange_greeting_ends_the_connection(
    orchestrator: Orchestrator, platform: ScriptedPlatform, said: str
) -> None:
    peer = await platform.peer()
    await peer.next(wire.AuthRequest)
    await peer.send_text(said)
    await peer.closed.wait()
    await platform.session()
    assert orchestrator.delays == [0]


async def test_strange_frames_are_passed_over(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-18."""
    peer = await platform.session()
    for text in ('{"type":"from.the.future","x":1}', '{"type":"rpc.request"}', "[]", "no json"):
        await peer.send_text(text)
    for data in (
        b"",
        b"\x01",
        b"\x03\x00",
        b"\x63abcdef",
        b"\x03\xff\xff\xff\xffxx",
        b"\x03\x00\x00\x00\x02{}body",
    ):
        await peer.send_bytes(data)
    await peer.send_text('{"type":"heartbeat","timestamp":1,"more":true}')
    await peer.call("r1", "no.such")
    assert (await peer.next(wire.RpcResponse)).id == "r1"
    assert orchestrator.deliveries == []


async def test_life_is_shown_from_the_start(orchestrator: Orchestrator, platform: ScriptedPlatform) -> None:
    """PD-14."""
    peer = await platform.session()
    assert (await peer.next(wire.Heartbeat)).timestamp > 1_700_000_000_000


async def test_a_stopping_orchestrator_says_goodbye(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    await orchestrator.stop()
    await peer.closed.wait()
    assert peer.close_code == 1001


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("http://127.0.0.1:10142", "ws://127.0.0.1:10142/ws"),
        ("http://127.0.0.1:10142/", "ws://127.0.0.1:10142/ws"),
        ("https://ci.example/kici/", "wss://ci.example/kici/ws"),
    ],
)
def test_the_socket_is_beside_the_pages(given: str, wanted: str) -> None:
    assert socket_url(given) == wanted


def test_a_proxy_is_never_asked_for_this_machine() -> None:
    assert is_loopback("ws://127.0.0.1:1/ws")
    assert is_loopback("ws://[::1]:1/ws")
    assert is_loopback("ws://localhost:1/ws")
    assert not is_loopback("wss://ci.example/ws")
