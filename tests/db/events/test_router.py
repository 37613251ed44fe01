"""Leases, retries, dead letters and clean-up of internal events (OR-94…99, OR-102, seed 002)."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kici.orchestrator.events import queries
from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.events.queries import Fence, Finished
from kici.orchestrator.events.service import EventNotFound
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.runtime.database import text
from kici.spec.triggers import KiciEventTrigger, PushTrigger
from tests.db.events.scene import emit, job_of, routed, runs, watched, workflow
from tests.db.ingress.builders import ORG
from tests.db.ingress.running import Running, eventually, ingress_on
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

QUICK_SCAN = EventPolicy(retry_scan_interval_ms=20)
_BREAK = """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN IF NEW.workflow_name = 'bad' THEN RAISE 'no such run'; END IF; RETURN NEW; END $$"""
_ON_RUNS = "CREATE TRIGGER refuse BEFORE INSERT ON execution_runs FOR EACH ROW EXECUTE FUNCTION refuse()"


def metric(running: Running, line: str) -> float:
    for shown in running.metrics.exposition().decode().splitlines():
        if shown.startswith(f"{line} "):
            return float(shown.rsplit(" ", 1)[1])
    return 0.0


async def dead(running: Running, event_id: str) -> bool:
    return (await running.ingress.events.log.event(ORG, event_id)).status == "dead"


async def test_one_bad_workflow_ends_in_the_dead_letters_and_the_others_run_once(
    orchestrator_db: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OR-95, OR-97…99: retries, the DLQ with its log line and gauge, retry after the repair, discard."""
    async with ingress_on(orchestrator_db, event_policy=QUICK_SCAN) as running:
        await watched(
            running,
            tmp_path,
            "app",
            workflow("bad", KiciEventTrigger(name="e")),
            workflow("good", KiciEventTrigger(name="e")),
        )
        await running.execute(_BREAK)
        await running.execute(_ON_RUNS)
        log = running.ingress.events.log
        event_id = await emit(running, job_of(running, "app"), "e")
        await eventually(lambda: dead(running, event_id))
        assert await runs(running) == [("good", "kici_event")]
        (entry,) = (await log.dead(ORG)).events
        assert (entry.event_id, entry.event_name, entry.dlq_reason) == (event_id, "e", "exhausted_retries")
        assert (entry.attempts, entry.source_repo) == (3, "app")
        assert "no such run" in (entry.last_error or "")
        assert (await log.dead_count(ORG)).count == 1
        assert metric(running, 'kici_orch_event_dlq_total{event_name="e",reason="exhausted_retries"}') == 1
        assert metric(running, 'kici_orch_event_retry_total{event_name="e"}') == 2
        assert metric(running, "kici_orch_event_dlq_depth") == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "Event moved to DLQ" in line]
        assert f"eventId={event_id}" in line
        assert "eventName=e" in line
        assert "no such run" in line

        await running.execute("DROP TRIGGER refuse ON execution_runs")
        await log.retry(ORG, event_id, actor="ada")
        view = await routed(running, event_id)
        assert await runs(running) == [("good", "kici_event"), ("bad", "kici_event")]
        started = {
            row["workflow_name"]: row["id"]
            for row in await running.rows(
                "SELECT id, workflow_name FROM execution_runs WHERE trigger_event = 'kici_event'"
            )
        }
        assert {d.workflow_name: d.run_id for d in view.decisions} == started

        async def empty() -> bool:
            return metric(running, "kici_orch_event_dlq_depth") == 0

        await eventually(empty)
        with pytest.raises(EventNotFound):
            await log.retry(ORG, event_id, actor="ada")


async def test_a_dead_event_can_be_discarded(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-99: gone for good; a wrong id is not found."""
    async with ingress_on(
        orchestrator_db, event_policy=QUICK_SCAN, retry_policy=RetryPolicy(max_attempts=1)
    ) as running:
        await watched(running, tmp_path, "app", workflow("bad", KiciEventTrigger(name="e")))
        await running.execute(_BREAK)
        await running.execute(_ON_RUNS)
        log = running.ingress.events.log
        ids = [await emit(running, job_of(running, "app"), "e") for _ in range(3)]
        for event_id in ids:
            await eventually(lambda event_id=event_id: dead(running, event_id))
        page = await log.dead(ORG, limit=2)
        assert page.next_before is not None
        assert len(page.events) == 2
        assert len((await log.dead(ORG, before=page.next_before)).events) == 1
        await log.discard(ORG, ids[0], actor="ada")
        assert (await log.dead_count(ORG)).count == 2
        for wrong in (ids[0], "x", "01a1fdc8-8edc-71fa-a7cc-ef4cec4d3a0f"):
            with pytest.raises(EventNotFound):
                await log.discard(ORG, wrong, actor="ada")
        with pytest.raises(EventNotFound):
            await log.dead_one("org_other", ids[1])


async def test_what_cannot_be_helped_is_not_tried_again(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-95: a permanent error goes to the dead letters at once."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", PushTrigger()))
        await watched(running, tmp_path, "ops", workflow("v", KiciEventTrigger(name="e")))
        keys = {name: running.ingress.index.by_name(ORG, name) for name in ("app", "ops")}
        assert keys["app"] is not None
        assert keys["ops"] is not None
        await running.execute(
            """INSERT INTO cross_repo_trust (id, org_id, source_repo, source_routing_key, target_repo,
                   target_routing_key, allowed_events)
               VALUES (gen_random_uuid(), :org, 'app', :app, 'ops', :ops, '{"[z-a]"}')""",
            org=ORG,
            app=keys["app"].routing_key,
            ops=keys["ops"].routing_key,
        )
        event_id = await emit(running, job_of(running, "app"), "e")
        await eventually(lambda: dead(running, event_id))
        entry = await running.ingress.events.log.dead_one(ORG, event_id)
        assert (entry.dlq_reason, entry.attempts) == ("non_retryable", 1)


async def test_a_crashed_holder_is_noticed_and_its_late_writes_are_fenced(
    orchestrator_db: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """OR-94, OR-96: the lease is released, counted and logged with the dead holder; the other goes on."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
    async with ingress_on(orchestrator_db, worker=False, instance_id="two") as running:
        event_id = await emit(running, job_of(running, "app"), "e")
        async with running.db.engine.begin() as tx:
            leased, _ = await queries.lease(tx, claimed_by="dead/1", lease_ms=60_000, limit=10)
        assert [event.id for event, _ in leased] == [event_id]
        router = running.ingress.events.router
        await router.scan()
        assert not await router.route_page()  # the lease is still good
        await running.execute(
            "UPDATE kici_events SET claimed_at = now() - interval '61 s' WHERE NOT processed"
        )
        await router.scan()
        assert metric(running, "kici_orch_event_lease_expirations_total") == 1
        (line,) = [line for line in capsys.readouterr().out.splitlines() if "event.lease_expired" in line]
        assert f"eventId={event_id}" in line
        assert "claimedBy=dead/1" in line
        assert await router.route_page()
        view = await running.ingress.events.log.event(ORG, event_id)
        assert (view.status, view.attempts, view.matched_count) == ("processed", 2, 1)
        late = Fence(id=event_id, attempts=1)
        async with running.db.engine.begin() as tx:
            assert await queries.lock_ours(tx, [late], claimed_by="dead/1") == set()
            await queries.retry_later(tx, late, claimed_by="dead/1", error="late", delay_ms=1)
            assert not await queries.bury(
                tx, late, claimed_by="dead/1", error="late", reason="exhausted_retries"
            )
            nothing = Finished(id=event_id, attempts=1, decisions=[], note="late")
            await queries.finish(tx, [nothing], claimed_by="dead/1")
        assert await running.ingress.events.log.event(ORG, event_id) == view


async def test_a_lease_is_renewed_and_given_back(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-94, OR-261: renewing keeps it, an earlier life's claims are free at the next start."""
    async with ingress_on(orchestrator_db) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
    async with ingress_on(orchestrator_db, worker=False) as running:
        event_id = await emit(running, job_of(running, "app"), "e")
        async with running.db.engine.begin() as tx:
            await queries.lease(tx, claimed_by="one/old", lease_ms=60_000, limit=10)
        await running.execute(
            "UPDATE kici_events SET claimed_at = now() - interval '61 s' WHERE NOT processed"
        )
        async with running.db.engine.begin() as tx:
            await queries.renew(tx, [event_id], claimed_by="one/old")
        assert not await running.ingress.events.router.route_page()
    async with ingress_on(orchestrator_db) as running:
        assert (await routed(running, event_id)).matched_count == 1


async def test_work_that_outlasts_its_lease_stays_with_its_holder(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-94: what is being written is locked; nobody else takes it however long that lasts."""
    short = RetryPolicy(lease_ms=1_000)
    async with ingress_on(orchestrator_db, event_policy=QUICK_SCAN, retry_policy=short) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
        async with ingress_on(
            orchestrator_db, worker=False, instance_id="two", retry_policy=short
        ) as other:
            async with running.db.engine.begin() as tx:
                await tx.execute(text("LOCK TABLE execution_runs IN EXCLUSIVE MODE"))
                event_id = await emit(running, job_of(running, "app"), "e")

                async def overdue() -> bool:
                    return bool(
                        await running.rows(
                            "SELECT id FROM kici_events WHERE claimed_at < now() - interval '1100 ms'"
                        )
                    )

                await eventually(overdue)
                await other.ingress.events.router.scan()
                assert not await other.ingress.events.router.route_page()
            view = await routed(running, event_id)
        assert (view.matched_count, view.attempts) == (1, 1)
        assert metric(other, "kici_orch_event_lease_expirations_total") == 0


async def test_more_than_a_page_is_drained(orchestrator_db: Database, tmp_path: Path) -> None:
    """OR-102: all due rows, not only the first page; each starts its run once between two instances."""
    policy = EventPolicy(rate_limit_per_minute=1000)
    async with ingress_on(orchestrator_db, event_policy=policy) as running:
        await watched(running, tmp_path, "app", workflow("w", KiciEventTrigger(name="e")))
    async with ingress_on(orchestrator_db, worker=False, event_policy=policy) as running:
        job = job_of(running, "app")
        for _ in range(150):
            await emit(running, job, "e")
    async with (
        ingress_on(orchestrator_db, event_policy=policy) as running,
        ingress_on(orchestrator_db, event_policy=policy, instance_id="two"),
    ):

        async def drained() -> bool:
            (row,) = await running.rows("SELECT count(*) AS n FROM kici_events WHERE NOT processed")
            return row["n"] == 0

        await eventually(drained)
        assert len(await runs(running)) == 150


async def test_old_events_are_forgotten_but_not_dead_ones(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-98, OR-95: TTL removes what is done or too late; dead letters stay."""
    async with ingress_on(orchestrator_db, worker=False) as running:
        for name, processed, dead_at in (
            ("done", True, None),
            ("missed", False, None),
            ("dead", False, datetime(2026, 1, 1, tzinfo=UTC)),
        ):
            await running.execute(
                """INSERT INTO kici_events (id, org_id, event_name, payload, processed, dlq_at, expires_at)
                   VALUES (gen_random_uuid(), 'o', :name, '{}', :processed, :dead_at, now() - interval '1 s')""",
                name=name,
                processed=processed,
                dead_at=dead_at,
            )
        async with running.db.engine.begin() as tx:
            await queries.clean(tx, older_than=datetime(2000, 1, 1, tzinfo=UTC), limit=10)
        assert len(await running.rows("SELECT id FROM kici_events")) >= 1
        await running.execute("UPDATE kici_events SET id = CAST('0180' || substr(id::text, 5) AS uuid)")
        async with running.db.engine.begin() as tx:
            cutoff = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=7)
            assert await queries.clean(tx, older_than=cutoff, limit=10) == 2
        left = await running.rows("SELECT event_name FROM kici_events")
        assert [row["event_name"] for row in left] == ["dead"]


async def test_completions_that_nobody_waits_for_cost_the_router_nothing(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    """OR-92: written with the change, but as done, until a workflow of the organisation waits for them."""
    async with ingress_on(orchestrator_db) as running:
        broken = workflow("broken", PushTrigger())
        repo = await watched(running, tmp_path, "app", broken)
        (row,) = await running.rows("SELECT listens FROM registry_versions")
        assert row["listens"] == ["push"]
        await running.execute("DELETE FROM kici_events")
        repo.commit("Not a lock file", {".kici/kici.lock.json": "{"})
        await running.push("app", repo)
        await running.decided()
        (completion,) = await running.rows("SELECT event_name, processed, decisions FROM kici_events")
        assert completion == {"event_name": "__workflow_complete", "processed": True, "decisions": None}
        await running.execute("UPDATE registry_versions SET listens = '{workflow_complete}'")
        repo.commit("Still none", {".kici/kici.lock.json": "["})
        await running.push("app", repo)
        await running.decided()

        async def heard() -> bool:
            found = await running.rows(
                "SELECT id FROM kici_events WHERE processed AND decisions IS NOT NULL"
            )
            return len(found) == 1

        await eventually(heard)
