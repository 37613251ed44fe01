"""Agents' own series on our page."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from kici.orchestrator.agents.connection import Connection, Identity
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.agents.telemetry import KEPT_S, AgentTelemetry
from kici.protocol.agent_v1 import AgentRegister
from kici.runtime.clock import SystemClock


def _exposition(jobs: int) -> str:
    registry = CollectorRegistry()
    Counter("kici_agent_jobs", "Jobs", ["status"], registry=registry).labels("success").inc(jobs)
    Gauge("kici_agent_jobs_active", "Now", registry=registry).set(1)
    Gauge("python_info", "Not its own", registry=registry).set(1)
    return generate_latest(registry).decode()


def _connection(agent_id: str, jobs: int, session: str = "s") -> Connection:
    values: dict[str, Any] = dict.fromkeys(
        ("platform", "arch", "version", "hostname", "python_version"), "x"
    )
    register = AgentRegister(
        agent_id=agent_id, session_id=session, labels=[], in_flight=[], first_seq=1, last_seq=0, **values
    )
    identity = Identity(
        agent_id=agent_id,
        session_id=session,
        org_id="o",
        token_id="t",
        connection_id="c",
        labels=frozenset(),
    )
    connection = Connection(identity, register, acked_seq=0, now=0)
    connection.exposition = _exposition(jobs)
    return connection


class _Page:
    def __init__(self) -> None:
        self.now = 0.0
        self.hub = Hub(SystemClock(), lambda: None)
        self.registry = CollectorRegistry()
        self.registry.register(AgentTelemetry(self.hub, lambda: self.now))

    def jobs(self) -> dict[str, float]:
        generate_latest(self.registry)  # it can be written
        return {
            sample.labels["agent_id"]: sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if sample.name == "kici_agent_jobs_total"
        }


async def test_series_carry_the_agent_and_only_its_own_are_shown() -> None:
    """AG-99, OP-30."""
    page = _Page()
    page.hub.enter(_connection("a", 3))
    page.hub.enter(_connection("b", 4))
    assert page.jobs() == {"a": 3, "b": 4}
    text = generate_latest(page.registry).decode()
    assert 'kici_agent_jobs_active{agent_id="a",scaler="stateful"} 1.0' in text
    assert "python_info" not in text
    assert "_created" not in text


async def test_sums_never_go_down_when_agents_leave() -> None:
    """AG-99, OP-30."""
    page = _Page()
    for agent_id, jobs in (("a", 3), ("b", 4)):
        page.hub.enter(_connection(agent_id, jobs))
    first = page.hub.find("a")
    assert first is not None
    page.hub.leave(first)
    assert page.jobs() == {"a": 3, "b": 4}  # one more scrape
    page.now += 1e9
    assert page.jobs() == {"departed": 3, "b": 4}
    page.hub.enter(_connection("a", 1, session="new"))
    assert page.jobs() == {"a": 1, "departed": 3, "b": 4}


async def test_the_same_process_on_a_new_socket_is_counted_once() -> None:
    page = _Page()
    older = _connection("a", 3)
    page.hub.enter(older)
    page.hub.leave(older)
    page.hub.enter(_connection("a", 5))
    assert page.jobs() == {"a": 5}
    page.now += KEPT_S + 1e9
    assert page.jobs() == {"a": 5}


async def test_what_cannot_be_read_is_left_out() -> None:
    page = _Page()
    broken = _connection("a", 1)
    broken.exposition = 'kici_agent_jobs_total{x="1 3\n'
    page.hub.enter(broken)
    page.hub.enter(_connection("b", 2))
    assert page.jobs() == {"b": 2}
