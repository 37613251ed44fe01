"""Webhooks over the link: stored as they came, acknowledged each by itself."""

import asyncio
import random

import pytest

from kici.orchestrator.inbox.delivery import Delivery
from kici.orchestrator.link.session import MAX_RELAYS
from kici.protocol import platform_v1 as wire
from tests.support.linked_orchestrator import Orchestrator
from tests.support.scripted_platform import ScriptedPlatform

pytestmark = pytest.mark.postgres


async def test_a_delivery_arrives_byte_for_byte(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-25."""
    peer = await platform.session()
    body = random.Random(7).randbytes(3_000_000)
    await peer.relay("m1", body, headers={"x-signature": "sha256=ab"})
    ack = await peer.next(wire.WebhookAck)
    assert ack == wire.WebhookAck(message_id="m1", delivery_id="d-request-m1", result="accepted")
    assert orchestrator.deliveries == [
        Delivery(
            headers={"x-signature": "sha256=ab"},
            body=body,
            via="relay",
            request_id="request-m1",
            client_ip="203.0.113.7",
            routing_key="generic:org_1:s1",
        )
    ]


async def test_many_are_taken_at_once_and_no_more_than_the_bound(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    orchestrator.accepting.clear()
    count = MAX_RELAYS + 100
    async with asyncio.TaskGroup() as tasks:
        for number in range(count):
            tasks.create_task(peer.relay(f"m{number}", b"{}"))

        async def full() -> None:
            async with asyncio.timeout(10):
                while len(orchestrator.deliveries) < MAX_RELAYS:
                    await asyncio.sleep(0)

        tasks.create_task(full())
    for _ in range(100):
        await asyncio.sleep(0)
    assert len(orchestrator.deliveries) == MAX_RELAYS
    orchestrator.accepting.set()
    acks = {(await peer.next(wire.WebhookAck)).message_id for _ in range(count)}
    assert acks == {f"m{number}" for number in range(count)}


async def test_what_could_not_be_stored_is_not_acknowledged(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    await peer.relay("m1", b"{}", headers={"x-test": "fail"})
    await peer.relay("m2", b"{}")
    assert (await peer.next(wire.WebhookAck)).message_id == "m2"
    assert not peer.has(wire.WebhookAck)
    assert orchestrator.sample("platform_relays_total", result="failed") == 1


async def test_a_slow_delivery_holds_up_nothing_else(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    orchestrator.accepting.clear()
    await peer.relay("m1", b"{}")
    rows = await orchestrator.emit(1)
    batch = await peer.next(wire.ProjectionBatch)
    assert [item.rev for item in batch.items] == rows
    await peer.call("r1", "no.such")
    assert (await peer.next(wire.RpcResponse)).id == "r1"
    orchestrator.accepting.set()
    assert (await peer.next(wire.WebhookAck)).message_id == "m1"


async def test_deliveries_under_way_when_the_connection_breaks_come_again(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    orchestrator.accepting.clear()
    await peer.relay("m1", b"{}")
    async with asyncio.timeout(10):
        while not orchestrator.deliveries:
            await asyncio.sleep(0)
    await peer.cut()
    orchestrator.accepting.set()
    peer = await platform.session()
    await peer.relay("m1", b"{}")
    assert (await peer.next(wire.WebhookAck)).message_id == "m1"
