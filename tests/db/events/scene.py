"""Repositories with workflows that wait for events, and the events that tests make."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kici.orchestrator.agents.requests import OwnedJob
from kici.orchestrator.sources.service import NewLocal
from kici.protocol.agent_v1 import AgentRequest
from kici.runtime.clock import to_ms
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from kici.spec.lock import LockWorkflow
from kici.spec.triggers import Trigger
from tests.db.ingress.builders import ORG, lock_job, lock_workflow
from tests.db.ingress.running import Repo, Running, eventually


class ManualClock:
    """A clock that stands until a test moves it."""

    def __init__(self, iso: str) -> None:
        self.ms = to_ms(datetime.fromisoformat(iso).replace(tzinfo=UTC))

    def now_ms(self) -> int:
        return self.ms

    def set(self, iso: str) -> None:
        self.ms = ManualClock(iso).ms


def workflow(name: str, *triggers: Trigger, **more: Any) -> LockWorkflow:
    made = lock_workflow(name, lock_job("build"), **more)
    return msgspec.structs.replace(made, triggers=list(triggers))


async def watched(running: Running, folder: Path, name: str, *workflows: LockWorkflow) -> Repo:
    """A repository whose default branch has these workflows, registered."""
    repo = Repo(folder / name)
    repo.commit_lock(*workflows)
    await running.ingress.sources.add(ORG, NewLocal(name=name, path=str(repo.path)))
    await pushed(running, repo, name)
    return repo


async def pushed(running: Running, repo: Repo, name: str) -> None:
    await running.push(name, repo)
    await running.decided()

    async def told() -> bool:
        return await running.rows("SELECT id FROM kici_events WHERE NOT processed") == []

    await eventually(told)  # that the registrations were updated


def job_of(running: Running, repo: str, *, depth: int = 0, job_id: str | None = None) -> OwnedJob:
    """A job of a run in `repo`, as the agents' room hands it to us."""
    source = running.ingress.index.by_name(ORG, repo)
    assert source is not None
    return OwnedJob(
        job_id=job_id or uuid7(),
        run_id=uuid7(),
        attempt=1,
        org_id=ORG,
        agent_id="a1",
        job_name="build",
        base_job_name="build",
        workflow_name="sender",
        repo_identifier=repo,
        routing_key=source.routing_key,
        branch="main",
        sha="a" * 40,
        chain_depth=depth,
        is_test_run=False,
        check_mode="apply",
    )


async def emit(
    running: Running,
    job: OwnedJob,
    name: str,
    payload: Any = None,
    *,
    targets: list[str] | None = None,
    request_id: str = "",
) -> str:
    """What `ctx.emit` comes down to; the event's id."""
    request = AgentRequest(
        request_id=request_id or uuid7(),
        job_id=job.job_id,
        attempt=job.attempt,
        method="event.emit",
        params={"name": name, "payload": payload, "targetRepos": targets},
    )
    return (await running.ingress.events.emitter.emit(job, request)).delivery_id


async def system_event(
    running: Running, repo: str, name: str, payload: dict[str, Any], *, depth: int = 0
) -> str:
    """As a state change writes it."""
    source = running.ingress.index.by_name(ORG, repo)
    assert source is not None
    event_id = uuid7()
    async with running.db.engine.begin() as tx:
        await tx.execute(
            text(
                """INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key,
                       chain_depth, expires_at)
                   VALUES (:id, :org, :name, CAST(:payload AS jsonb), :repo, :key, :depth, now() + interval '1 day')"""
            ),
            {
                "id": event_id,
                "org": ORG,
                "name": name,
                "payload": msgspec.json.encode(payload).decode(),
                "repo": repo,
                "key": source.routing_key,
                "depth": depth,
            },
        )
    running.ingress.events.log._wakeups.wake("kici_event_channel")
    return event_id


async def routed(running: Running, event_id: str) -> Any:
    """The event once it was dispatched."""

    async def done() -> Any:
        view = await running.ingress.events.log.event(ORG, event_id)
        return view if view.status == "processed" else None

    return await eventually(done)


async def runs(running: Running) -> list[tuple[str, str]]:
    """(workflow, trigger) of every run that no push has started, in order."""
    found = await running.rows(
        "SELECT workflow_name, trigger_event FROM execution_runs WHERE trigger_event <> 'push' ORDER BY id"
    )
    return [(row["workflow_name"], row["trigger_event"]) for row in found]
