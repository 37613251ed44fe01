"""What others are told: documents that decode as the public Structs, parts that changed and no others."""

import itertools

import msgspec
import pytest

from kici.engine.transitions import display_status
from kici.orchestrator.runs.projection import RUN_DOCUMENT, snapshot
from kici.orchestrator.runs.reasons import WaitingReasons
from kici.protocol.dashboard_v1 import NeedView, RunProjection
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from kici.spec.states import RUN_TERMINAL, RunStatus
from tests.db.execution import rows
from tests.db.execution.acting import dispatch, execution
from tests.db.execution.rows import Job
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


async def _items(db: Database) -> list[ProjectionItem]:
    found = await rows.fetch(db.engine, "SELECT seq, payload::text AS payload FROM outbox ORDER BY seq")
    return [
        msgspec.convert(
            {"rev": row["seq"], **msgspec.json.decode(row["payload"])}, ProjectionItem, strict=True
        )
        for row in found
    ]


async def _project(db: Database, run: rows.Run) -> ProjectionItem:
    async with db.engine.begin() as tx:
        assert await snapshot(tx, [run.id], job_ids=run.ids) == 1
    return (await _items(db))[-1]


async def test_a_new_run_is_told_with_all_its_jobs_in_workflow_order(orchestrator_db: Database) -> None:
    """OR-245."""
    run = await rows.add_run(
        orchestrator_db.engine,
        [
            Job("build"),
            Job("test", needs=[("build", "on-success")], children=2),
            Job("report", needs=[("test", "always")]),
        ],
    )
    item = await _project(orchestrator_db, run)
    assert item.run_id == run.id
    assert item.run is not None
    assert item.run.status == item.run.display_status == "queued"
    assert item.run.trigger_reason == "push to main"
    assert item.run.source.name == "shop"
    assert item.run.job_count == 4
    assert [job.job_name for job in item.jobs] == ["build", "test (0)", "test (1)", "report"]
    assert item.jobs[1].matrix_values == {"value": 0}
    assert item.jobs[1].needs == [NeedView(upstream_name="build", run_on=["success"])]
    assert [need.upstream_name for need in item.jobs[3].needs] == ["test"]  # children count as one
    assert item.jobs[1].waiting_reason == "Waits for build"
    assert item.jobs[3].waiting_reason == "Waits for test"
    assert item.jobs[0].runs_on_labels == ["kici:os:linux"]
    assert item.steps == []
    assert item.events == []


async def test_only_named_parts_are_told_one_row_per_run(orchestrator_db: Database) -> None:
    """PD-33."""
    one, two = [await rows.add_run(orchestrator_db.engine) for _ in range(2)]
    event = uuid7()
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(
            text("""
                INSERT INTO execution_steps (job_id, attempt, step_index, run_id, step_name, step_type, status)
                SELECT :job, 1, i, :run, 'work', 'step', 'running' FROM generate_series(0, 2) i
            """),
            {"job": one["build"], "run": one.id},
        )
        await tx.execute(
            text("""
                INSERT INTO run_events (id, run_id, event_type, source_service, at, metadata)
                VALUES (:id, :run, 'agent.clone.start', 'agent', to_timestamp(1700000000.123), '{"k": 1}')
            """),
            {"id": event, "run": two.id},
        )
        written = await snapshot(
            tx,
            job_ids=[one["build"]],
            steps=[(one["build"], 1, 2), (one["build"], 1, 0)],
            event_ids=[event],
        )
    assert written == 2
    first, second = await _items(orchestrator_db)
    assert (first.run, [job.job_id for job in first.jobs]) == (None, [one["build"]])
    assert [step.step_index for step in first.steps] == [0, 2]
    assert (second.run, second.jobs, second.steps) == (None, [], [])
    assert second.events[0].timestamp_ms == 1_700_000_000_123
    assert second.events[0].metadata == {"k": 1}
    async with orchestrator_db.engine.begin() as tx:
        assert await snapshot(tx) == 0
        assert await snapshot(tx, [uuid7()]) == 0


async def test_a_queued_job_says_why_it_waits(orchestrator_db: Database) -> None:
    """OR-245."""
    engine = orchestrator_db.engine

    async def reason(job: Job) -> str | None:
        return (await _project(orchestrator_db, await rows.add_run(engine, [job]))).jobs[0].waiting_reason

    assert await reason(Job("a")) == "No agent is connected (wanted: kici:os:linux)"
    assert await reason(Job("b", runs_on=())) == "No agent is connected (wanted: any agent)"
    await rows.add_agent(engine, labels=["kici:os:linux", "spot"])
    assert await reason(Job("c", runs_on=["gpu", "x"])) == "No connected agent fits: gpu, x"
    assert await reason(Job("d", exclude=["spot"])) == "No connected agent fits: kici:os:linux, not spot"
    assert await reason(Job("e")) == "Queued behind 4"
    assert await reason(Job("f", priority=1)) == "Next in line for an agent"
    windowed = await _project(
        orchestrator_db, await rows.add_run(engine, [Job("m", children=3, max_parallel=2)])
    )
    assert [job.waiting_reason for job in windowed.jobs][
        2
    ] == "Waits for a place: at most 2 of m run at once"


async def test_display_status_in_sql_is_the_engines(orchestrator_db: Database) -> None:
    """OR-123, PD-101."""
    cases = list(itertools.product(RunStatus, [None, "job_timeout"], [False, True]))
    for status, timeout_reason, failed_early in cases:
        run = await rows.add_run(orchestrator_db.engine)
        async with orchestrator_db.engine.begin() as tx:
            document = await tx.scalar(
                text(f"""
                    WITH r AS (UPDATE execution_runs SET status = :status, timeout_reason = :reason,
                        init_failure = CAST(:failure AS jsonb),
                        completed_at = CASE WHEN :ended THEN now() END WHERE id = :id RETURNING *)
                    SELECT to_jsonb(doc)::text FROM r CROSS JOIN LATERAL ({RUN_DOCUMENT}) doc
                """),
                {
                    "status": status,
                    "reason": timeout_reason,
                    "failure": '{"scope":"run","category":"no_agent","message":"none","jobName":null}'
                    if failed_early
                    else None,
                    "ended": status in RUN_TERMINAL,
                    "id": run.id,
                },
            )
        shown = msgspec.json.decode(document, type=RunProjection)
        assert shown.display_status == display_status(
            status, timeout_reason=timeout_reason, has_init_failure=failed_early
        )
        assert (shown.init_failure is not None) == failed_early


async def test_a_reason_that_changed_is_told_again_and_no_other(orchestrator_db: Database) -> None:
    """The dashboard shows why a job waits now, not why it waited when it was queued (OR-245)."""
    engine = orchestrator_db.engine
    ex = execution(orchestrator_db)
    reasons = WaitingReasons(ex, settled_s=0)
    first, second = [await rows.add_run(engine, [Job(name)]) for name in ("first", "second")]
    assert await reasons.refresh() == 2
    assert await reasons.refresh() == 0
    agent = await rows.add_agent(engine)
    assert await reasons.refresh() == 2
    told = {job.job_id: job.waiting_reason for item in await _items(orchestrator_db) for job in item.jobs}
    assert told == {first["first"]: "Next in line for an agent", second["second"]: "Queued behind 1"}
    await dispatch(orchestrator_db, agent)
    assert await reasons.refresh() == 1
    assert (await _items(orchestrator_db))[-1].jobs[0].waiting_reason == "Next in line for an agent"
    assert await WaitingReasons(ex).refresh() == 0  # it has not waited long enough to be worth a row
