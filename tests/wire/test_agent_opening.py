"""Who gets in, who does not, and how the door is closed (AG-2…8, AG-28…33)."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from websockets.asyncio.client import connect

from kici.orchestrator.agents.upkeep import upkeep
from kici.protocol.agent_v1 import (
    AuthFailure,
    AuthRequest,
    ConfigAck,
    ErrorFrame,
    Heartbeat,
    JobAck,
    JobDispatch,
    JobStatusUpdate,
    RegisterAck,
)
from kici.runtime.database import text
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.support.postgres import Database
from tests.wire.harness import TOKEN, Agent, Orchestrator, add_token, orchestrator

pytestmark = pytest.mark.postgres


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Orchestrator]:
    async with orchestrator(orchestrator_db, tmp_path) as running:
        yield running


async def _raw(orch: Orchestrator) -> Agent:
    agent = Agent()
    agent.socket = await connect(orch.url, compression=None)
    return agent


async def test_a_wrong_token_is_told_and_refused_for_good(orch: Orchestrator) -> None:
    """AG-3."""
    agent = await _raw(orch)
    await agent.send(AuthRequest(token="kat_wrong", protocol_version=1))
    assert "unknown or was revoked" in (await agent.expect(AuthFailure)).reason
    assert (await agent.closed())[0] == 4010


async def test_a_foreign_protocol_version_is_told_and_refused(orch: Orchestrator) -> None:
    """AG-3."""
    agent = await _raw(orch)
    await agent.send(AuthRequest(token=TOKEN, protocol_version=99))
    assert "99" in (await agent.expect(AuthFailure)).reason
    assert (await agent.closed())[0] == 4005


@pytest.mark.parametrize("frame", ["{", '{"type":"heartbeat","timestamp":1}', '{"type":"new.thing"}'])
async def test_anything_but_auth_first_is_refused(orch: Orchestrator, frame: str) -> None:
    """AG-2, AG-8."""
    agent = await _raw(orch)
    await agent.send(frame)
    assert (await agent.closed())[0] == 4003


async def test_who_says_nothing_is_closed(orchestrator_db: Database, tmp_path: Path) -> None:
    """AG-2, AG-4."""
    async with orchestrator(orchestrator_db, tmp_path, agent_auth_ms=50, agent_register_ms=50) as orch:
        mute = await _raw(orch)
        assert await mute.closed() == (4002, "no auth.request in time")
        hesitant = Agent()
        await hesitant.open(orch.url)
        assert await hesitant.closed() == (4002, "no agent.register in time")
        undecided = Agent()
        await undecided.open(orch.url)
        await undecided.send(undecided.register())
        assert await undecided.closed() == (4002, "no config.ack in time")


@pytest.mark.parametrize(
    ("granted", "claimed", "fields", "code"),
    [
        (["gpu"], ["gpu", "kici:os:linux", "kici:host:h"], {}, None),
        (["gpu"], ["gpu", "big"], {}, 4010),
        (None, ["gpu", "kici:scaler:x"], {}, 4010),
        (["kici:capability:ssh-transport"], ["kici:capability:ssh-transport"], {}, None),
        (["kici:privileged:root"], ["kici:privileged:root"], {"running_as_uid": 1000}, 4010),
        (["kici:privileged:root"], ["kici:privileged:root"], {"running_as_uid": 0}, None),
        (None, ["x"], {"agent_id": ""}, 4003),
    ],
)
async def test_labels_are_what_the_token_grants(
    orch: Orchestrator,
    granted: list[str] | None,
    claimed: list[str],
    fields: dict[str, object],
    code: int | None,
) -> None:
    """AG-28, AG-32."""
    token = await add_token(orch.db, "kat_" + "cd" * 32, labels=granted)
    agent = Agent(labels=tuple(claimed))
    await agent.open(orch.url, token)
    await agent.send(agent.register(**fields))
    if code is None:
        assert (await agent.expect(RegisterAck)).labels == sorted(claimed)
    else:
        assert (await agent.closed())[0] == code


async def test_labels_are_stored_lower_case_unique_and_sorted(orch: Orchestrator) -> None:
    """AG-29."""
    agent = Agent(labels=("GPU", "gpu", " kici:OS:Linux "))
    assert (await agent.dial(orch.url)).labels == ["gpu", "kici:os:linux"]


async def test_an_agent_id_belongs_to_its_token_until_that_is_revoked(orch: Orchestrator) -> None:
    """AG-32, AG-33."""
    first = Agent()
    await first.dial(orch.url)
    other_token = await add_token(orch.db, "kat_" + "ef" * 32)
    thief = Agent()
    await thief.open(orch.url, other_token)
    await thief.send(thief.register())
    assert await thief.closed() == (4003, "agent id agent-1 is held by another token")
    async with orch.db.engine.begin() as tx:
        await tx.execute(text("UPDATE agent_tokens SET revoked_at = now() WHERE display LIKE 'kat_abab%'"))
    await upkeep(orch.room.execution, orch.room.hub, seen=True)
    assert await first.closed() == (4010, "the agent's token was revoked")
    heir = Agent()
    await heir.dial(orch.url, other_token)


async def test_a_newer_socket_of_the_same_agent_takes_over(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    older = agent.socket
    await agent.dial(orch.url)
    newer, agent.socket = agent.socket, older
    assert (await agent.closed())[0] == 4005
    agent.socket = newer
    run = await rows.add_run(orch.db.engine)
    orch.wakeups.wake("queue")
    job = await agent.take()
    await agent.perform(job)
    assert await orch.run_ended(run) == "success"
    found = await rows.fetch(orch.db.engine, "SELECT instance_id FROM agents")
    assert found == [{"instance_id": "orch-1"}]  # the older socket's end did not sign it off


async def test_what_is_not_understood_is_answered_and_dropped(orch: Orchestrator) -> None:
    """AG-8."""
    agent = Agent()
    await agent.dial(orch.url)
    for frame in ('{"type":"new.thing","x":1}', "{", '{"type":"heartbeat"}'):
        await agent.send(frame)
        assert (await agent.expect(ErrorFrame)).code == "INVALID_MESSAGE"
    agent.seq += 1
    agent.unacked[agent.seq] = ""
    await agent.send('{"type":"job.ack","seq":1,"runId":7}')
    assert (await agent.expect(ErrorFrame)).code == "INVALID_MESSAGE"
    await agent.acked(1)  # or it would come again for ever
    await agent.send(agent.register())
    assert (await agent.expect(ErrorFrame)).message == "AgentRegister is for the opening"


async def test_a_hole_in_the_numbering_ends_the_connection(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    await agent.send('{"type":"job.ack","seq":2,"runId":"a","jobId":"b","attempt":1,"timestamp":1}')
    assert await agent.closed() == (4005, "frame 2 came out of order")


async def test_a_huge_frame_ends_the_connection(orch: Orchestrator) -> None:
    """AG-7."""
    agent = Agent()
    await agent.dial(orch.url)
    await agent.send('{"type":"heartbeat","x":"' + "y" * (4 << 20) + '"}')
    assert (await agent.closed())[0] == 4003


async def test_heartbeats_go_both_ways_and_silence_ends_the_connection(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """AG-6."""
    async with orchestrator(orchestrator_db, tmp_path, agent_heartbeat_ms=40) as orch:
        agent = Agent()
        await agent.dial(orch.url)
        assert (await agent.expect(Heartbeat)).timestamp > 0
        assert (await agent.closed())[0] == 4004


async def test_nul_characters_are_no_reason_to_lose_a_status(orch: Orchestrator) -> None:
    agent = Agent()
    await agent.dial(orch.url)
    run = await rows.add_run(orch.db.engine)
    orch.wakeups.wake("queue")
    job = await agent.take()
    await agent.tell(
        JobStatusUpdate,
        job,
        state=JobStatus.FAILED,
        error_message="bad \0 byte, and \\u0000 as text",
        outputs={"s": {"k": "\0"}},
    )
    assert await orch.run_ended(run) == "failed"
    row = await rows.job(orch.db.engine, job.job_id)
    assert row["error_message"] == "bad \ufffd byte, and \\u0000 as text"
    assert row["outputs"] == {"s": {"k": "\ufffd"}}


async def test_a_message_that_no_table_can_hold_spoils_no_other(orch: Orchestrator) -> None:
    agent, other = Agent("agent-1"), Agent("agent-2")
    await agent.dial(orch.url)
    await other.dial(orch.url)
    runs = [await rows.add_run(orch.db.engine) for _ in range(2)]
    orch.wakeups.wake("queue")
    jobs = [await who.expect(JobDispatch) for who in (agent, other)]
    # One write, so that they may well share a batch.
    await agent.tell(JobAck, jobs[0])
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.step(jobs[0], 0, exit_code=1 << 40))
        tasks.create_task(other.perform(jobs[1]))
    await agent.acked(await agent.finish(jobs[0]))
    assert [await orch.run_ended(run) for run in runs] == ["success", "success"]
    steps = await rows.fetch(orch.db.engine, "SELECT job_id FROM execution_steps")
    assert [step["job_id"] for step in steps] == [jobs[1].job_id]


async def test_an_agent_is_free_only_after_it_confirmed(orch: Orchestrator) -> None:
    """AG-4."""
    run = await rows.add_run(orch.db.engine)
    agent = Agent()
    await agent.open(orch.url)
    await agent.send(agent.register())
    await agent.expect(RegisterAck)
    orch.wakeups.wake("queue")
    assert orch.room.hub.free() == []
    await agent.send(ConfigAck(agent_id=agent.agent_id))
    assert (await agent.take()).run_id == run.id
