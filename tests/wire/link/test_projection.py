"""The outbox through the link: in order, at least once, gone only when the Platform has it."""

import asyncio

import pytest

from kici.orchestrator.link.projection import BATCH_BYTES, BATCH_ROWS, IN_FLIGHT_ROWS, LATE_ROWS, batches
from kici.orchestrator.link.queries import OutboxRow
from kici.protocol import platform_v1 as wire
from kici.runtime.database import text
from tests.support.linked_orchestrator import Orchestrator
from tests.support.scripted_platform import Peer, ScriptedPlatform

pytestmark = pytest.mark.postgres


async def take(peer: Peer, count: int, *, acknowledge: bool = True) -> list[int]:
    """The `rev` of the next items, at least `count`."""
    got: list[int] = []
    while len(got) < count:
        batch = await peer.next(wire.ProjectionBatch)
        got += [item.rev for item in batch.items]
        if acknowledge:
            await peer.send(wire.ProjectionAck(batch_id=batch.batch_id))
    return got


async def test_rows_arrive_in_order_and_go_when_acknowledged(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-15, PD-33."""
    rows = await orchestrator.emit(3)
    peer = await platform.session()
    batch = await peer.next(wire.ProjectionBatch)
    assert [item.rev for item in batch.items] == rows
    assert [item.run_id for item in batch.items] == ["run-1"] * 3
    assert await orchestrator.outbox() == rows
    await peer.send(wire.ProjectionAck(batch_id=batch.batch_id))
    await orchestrator.outbox_is([])


async def test_a_cut_before_the_acknowledgement_sends_them_again(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-15."""
    first = await orchestrator.emit(5)
    peer = await platform.session()
    assert await take(peer, 5, acknowledge=False) == first
    await peer.cut()
    second = await orchestrator.emit(2)
    peer = await platform.session()
    assert await take(peer, 7) == first + second
    await orchestrator.outbox_is([])


async def test_an_acknowledgement_of_one_batch_leaves_the_others(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    rows = await orchestrator.emit(BATCH_ROWS * 2 + 1)
    peer = await platform.session()
    got = [await peer.next(wire.ProjectionBatch) for _ in range(3)]
    assert [item.rev for batch in got for item in batch.items] == rows
    await peer.send(wire.ProjectionAck(batch_id=got[1].batch_id))
    await orchestrator.outbox_is(rows[:BATCH_ROWS] + rows[2 * BATCH_ROWS :])
    await peer.cut()
    peer = await platform.session()
    assert await take(peer, BATCH_ROWS + 1) == rows[:BATCH_ROWS] + rows[2 * BATCH_ROWS :]
    await orchestrator.outbox_is([])


async def test_a_long_absence_is_made_up_for_with_bounded_flight(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """PD-15."""
    rows = await orchestrator.emit(IN_FLIGHT_ROWS * 2 + 700)
    peer = await platform.session()
    held = [await peer.next(wire.ProjectionBatch)]
    while sum(len(batch.items) for batch in held) < IN_FLIGHT_ROWS:
        held.append(await peer.next(wire.ProjectionBatch))
    await peer.call("r1", "no.such")  # a round trip: whatever was to be sent by now, is here
    await peer.next(wire.RpcResponse)
    assert not peer.has(wire.ProjectionBatch)
    for batch in held:
        await peer.send(wire.ProjectionAck(batch_id=batch.batch_id))
    got = [item.rev for batch in held for item in batch.items]
    got += await take(peer, len(rows) - len(got))
    assert got == rows
    await orchestrator.outbox_is([])
    assert orchestrator.sample("outbox_rows_sent_total") == len(rows)


async def test_a_row_that_commits_late_is_not_passed_over(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    """Its number was drawn before that of a row which was sent and acknowledged already."""
    peer = await platform.session()
    async with orchestrator.database.engine.begin() as late:
        early = await late.scalar(
            text(
                "INSERT INTO outbox (topic, key, payload) VALUES ('platform', 'r', '{\"runId\": \"r\"}') RETURNING seq"
            )
        )
        rows = await orchestrator.emit(1)
        assert rows[0] > early
        assert await take(peer, 1) == rows
        await orchestrator.outbox_is([])
    orchestrator.wakeups.wake_here("outbox")
    assert await take(peer, 1) == [early]
    await orchestrator.outbox_is([])


async def test_a_row_that_commits_very_late_is_found_by_the_sweep(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    async with orchestrator.database.engine.begin() as late:
        early = await late.scalar(
            text("""
                INSERT INTO outbox (topic, key, payload) VALUES ('platform', 'r', '{"runId": "r"}') RETURNING seq
            """)
        )
        rows = await orchestrator.emit(LATE_ROWS + 10)
        assert await take(peer, len(rows)) == rows
    orchestrator.wakeups.wake_here("outbox")
    assert await take(peer, 1) == [early]
    await orchestrator.outbox_is([])


async def test_other_topics_are_not_the_platforms(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    async with orchestrator.database.engine.begin() as tx:
        await tx.execute(text("INSERT INTO outbox (topic, key, payload) VALUES ('checks', 'r', '{}')"))
    rows = await orchestrator.emit(1)
    assert await take(await platform.session(), 1) == rows


async def test_large_rows_travel_in_small_batches(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    rows = await orchestrator.emit(20, filler=100_000)
    peer = await platform.session()
    got: list[int] = []
    while len(got) < 20:
        batch = await peer.next(wire.ProjectionBatch)
        assert 1 <= len(batch.items) <= BATCH_BYTES // 100_000
        got += [item.rev for item in batch.items]
        await peer.send(wire.ProjectionAck(batch_id=batch.batch_id))
    assert got == rows


async def test_a_hint_is_answered_each_time(orchestrator: Orchestrator, platform: ScriptedPlatform) -> None:
    peer = await platform.session()
    for _ in range(20):
        rows = await orchestrator.emit(1)
        assert await take(peer, 1) == rows
    await orchestrator.outbox_is([])


async def test_a_database_that_is_away_for_a_while_ends_no_session(
    orchestrator: Orchestrator, platform: ScriptedPlatform
) -> None:
    peer = await platform.session()
    async with orchestrator.database.engine.begin() as tx:
        await tx.execute(text("ALTER TABLE outbox RENAME TO outbox_away"))
    orchestrator.wakeups.wake_here("outbox")
    await peer.call("r1", "no.such")
    await peer.next(wire.RpcResponse)
    async with orchestrator.database.engine.begin() as tx:
        await tx.execute(text("ALTER TABLE outbox_away RENAME TO outbox"))
    rows = await orchestrator.emit(2)
    async with asyncio.timeout(10):
        assert await take(peer, 2) == rows
    await orchestrator.outbox_is([])


def test_batches_keep_order_and_bounds() -> None:
    rows = [OutboxRow(seq, "x" * (seq * 7919 % 90_000 + 1)) for seq in range(1000)]
    cut = batches(rows)
    assert [row for batch in cut for row in batch] == rows
    assert all(0 < len(batch) <= BATCH_ROWS for batch in cut)
    assert all(sum(len(row.payload) for row in batch) <= BATCH_BYTES for batch in cut)
    assert [len(batch) for batch in batches([OutboxRow(1, "x" * 1_000_000)] * 3)] == [1, 1, 1]
    assert batches([]) == []
