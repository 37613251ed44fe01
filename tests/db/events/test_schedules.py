"""Workflows that the clock starts (OR-110…113), and those that people start (OR-76, AU-83)."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kici.engine.inputs import InvalidInputs
from kici.orchestrator.registry.manual import NoSuchDispatch, TooManyStarts, WorkflowDisabled
from kici.orchestrator.registry.service import RegistrationNotFound
from kici.orchestrator.schedules.ticker import ScheduleTicker
from kici.protocol.dashboard_v1 import RegistrationView
from kici.protocol.platform_v1 import Actor
from kici.spec.triggers import DispatchTrigger, InputField, PushTrigger, ScheduleTrigger
from tests.db.events.scene import ManualClock, pushed, routed, runs, watched, workflow
from tests.db.ingress.builders import ORG
from tests.db.ingress.running import Running, ingress_on
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

MODE = InputField(name="mode", type="string", default="full", choices=["full", "quick"])
RETRIES = InputField(name="retries", type="integer", default=3, ge=0, le=10)
TARGET = InputField(name="target", type="string", required=True)
ADA = Actor(kind="user", id="u1", display_name="ada")


def at(iso: str) -> datetime:
    return datetime.fromisoformat(iso).replace(tzinfo=UTC)


async def registered(running: Running, name: str) -> RegistrationView:
    listing = await running.ingress.registrations.listing(ORG)
    return next(view for view in listing.registrations if view.workflow_name == name)


async def fires(running: Running) -> list[dict[str, str]]:
    found = await running.rows(
        "SELECT payload FROM kici_events WHERE event_name = '__schedule_fire' ORDER BY payload->>'scheduledAt'"
    )
    return [row["payload"] for row in found]


async def test_a_schedule_fires_at_its_time_and_starts_the_registered_commit(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-92, OR-111, OR-112, AU-83: never at registration, once at the time, with the defaults of its inputs."""
    clock = ManualClock("2026-03-01T02:59:00")
    async with ingress_on(orchestrator_db, clock=clock) as running:
        ticker = running.ingress.events.ticker
        nightly = workflow(
            "nightly", ScheduleTrigger(cron="0 3 * * *", inputs=[MODE, RETRIES]), PushTrigger(branches=[])
        )
        repo = await watched(running, tmp_path, "app", nightly)
        assert (await registered(running, "nightly")).next_fire_at == at("2026-03-01T03:00:00")
        assert await ticker.tick() == 0
        clock.set("2026-03-01T02:59:59")
        assert await ticker.tick() == 0
        clock.set("2026-03-01T03:00:02")
        assert await ticker.tick() == 1
        assert await ticker.tick() == 0
        (fire,) = await fires(running)
        assert fire["scheduledAt"] == "2026-03-01T03:00:00Z"
        assert (fire["cronExpression"], fire["timezone"], fire["workflowName"]) == (
            "0 3 * * *",
            "UTC",
            "nightly",
        )
        (event,) = await running.rows("SELECT id FROM kici_events WHERE event_name = '__schedule_fire'")
        view = await routed(running, event["id"])
        assert [(d.workflow_name, d.matched, d.reason) for d in view.decisions] == [
            ("nightly", True, "Schedule 0 3 * * * (UTC)")
        ]
        (run,) = await running.rows(
            "SELECT sha, branch, inputs, chain_depth, event FROM execution_runs WHERE trigger_event = 'schedule'"
        )
        assert (run["sha"], run["branch"]) == (repo.git("rev-parse", "main"), "main")
        assert run["inputs"] == {"mode": "full", "retries": 3}
        assert run["chain_depth"] == 0
        assert run["event"]["payload"] == fire
        assert (await registered(running, "nightly")).next_fire_at == at("2026-03-02T03:00:00")


async def test_two_instances_fire_a_time_once(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-111."""
    clock = ManualClock("2026-03-01T00:00:30")
    async with ingress_on(orchestrator_db, clock=clock) as running:
        many = [workflow(f"w{n:02}", ScheduleTrigger(cron="* * * * *")) for n in range(20)]
        await watched(running, tmp_path, "app", *many)
        tickers = [
            ScheduleTicker(running.db.engine, running.ingress.events.log._wakeups, clock) for _ in range(4)
        ]
        for minute in (1, 2, 3):
            clock.set(f"2026-03-01T00:0{minute}:01")
            fired = await asyncio.gather(*(ticker.tick() for ticker in tickers))
            # What another one held a moment ago is nobody's now.
            assert sum(fired) + await tickers[0].tick() == 20
        assert len(await fires(running)) == 60


async def test_after_a_time_away_it_fires_once(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-112: not once per time missed."""
    clock = ManualClock("2026-03-01T00:00:30")
    async with ingress_on(orchestrator_db, clock=clock) as running:
        await watched(running, tmp_path, "app", workflow("w", ScheduleTrigger(cron="*/10 * * * *")))
        clock.set("2026-03-03T12:34:00")
        ticker = running.ingress.events.ticker
        assert await ticker.tick() == 1
        assert await ticker.tick() == 0
        assert [fire["scheduledAt"] for fire in await fires(running)] == ["2026-03-01T00:10:00Z"]
        assert (await registered(running, "w")).next_fire_at == at("2026-03-03T12:40:00")


async def test_schedules_follow_their_registration(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-75, OR-110, OR-112: unchanged ones keep their time, changed and re-enabled ones begin now, broken ones
    say so."""
    clock = ManualClock("2026-03-01T00:00:30")
    async with ingress_on(orchestrator_db, clock=clock) as running:
        hourly, daily = ScheduleTrigger(cron="0 * * * *"), ScheduleTrigger(cron="0 5 * * *")
        repo = await watched(
            running,
            tmp_path,
            "app",
            workflow("kept", hourly),
            workflow("changed", daily),
            workflow("never", ScheduleTrigger(cron="0 0 31 2 *")),
            workflow("broken", ScheduleTrigger(cron="0 0 * * *", timezone="Mars/Base"), daily),
            workflow("gone", hourly),
        )
        never = await registered(running, "never")
        assert (never.next_fire_at, never.problem) == (None, None)
        broken = await registered(running, "broken")
        assert broken.problem is not None
        assert "Mars/Base" in broken.problem
        assert broken.next_fire_at == at("2026-03-01T05:00:00")
        # Due, and pushed again before anybody has looked: the time is not lost.
        clock.set("2026-03-01T01:00:01")
        repo.commit_lock(workflow("kept", hourly), workflow("changed", ScheduleTrigger(cron="30 * * * *")))
        await pushed(running, repo, "app")
        assert (await registered(running, "kept")).next_fire_at == at("2026-03-01T01:00:00")
        assert (await registered(running, "changed")).next_fire_at == at("2026-03-01T01:30:00")
        assert len(await running.rows("SELECT cron FROM schedules")) == 2
        kept = await registered(running, "kept")
        await running.ingress.registrations.switch(ORG, kept.id, disabled=True)
        assert (await registered(running, "kept")).next_fire_at is None
        ticker = running.ingress.events.ticker
        assert await ticker.tick() == 0
        clock.set("2026-03-01T04:10:00")
        await running.ingress.registrations.switch(ORG, kept.id, disabled=False)
        assert (await registered(running, "kept")).next_fire_at == at("2026-03-01T05:00:00")
        assert await ticker.tick() == 1  # the other one
        assert [fire["workflowName"] for fire in await fires(running)] == ["changed"]


async def test_run_now_resolves_inputs_and_says_who(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-54, OR-76, AU-83: dispatch triggers by `dispatch`, others by `manual_schedule`; 404, 409, 422."""
    async with ingress_on(orchestrator_db) as running:
        repo = await watched(
            running,
            tmp_path,
            "app",
            workflow(
                "deploy", PushTrigger(branches=[]), DispatchTrigger(types=["deploy"], inputs=[TARGET, MODE])
            ),
            workflow("nightly", ScheduleTrigger(cron="0 3 * * *", inputs=[RETRIES])),
            workflow("plain", PushTrigger()),
        )
        manual = running.ingress.manual
        deploy, nightly, plain = [
            (await registered(running, name)).id for name in ("deploy", "nightly", "plain")
        ]
        started = await manual.run_now(ORG, deploy, {"target": "prod"}, ADA)
        (run,) = await running.rows(
            """SELECT trigger_event, inputs, triggered_by, sha, event, trigger_decision->>'reason' AS reason
               FROM execution_runs WHERE id = :id""",
            id=started.new_run_id,
        )
        assert run["trigger_event"] == "dispatch"
        assert run["inputs"] == {"target": "prod", "mode": "full"}
        assert (run["triggered_by"], run["reason"]) == ("ada", "Started by ada")
        assert run["sha"] == repo.git("rev-parse", "main")
        assert run["event"]["action"] == "deploy"
        assert run["event"]["payload"]["client_payload"] == {"target": "prod", "mode": "full"}
        await manual.run_now(ORG, nightly, {"retries": "7"}, ADA)
        await manual.run_now(ORG, plain, {}, ADA)
        found = await running.rows(
            "SELECT workflow_name, trigger_event, inputs FROM execution_runs WHERE triggered_by = 'ada'"
            " AND delivery_id IS NULL ORDER BY id"
        )
        assert [(row["workflow_name"], row["trigger_event"], row["inputs"]) for row in found] == [
            ("deploy", "dispatch", {"target": "prod", "mode": "full"}),
            ("nightly", "manual_schedule", {"retries": 7}),
            ("plain", "manual_schedule", {}),
        ]
        told = await running.rows(
            "SELECT payload->>'triggeredBy' AS who FROM kici_events WHERE event_name = 'workflow.manual_schedule'"
        )
        assert [row["who"] for row in told] == ["ada"] * 3
        for bad in ({}, {"target": 5}, {"target": "x", "more": 1}, {"target": "x", "mode": "half"}):
            with pytest.raises(InvalidInputs):
                await manual.run_now(ORG, deploy, bad, ADA)
        with pytest.raises(InvalidInputs):
            await manual.run_now(ORG, plain, {"any": 1}, ADA)
        with pytest.raises(RegistrationNotFound):
            await manual.run_now("org_other", deploy, {"target": "x"}, ADA)
        await running.ingress.registrations.switch(ORG, plain, disabled=True)
        with pytest.raises(WorkflowDisabled):
            await manual.run_now(ORG, plain, {}, ADA)
        for _ in range(7):
            await manual.run_now(ORG, nightly, {}, ADA)
        with pytest.raises(TooManyStarts, match="try again in"):
            await manual.run_now(ORG, nightly, {}, ADA)
        await manual.run_now(ORG, nightly, {}, Actor(kind="user", id="u2"))


async def test_a_dispatch_starts_every_workflow_that_takes_its_type(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-54, AU-83: by type, with the inputs of each; nothing starts when one refuses its inputs."""
    async with ingress_on(orchestrator_db) as running:
        await watched(
            running,
            tmp_path,
            "app",
            workflow("typed", DispatchTrigger(types=["deploy"], inputs=[MODE])),
            workflow("free", DispatchTrigger()),
            workflow("other", DispatchTrigger(types=["test"])),
            workflow("pushes", PushTrigger()),
        )
        manual = running.ingress.manual
        done = await manual.dispatch(ORG, "app", "deploy", {"mode": "quick"}, ADA)
        assert len(done.runs) == 2
        assert [(d.workflow_name, d.matched) for d in done.decisions] == [
            ("free", True),
            ("other", False),
            ("typed", True),
        ]
        with pytest.raises(InvalidInputs, match="mode"):
            await manual.dispatch(ORG, "app", "deploy", {"mode": "x"}, ADA)
        with pytest.raises(NoSuchDispatch):
            await manual.dispatch(ORG, "nowhere", "deploy", {}, ADA)
        assert sorted(await runs(running)) == [("free", "dispatch"), ("typed", "dispatch")]
