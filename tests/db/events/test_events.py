"""Events between workflows: who may send what to whom, and what starts (OR-90…93, OR-100, OR-101)."""

from pathlib import Path

import msgspec
import pytest

from kici.orchestrator.events.emit import EventRejected, NewEvent, TooManyEvents
from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.events.trust import NewTrust, TrustExists, TrustNotFound
from kici.orchestrator.sources.service import NewGeneric
from kici.runtime.ids import uuid7
from kici.spec.errors import InvalidInput
from kici.spec.triggers import (
    JobCompleteTrigger,
    KiciEventTrigger,
    LifecycleTrigger,
    Pattern,
    PushTrigger,
    WorkflowCompleteTrigger,
)
from tests.db.events.scene import emit, job_of, routed, runs, system_event, watched, workflow
from tests.db.ingress.builders import ORG
from tests.db.ingress.running import eventually, ingress_on
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


async def test_an_emitted_event_starts_who_waits_for_it(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-90, OR-91, AU-82: a run like any other, with the event as it was sent and the chain's depth."""
    async with ingress_on(orchestrator_db) as running:
        repo = await watched(
            running,
            tmp_path,
            "app",
            workflow("deployed", KiciEventTrigger(name="deploy-complete", match={"$.env": "prod"})),
            workflow("other", KiciEventTrigger(name="deploy-complete", match={"$.env": "dev"})),
            workflow("pushes", PushTrigger()),
        )
        job = job_of(running, "app", depth=2)
        event_id = await emit(running, job, "deploy-complete", {"env": "prod"})
        view = await routed(running, event_id)
        assert (view.matched_count, view.origin, view.source_run_id) == (1, "job", job.run_id)
        assert [(d.workflow_name, d.matched) for d in view.decisions] == [
            ("deployed", True),
            ("other", False),
        ]
        assert view.decisions[1].reason == "kici_event.match $.env: wanted 'dev', got 'prod'"
        (run,) = await running.rows(
            """SELECT id, workflow_name, trigger_event, chain_depth, sha, branch, delivery_id, event,
                   trigger_decision->>'reason' AS reason
               FROM execution_runs WHERE trigger_event = 'kici_event'"""
        )
        assert run["id"] == view.decisions[0].run_id
        assert (run["workflow_name"], run["chain_depth"]) == ("deployed", 3)
        assert (run["sha"], run["branch"]) == (repo.git("rev-parse", "main"), "main")
        assert (run["delivery_id"], run["reason"]) == (event_id, "Event deploy-complete from app")
        assert run["event"]["payload"]["payload"] == {"env": "prod"}
        jobs = await running.rows("SELECT status FROM execution_jobs WHERE run_id = :id", id=run["id"])
        assert [row["status"] for row in jobs] == ["queued"]


async def test_asking_twice_makes_one_event(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-90: the same request of the same attempt is one event; another request is another one."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
        job = job_of(running, "app")
        first = await emit(running, job, "e", request_id="r1")
        assert await emit(running, job, "e", request_id="r1") == first
        second = await emit(running, job, "e", request_id="r2")
        assert second != first
        await routed(running, first)
        await routed(running, second)
        assert await runs(running) == [("w", "kici_event")] * 2


async def test_breakers_refuse_and_count(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-90, OR-100, AU-86: names, size, depth and rate; nothing of what is refused is stored."""
    policy = EventPolicy(max_chain_depth=3, rate_limit_per_minute=2)
    async with ingress_on(orchestrator_db, event_policy=policy) as running:
        await watched(running, tmp_path, "app", workflow("w", PushTrigger()))
        await watched(running, tmp_path, "lib", workflow("w", PushTrigger()))
        job = job_of(running, "app")
        for name in ("__workflow_complete", "__own", "kici.done", "registration.updated", "", "two words"):
            with pytest.raises(EventRejected):
                await emit(running, job, name)
        await emit(running, job, "fits", "x" * (256 * 1024 - 2))
        with pytest.raises(EventRejected, match="at most 262144"):
            await emit(running, job, "large", "x" * (256 * 1024 - 1))
        await emit(running, job_of(running, "app", depth=2), "deep")
        with pytest.raises(EventRejected, match="look for a loop"):
            await emit(running, job_of(running, "app", depth=3), "deep")
        for _ in range(2):
            await emit(running, job, "often")
        with pytest.raises(TooManyEvents, match="retryAfterMs=") as refused:
            await emit(running, job, "often")
        assert 0 < refused.value.retry_after_ms <= 60_000
        await emit(running, job_of(running, "lib"), "often")  # counted by repository and name
        await emit(running, job, "seldom")
        shown = running.metrics.exposition().decode()
        assert 'kici_orch_events_dropped_total{reason="chain_depth"} 1.0' in shown
        assert 'kici_orch_events_dropped_total{reason="rate_limit"} 1.0' in shown
        found = await running.rows(
            "SELECT event_name FROM kici_events WHERE origin = 'job' ORDER BY created_at"
        )
        names = [row["event_name"] for row in found]
        assert names == ["fits", "deep", "often", "often", "often", "seldom"]


async def test_other_repositories_take_only_what_they_trust(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-101: the same repository always, another by a row with globs, and what is blocked is visible."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("own", KiciEventTrigger(name="deploy-x")))
        await watched(
            running,
            tmp_path,
            "ops",
            workflow("foreign", KiciEventTrigger(name="deploy-x"), WorkflowCompleteTrigger()),
        )
        job = job_of(running, "app")
        blocked = await routed(running, await emit(running, job, "deploy-x"))
        assert [(d.workflow_name, d.matched) for d in blocked.decisions] == [
            ("own", True),
            ("foreign", False),
        ]
        assert "ops takes no deploy-x events of app" in blocked.decisions[1].reason
        with pytest.raises(EventRejected, match="ops takes no 'deploy-x' events of app"):
            await emit(running, job, "deploy-x", targets=["ops"])
        trust = running.ingress.events.trust
        added = await trust.add(
            ORG, NewTrust(source_repo="app", target_repo="ops", allowed_events=["deploy-*"])
        )
        allowed = await routed(running, await emit(running, job, "deploy-x"))
        assert [d.matched for d in allowed.decisions] == [True, True]
        targeted = await routed(running, await emit(running, job, "deploy-x", targets=["ops"]))
        assert [d.workflow_name for d in targeted.decisions] == ["foreign"]
        completed = await routed(
            running,
            await system_event(
                running, "app", "__workflow_complete", {"workflowName": "w", "status": "success"}
            ),
        )
        assert [(d.workflow_name, d.matched) for d in completed.decisions] == [("foreign", False)]
        # One direction only.
        with pytest.raises(EventRejected):
            await emit(running, job_of(running, "ops"), "deploy-x", targets=["app"])
        with pytest.raises(TrustExists):
            await trust.add(ORG, NewTrust(source_repo="app", target_repo="ops"))
        with pytest.raises(InvalidInput, match="no sources have the repository 'nowhere'"):
            await trust.add(ORG, NewTrust(source_repo="app", target_repo="nowhere"))
        assert [t.id for t in (await trust.listing(ORG)).trust] == [added.id]
        await trust.remove(ORG, added.id)
        again = await routed(running, await emit(running, job, "deploy-x"))
        assert [d.matched for d in again.decisions] == [True, False]
        with pytest.raises(TrustNotFound):
            await trust.remove(ORG, added.id)
        with pytest.raises(TrustNotFound):
            await trust.remove(ORG, "x")


async def test_what_a_webhook_starts_belongs_to_its_repository(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-101: runs that a delivery of a webhook source starts are the repository's own, which takes their events;
    not where two sources have a repository of that name."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
        hook = await running.ingress.sources.add(ORG, NewGeneric(name="hook", verification_method="none"))
        job = msgspec.structs.replace(job_of(running, "app"), routing_key=hook.routing_key)
        await routed(running, await emit(running, job, "e"))
        assert await runs(running) == [("w", "kici_event")]
        other = msgspec.structs.replace(job, repo_identifier="elsewhere")
        await routed(running, await emit(running, other, "e"))
        stranger = msgspec.structs.replace(job, routing_key=f"remote:{ORG}", job_id=uuid7())
        await routed(running, await emit(running, stranger, "e"))
        assert await runs(running) == [("w", "kici_event")]


async def test_completions_reach_their_triggers_and_lifecycle(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-92, OR-93, AU-80: one stored event fires the specific trigger and the lifecycle trigger."""
    async with ingress_on(orchestrator_db) as running:
        await watched(
            running,
            tmp_path,
            "app",
            workflow("after-build", WorkflowCompleteTrigger(name="build", status=["success"])),
            workflow("after-test", JobCompleteTrigger(job="test", status=["failed"])),
            workflow("alarm", LifecycleTrigger(events=["job_failed"])),
            workflow("audit", LifecycleTrigger(events=["workflow_complete", "registration_updated"])),
            workflow("elsewhere", LifecycleTrigger(events=["job_failed"], sources=_glob("lib"))),
        )

        async def audited() -> bool:
            return await runs(running) == [("audit", "lifecycle")]  # of its own registration

        await eventually(audited)
        done = await routed(
            running,
            await system_event(
                running, "app", "__workflow_complete", {"workflowName": "build", "status": "success"}
            ),
        )
        assert {d.workflow_name for d in done.decisions if d.matched} == {"after-build", "audit"}
        failed = {"workflowName": "ci", "jobName": "test", "status": "timed_out_stale"}
        lost = await routed(running, await system_event(running, "app", "__job_complete", failed))
        assert {d.workflow_name for d in lost.decisions if d.matched} == {"after-test", "alarm"}
        assert {d.workflow_name for d in lost.decisions} == {
            "after-build",
            "after-test",
            "alarm",
            "audit",
            "elsewhere",
        } - {"after-build"}
        passed = {"workflowName": "ci", "jobName": "test", "status": "success"}
        fine = await routed(running, await system_event(running, "app", "__job_complete", passed))
        assert not any(d.matched for d in fine.decisions)
        (alarm,) = await running.rows(
            "SELECT event->'payload' AS payload FROM execution_runs WHERE workflow_name = 'alarm'"
        )
        assert alarm["payload"] == {"lifecycleEvent": "job_failed", **failed}


async def test_a_loop_through_completions_trips(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-100: completions inherit their run's depth; at the limit the event is dropped and counted."""
    async with ingress_on(orchestrator_db, event_policy=EventPolicy(max_chain_depth=4)) as running:
        await watched(running, tmp_path, "app", workflow("again", WorkflowCompleteTrigger()))
        payload = {"workflowName": "again", "status": "success"}
        for depth in range(4):
            view = await routed(
                running, await system_event(running, "app", "__workflow_complete", payload, depth=depth)
            )
            assert view.matched_count == 1
        depths = await running.rows("SELECT chain_depth FROM execution_runs ORDER BY id")
        assert [row["chain_depth"] for row in depths if row["chain_depth"]] == [1, 2, 3, 4]
        tripped = await routed(
            running, await system_event(running, "app", "__workflow_complete", payload, depth=4)
        )
        assert (tripped.matched_count, tripped.decisions) == (0, [])
        assert "look for a loop" in tripped.note
        shown = running.metrics.exposition().decode()
        assert 'kici_orch_events_dropped_total{reason="chain_depth"} 1.0' in shown


async def test_disabled_workflows_hear_nothing(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-75: new events stop matching at once, and the decision says why."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
        (listed,) = (await running.ingress.registrations.listing(ORG)).registrations
        await running.ingress.registrations.switch(ORG, listed.id, disabled=True)
        view = await routed(running, await emit(running, job_of(running, "app"), "e"))
        assert view.decisions[0].reason == "Event e from app, but the workflow is disabled"
        assert await runs(running) == []


async def test_an_operator_reaches_every_repository(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-90: an operator's own event belongs to no repository, so that trust is not asked."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("a", KiciEventTrigger(name="rollout")))
        await watched(running, tmp_path, "lib", workflow("b", KiciEventTrigger(name="rollout")))
        emitter = running.ingress.events.emitter
        new = NewEvent(
            org_id=ORG,
            name="rollout",
            payload={},
            origin="operator",
            source_repo=None,
            source_routing_key=None,
        )
        view = await routed(running, (await emitter.accept(new)).delivery_id)
        assert [(d.workflow_name, d.matched) for d in view.decisions] == [("a", True), ("b", True)]
        unheard = await routed(running, await emit(running, job_of(running, "app"), "nobody"))
        assert [d.matched for d in unheard.decisions] == [False, False]
        listed = await running.ingress.events.log.events(ORG, limit=1)
        assert (listed.events[0].event_name, listed.next_before) == ("nobody", unheard.event_id)
        rest = await running.ingress.events.log.events(ORG, before=listed.next_before)
        assert "rollout" in [event.event_name for event in rest.events]


def _glob(text: str) -> list[Pattern]:
    return [Pattern(type="glob", pattern=text)]
