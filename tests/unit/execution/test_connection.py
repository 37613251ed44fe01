"""The agent's stream: what was received, what is durable, what it may still be given."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.orchestrator.agents.connection import MAX_WAITING_FRAMES, Connection, Identity
from kici.orchestrator.agents.hub import Hub
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import Ack, AgentRegister, InFlightJob
from kici.runtime.clock import SystemClock


def _connection(
    acked: int = 0, agent_id: str = "agent-1", session: str = "s", **register: Any
) -> Connection:
    values: dict[str, Any] = {
        "in_flight": [],
        "first_seq": acked + 1,
        "last_seq": acked,
        **register,
    }
    frame = AgentRegister(
        agent_id=agent_id,
        session_id=session,
        labels=["linux"],
        platform="linux",
        arch="x64",
        version="0",
        hostname="h",
        python_version="3.11",
        **values,
    )
    identity = Identity(
        agent_id=agent_id,
        session_id=session,
        org_id="org",
        token_id="t",
        connection_id="c",
        labels=frozenset({"linux"}),
    )
    return Connection(identity, frame, acked_seq=acked, now=0.0)


@given(st.integers(0, 50), st.lists(st.integers(0, 12), max_size=40))
def test_what_is_acknowledged_was_settled_without_a_hole(start: int, moves: list[int]) -> None:
    """Whatever arrives and whatever is settled in which order. AG-20."""
    connection = _connection(start)
    settled: set[int] = set()
    received = start
    for move in moves:
        if move < 6:  # the next, a repetition, or a hole
            seq = received + 1 if move < 4 else received - 1 if move == 4 else received + 3
            kind = connection.receive(seq)
            assert kind == ("new" if seq == received + 1 else "repeated" if seq <= received else "gap")
            received += kind == "new"
        elif waiting := [seq for seq in range(start + 1, received + 1) if seq not in settled]:
            seq = waiting[move % len(waiting)]
            connection.settle(seq)
            settled.add(seq)
        expected = start
        while expected + 1 in settled:
            expected += 1
        assert connection.durable_seq == expected


async def test_one_ack_says_all_that_became_durable() -> None:
    """AG-20."""
    connection = _connection()
    for seq in (1, 2, 3):
        connection.receive(seq)
    for seq in (1, 2, 3):
        connection.settle(seq)
    connection.post(b'{"type":"heartbeat","timestamp":1}')
    sent: list[str] = []

    async def send(frame: str) -> None:
        sent.append(frame)
        if len(sent) == 2:
            connection.close(4006, "enough")

    closed: list[int] = []

    async def send_close(code: int, _reason: str) -> None:
        closed.append(code)

    async with asyncio.timeout(5):
        await connection.write(send, send_close)
    assert agent_v1.decode_to_agent(sent[0]) == Ack(up_to=3)
    assert (len(sent), closed) == (2, [4006])


async def test_a_peer_that_does_not_read_is_closed() -> None:
    connection = _connection()
    assert all(connection.post(b"{}") for _ in range(MAX_WAITING_FRAMES))
    assert not connection.post(b"{}")
    assert (connection.open, connection.close_code) == (False, 4006)


def test_an_agent_is_free_when_it_is_ready_and_holds_nothing() -> None:
    """AG-14, AG-17."""
    connection = _connection(in_flight=[InFlightJob(job_id="j", run_id="r", attempt=1)])
    assert not connection.free(0)
    connection.ready = True
    assert not connection.free(0)
    connection.let_go(("j", 2))
    assert not connection.free(0)
    connection.let_go(("j", 1))
    assert connection.free(0)
    connection.hold(("k", 1), "r")
    assert not connection.free(0)
    connection.let_go(("k", 1))
    connection.rejected("busy", 100.0)
    assert (connection.free(100.1), connection.free(100.3)) == (False, True)
    connection.rejected("busy", 200.0)
    assert (connection.free(200.3), connection.free(200.6)) == (False, True)  # twice as long
    connection.accepted()
    connection.rejected("busy", 300.0)
    assert connection.free(300.3)
    connection.rejected("draining", 400.0)
    assert not connection.free(1e9)


async def test_a_session_goes_on_where_its_last_socket_was() -> None:
    """AG-22."""
    hub = Hub(SystemClock(), lambda: None)
    older = _connection()
    hub.enter(older)
    older.receive(1)
    older.receive(2)
    older.settle(1)
    assert (hub.durable_seq("agent-1", "s"), hub.durable_seq("agent-1", "other")) == (1, 0)
    hub.leave(older)
    assert (hub.durable_seq("agent-1", "s"), len(hub)) == (1, 0)
    older.settle(2)  # committed after the socket was gone
    assert hub.durable_seq("agent-1", "s") == 2


async def test_the_end_of_a_replaced_socket_does_not_remove_its_successor() -> None:
    hub = Hub(SystemClock(), lambda: None)
    older, newer = _connection(), _connection()
    hub.enter(older)
    hub.enter(newer)
    assert (older.open, older.close_code) == (False, 4005)
    hub.leave(older)
    assert hub.find("agent-1") is newer


@pytest.mark.parametrize("pauses", [[], [3.0], [3.0, 1.0]])
async def test_the_dispatcher_sleeps_no_longer_than_the_shortest_pause(pauses: list[float]) -> None:
    hub = Hub(SystemClock(), lambda: None)
    now = asyncio.get_running_loop().time()
    for index, pause in enumerate(pauses):
        connection = _connection(agent_id=f"agent-{index}")
        connection.rejected("busy", now + pause - 0.25)
        hub.enter(connection)
    assert hub.next_pause_ends_s(5.0) == pytest.approx(min([5.0, *pauses]), abs=0.1)
