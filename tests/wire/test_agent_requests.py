"""Requests of jobs on the wire: who may ask, and that each is answered whatever becomes of the connection."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest

from kici.orchestrator.agents.inventory import Inventory
from kici.orchestrator.agents.requests import MAX_AT_ONCE, OwnedJob, RequestRefused
from kici.protocol.agent_v1 import AgentRequest, AgentResponse, JobDispatch
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from tests.db.execution import rows
from tests.support.postgres import Database
from tests.wire.harness import Agent, Orchestrator, orchestrator

pytestmark = pytest.mark.postgres


class Desk:
    """Handlers that tests steer. What was asked is in `asked`."""

    def __init__(self) -> None:
        self.asked: list[tuple[OwnedJob, AgentRequest]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.arrived = asyncio.Event()

    async def echo(self, job: OwnedJob, request: AgentRequest) -> Any:
        self.asked.append((job, request))
        self.arrived.set()
        await self.gate.wait()
        return {"heard": request.params}

    async def refuse(self, job: OwnedJob, request: AgentRequest) -> Any:
        raise RequestRefused("event_rejected", "the target does not trust this repository")

    async def flicker(self, job: OwnedJob, request: AgentRequest) -> Any:
        """As if the database went away under the first two askings."""
        self.asked.append((job, request))
        if len(self.asked) < 3:
            raise ConnectionRefusedError
        return "done"

    async def fail(self, job: OwnedJob, request: AgentRequest) -> Any:
        raise ZeroDivisionError


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path, desk: Desk) -> AsyncGenerator[Orchestrator]:
    handlers = {
        "echo": desk.echo,
        "refuse": desk.refuse,
        "flicker": desk.flicker,
        "fail": desk.fail,
        **Inventory(orchestrator_db.engine).handlers,
    }
    async with orchestrator(orchestrator_db, tmp_path, handlers=handlers) as running:
        yield running


async def _working(orch: Orchestrator, agent: Agent) -> JobDispatch:
    await rows.add_run(orch.db.engine, [rows.Job("build")])
    await agent.dial(orch.url)
    return await agent.take()


def _request(job: JobDispatch, method: str = "echo", **changes: Any) -> AgentRequest:
    values: dict[str, Any] = {
        "request_id": uuid7(),
        "job_id": job.job_id,
        "attempt": job.attempt,
        "method": method,
        "params": {"n": 1},
    }
    return AgentRequest(**{**values, **changes})


async def _ask(agent: Agent, request: AgentRequest) -> AgentResponse:
    await agent.send(request)
    return await agent.expect(AgentResponse)


async def test_a_request_is_answered_from_our_own_record_of_the_job(orch: Orchestrator, desk: Desk) -> None:
    """AG-12, AG-79: who asks is what was dispatched, not what the agent says."""
    agent = Agent()
    job = await _working(orch, agent)
    request = _request(job)
    answer = await _ask(agent, request)
    assert answer == AgentResponse(
        request_id=request.request_id, job_id=job.job_id, result={"heard": {"n": 1}}
    )
    (owned, _), *_ = desk.asked
    assert (owned.run_id, owned.org_id, owned.repo_identifier, owned.agent_id, owned.is_test_run) == (
        job.run_id,
        rows.ORG,
        "acme/shop",
        "agent-1",
        False,
    )


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda job: {"method": "rm -rf"}, "unknown_method"),
        (lambda job: {"method": "refuse"}, "event_rejected"),
        (lambda job: {"method": "fail"}, "internal_error"),
        (lambda job: {"attempt": job.attempt + 1}, "job_ended"),
        (lambda job: {"attempt": job.attempt - 1}, "job_ended"),
        (lambda job: {"job_id": uuid7()}, "job_ended"),
        (lambda job: {"job_id": "' OR true"}, "job_ended"),
        (lambda job: {"params": {"x": "y" * (1 << 20)}}, "too_large"),
    ],
)
async def test_what_cannot_be_answered_is_refused(
    orch: Orchestrator, change: Callable[[JobDispatch], dict[str, Any]], code: str
) -> None:
    """AG-8, AG-10, AG-13, OR-152: with an error, and the socket stays open."""
    agent = Agent()
    job = await _working(orch, agent)
    answer = await _ask(agent, _request(job, **change(job)))
    assert (answer.error_code, answer.result) == (code, None)
    assert (await _ask(agent, _request(job))).error_code is None


async def test_a_job_of_another_agent_is_not_spoken_for(orch: Orchestrator, desk: Desk) -> None:
    """AG-10."""
    agent, other = Agent(), Agent("agent-2", labels=("other",))
    job = await _working(orch, agent)
    await other.dial(orch.url)
    assert (await _ask(other, _request(job))).error_code == "job_ended"
    assert desk.asked == []


async def test_an_ended_job_asks_for_nothing(orch: Orchestrator, desk: Desk) -> None:
    """OR-152."""
    agent = Agent()
    job = await _working(orch, agent)
    await agent.acked(await agent.perform(job))
    assert (await _ask(agent, _request(job))).error_code == "job_ended"
    assert desk.asked == []


async def test_a_request_survives_its_connection(orch: Orchestrator, desk: Desk) -> None:
    """AG-12: cut while it is worked on, asked again: one piece of work, one answer, on the new connection."""
    agent = Agent()
    job = await _working(orch, agent)
    desk.gate.clear()
    request = _request(job)
    await agent.send(request)
    await desk.arrived.wait()
    await agent.cut()
    await agent.dial(orch.url)
    await agent.send(request)
    assert (await _ask_while_held(agent, desk, job)).request_id == request.request_id
    assert [asked.request_id for _, asked in desk.asked].count(request.request_id) == 1


async def _ask_while_held(agent: Agent, desk: Desk, job: JobDispatch) -> AgentResponse:
    """Lets the work go on once another frame of the new connection was read, and so the repetition, too."""
    await agent.send(_request(job, "unknown"))
    assert (await agent.expect(AgentResponse)).error_code == "unknown_method"
    desk.gate.set()
    return await agent.expect(AgentResponse)


async def test_a_database_that_is_away_for_a_moment_fails_no_job(orch: Orchestrator, desk: Desk) -> None:
    """AG-12, OR-5: the handler is called again until it can work."""
    agent = Agent()
    job = await _working(orch, agent)
    assert (await _ask(agent, _request(job, "flicker"))).result == "done"
    assert len(desk.asked) == 3


async def test_an_answer_that_got_lost_is_given_again(orch: Orchestrator, desk: Desk) -> None:
    """AG-12: the handler is called again, which it must bear."""
    agent = Agent()
    job = await _working(orch, agent)
    request = _request(job)
    assert (await _ask(agent, request)).error_code is None
    await agent.cut()
    await agent.dial(orch.url)
    assert (await _ask(agent, request)).result == {"heard": {"n": 1}}
    assert len(desk.asked) == 2


async def test_too_many_at_once_are_refused(orch: Orchestrator, desk: Desk) -> None:
    """AG-37: and the ones before are answered."""
    agent = Agent()
    job = await _working(orch, agent)
    desk.gate.clear()
    for _ in range(MAX_AT_ONCE):
        await agent.send(_request(job))
    assert (await _ask(agent, _request(job))).error_code == "too_many_requests"
    desk.gate.set()
    answers = [await agent.expect(AgentResponse) for _ in range(MAX_AT_ONCE)]
    assert {answer.error_code for answer in answers} == {None}


async def test_the_inventory_is_that_of_the_organisation(orch: Orchestrator) -> None:
    """AG-127: labels and globs are filtered here; other organisations' hosts do not exist."""
    agent = Agent("agent-1", labels=("kici:os:linux", "role:web"))
    job = await _working(orch, agent)
    await Agent("agent-2", labels=("kici:os:linux", "role:db")).dial(orch.url)
    await Agent("agent-3", labels=("kici:os:linux", "role:web", "old")).dial(orch.url)
    async with orch.db.engine.begin() as tx:
        await tx.execute(text("UPDATE agents SET org_id = 'org_other' WHERE agent_id = 'agent-2'"))

    async def found(method: str = "inventory.query", **params: Any) -> list[str]:
        answer = await _ask(agent, _request(job, method, params=params))
        return [host["agentId"] for host in answer.result["hosts"]]

    assert await found("infrastructure.list") == ["agent-1", "agent-3"]
    assert await found(include=["role:web"]) == ["agent-1", "agent-3"]
    assert await found(include=["ROLE:Web"], exclude=["old"]) == ["agent-1"]
    assert await found(include=["role:*", "!old"]) == ["agent-1"]
    assert await found(include=["role:d*"]) == []
    one = await _ask(agent, _request(job, "inventory.get", params={"agentId": "agent-3"}))
    assert (one.result["host"]["host"], one.result["host"]["online"]) == ("host", True)
    missing = await _ask(agent, _request(job, "inventory.get", params={"agentId": "agent-2"}))
    assert missing.error_code == "not_found"
