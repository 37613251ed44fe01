"""A run begins whole, once, and says so to everybody in the same transaction (OR-6, OR-35, OR-130)."""

import asyncio
from typing import Any

import msgspec
import pytest

from kici.orchestrator.runs.start import StartedRun, StartPolicy, plan_workflow, start_runs
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.database import text
from kici.spec.events import Event
from kici.spec.lock import LabelMatcher, LockJob, Matrix, Need
from tests.db.ingress.builders import ORG, SOURCE, lock_job, lock_workflow, planned, request
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

ANY = StartPolicy()


async def start(db: Database, *requests: Any, policy: StartPolicy = ANY) -> list[StartedRun]:
    async with db.engine.begin() as tx:
        return await start_runs(tx, requests, policy)


async def rows(db: Database, sql: str, **values: Any) -> list[dict[str, Any]]:
    async with db.engine.connect() as tx:
        return [dict(row) for row in (await tx.execute(text(sql), values)).mappings()]


async def test_a_run_with_its_jobs_and_edges(orchestrator_db: Database) -> None:
    workflow = planned(
        "ci",
        lock_job("lint", labels=("Linux", "kici:os:linux")),
        lock_job("test", "lint", matrix=Matrix(values={"python": ["3.11", "3.12"]}), timeout=60_000),
        lock_job("ship", "test"),
        timeout=3_600_000,
    )
    (run,) = await start(orchestrator_db, request(workflow))
    assert run.created
    (row,) = await rows(orchestrator_db, "SELECT *, deadline_at - created_at AS budget FROM execution_runs")
    assert row["id"] == run.run_id
    assert (row["status"], row["job_count"], row["jobs_open"]) == ("queued", 4, 4)
    assert (row["workflow_file"], row["workflow_export"]) == (".kici/workflows/ci.py", "ci")
    assert (row["sdk_version"], row["compile_schema_version"]) == ("0.1.0", 1)
    assert row["budget"].total_seconds() == 3600
    jobs = await rows(
        orchestrator_db,
        """SELECT job_name, base_job_name, position, variant_kind, variant_label, matrix_values, status,
               needs_pending, runs_on, timeout_ms, attempt, ready_at IS NOT NULL AS ready,
               queue_expires_at - ready_at AS patience
           FROM execution_jobs ORDER BY position, job_name""",
    )
    assert [(job["job_name"], job["status"], job["needs_pending"], job["position"]) for job in jobs] == [
        ("lint", "queued", 0, 0),
        ("test (3.11)", "pending", 1, 1),
        ("test (3.12)", "pending", 1, 1),
        ("ship", "pending", 2, 2),
    ]
    assert jobs[0]["runs_on"] == ["kici:os:linux", "linux"]
    assert jobs[0]["patience"].total_seconds() == 3600
    assert [job["ready"] for job in jobs] == [True, False, False, False]
    assert jobs[1]["base_job_name"] == "test"
    assert (jobs[1]["variant_kind"], jobs[1]["variant_label"]) == ("matrix", "python:3.11")
    assert jobs[1]["matrix_values"] == {"python": "3.11"}
    assert jobs[1]["timeout_ms"] == 60_000
    edges = await rows(
        orchestrator_db,
        """SELECT d.job_name AS down, u.job_name AS up, n.run_on FROM execution_job_needs n
           JOIN execution_jobs d ON d.id = n.job_id JOIN execution_jobs u ON u.id = n.upstream_job_id
           ORDER BY 1, 2""",
    )
    assert [(edge["down"], edge["up"], edge["run_on"]) for edge in edges] == [
        ("ship", "test (3.11)", ["success"]),
        ("ship", "test (3.12)", ["success"]),
        ("test (3.11)", "lint", ["success"]),
        ("test (3.12)", "lint", ["success"]),
    ]
    specs = await rows(
        orchestrator_db,
        "SELECT j.job_name, s.spec::text FROM execution_job_specs s JOIN execution_jobs j ON j.id = s.job_id",
    )
    decoded = {row["job_name"]: msgspec.json.decode(row["spec"], type=LockJob) for row in specs}
    assert len(decoded) == 4
    assert decoded["test (3.11)"] == workflow.lock.jobs[1]


async def test_others_are_told_in_the_same_transaction(orchestrator_db: Database) -> None:
    (run,) = await start(orchestrator_db, request(planned("ci", lock_job("a"), lock_job("b", "a"))))
    (out,) = await rows(orchestrator_db, "SELECT seq, topic, key, payload::text FROM outbox")
    assert (out["topic"], out["key"]) == ("platform", run.run_id)
    document = msgspec.json.decode(out["payload"])
    item = msgspec.convert({**document, "rev": out["seq"]}, ProjectionItem)
    assert item.run is not None
    assert item.run.run_id == run.run_id
    assert item.run.trigger_reason == "Push to main"
    assert item.run.has_payload is False
    assert [job.job_name for job in item.jobs] == ["a", "b"]
    assert item.jobs[1].needs[0].upstream_name == "a"
    assert [event.event_type for event in item.events] == ["orchestrator.dispatch"]


async def test_asked_twice_there_is_one_run(orchestrator_db: Database) -> None:
    """OR-35: processing a delivery again starts nothing again."""
    workflow = planned("ci", lock_job("a"))
    (first,) = await start(orchestrator_db, request(workflow))
    again, other = await start(orchestrator_db, request(workflow), request(workflow, key="d2"))
    assert not again.created
    assert again.run_id == first.run_id
    assert other.created
    counted = await rows(
        orchestrator_db,
        """SELECT (SELECT count(*) FROM execution_runs) AS runs, (SELECT count(*) FROM execution_jobs) AS jobs,
               (SELECT count(*) FROM execution_job_specs) AS specs, (SELECT count(*) FROM outbox) AS told,
               (SELECT count(*) FROM run_events) AS events""",
    )
    assert counted == [{"runs": 2, "jobs": 2, "specs": 2, "told": 2, "events": 2}]


async def test_the_same_request_twice_in_one_batch_is_one_run(orchestrator_db: Database) -> None:
    workflow = planned("ci", lock_job("a"))
    first, second = await start(orchestrator_db, request(workflow), request(workflow))
    assert first.run_id == second.run_id
    assert [first.created, second.created] == [True, False]


async def test_two_workers_at_once_start_one_run_each_key(orchestrator_db: Database) -> None:
    workflow = planned("ci", lock_job("a"))
    keys = [f"d{number}" for number in range(20)]
    results = await asyncio.gather(
        start(orchestrator_db, *(request(workflow, key=key) for key in keys)),
        start(orchestrator_db, *(request(workflow, key=key) for key in reversed(keys))),
    )
    forwards, backwards = results[0], list(reversed(results[1]))
    assert [run.run_id for run in forwards] == [run.run_id for run in backwards]
    assert all(a.created is not b.created for a, b in zip(forwards, backwards, strict=True))
    assert await rows(orchestrator_db, "SELECT count(*) AS n FROM execution_jobs") == [{"n": 20}]


async def test_a_rolled_back_start_leaves_nothing(orchestrator_db: Database) -> None:
    async with orchestrator_db.engine.connect() as tx:
        await start_runs(tx, [request(planned("ci", lock_job("a")))], ANY)
        await tx.rollback()
    assert await rows(
        orchestrator_db, "SELECT (SELECT count(*) FROM execution_runs) + (SELECT count(*) FROM outbox) AS n"
    ) == [{"n": 0}]


async def test_max_parallel_queues_only_the_first_children(orchestrator_db: Database) -> None:
    windowed = lock_job("t", matrix=Matrix(values={"n": [1, 2, 3]}), max_parallel=2, fail_fast=True)
    await start(orchestrator_db, request(planned("ci", windowed)))
    found = await rows(
        orchestrator_db, "SELECT job_name, status, fail_fast FROM execution_jobs ORDER BY job_name"
    )
    assert [(row["job_name"], row["status"], row["fail_fast"]) for row in found] == [
        ("t (1)", "queued", True),
        ("t (2)", "queued", True),
        ("t (3)", "pending", True),
    ]


async def test_label_patterns_are_kept_beside_the_exact_labels(orchestrator_db: Database) -> None:
    job = lock_job("a")
    job = msgspec.structs.replace(
        job,
        runs_on=[*job.runs_on, LabelMatcher(kind="regex", source="^gpu-")],
        exclude_labels=[LabelMatcher(kind="exact", value="Spot")],
        runs_on_pick="any",
    )
    await start(orchestrator_db, request(planned("ci", job)))
    (row,) = await rows(
        orchestrator_db, "SELECT runs_on, exclude_labels, runs_on_patterns, pick FROM execution_jobs"
    )
    assert row == {
        "runs_on": ["linux"],
        "exclude_labels": ["spot"],
        "runs_on_patterns": {"include": [{"kind": "regex", "source": "^gpu-"}]},
        "pick": "any",
    }


@pytest.mark.parametrize(
    ("jobs", "category", "message"),
    [
        ([lock_job("a", "b"), lock_job("b", "a")], "lock_resolution", "circle"),
        ([lock_job("a", "ghost")], "lock_resolution", "ghost"),
        ([lock_job("a", matrix=Matrix(values={"n": []}))], "matrix_expansion", "0 combinations"),
        ([], "lock_resolution", "no jobs"),
        ([lock_job("a", "x" * 9_000)], "lock_resolution", "characters left out)"),
    ],
)
async def test_a_workflow_that_cannot_run_is_a_failed_run_that_says_why(
    orchestrator_db: Database, jobs: list[LockJob], category: str, message: str
) -> None:
    """OR-133, OR-134, OR-210."""
    (run,) = await start(orchestrator_db, request(planned("ci", *jobs)))
    assert run.failure is not None
    (row,) = await rows(orchestrator_db, "SELECT * FROM execution_runs")
    assert (row["status"], row["jobs_open"], row["job_count"]) == ("failed", 0, 0)
    assert row["completed_at"] is not None
    assert row["init_failure"]["category"] == category
    assert row["init_failure"]["scope"] == "run"
    assert message in row["failure_reason"]
    (event,) = await rows(orchestrator_db, "SELECT event_name, payload, org_id FROM kici_events")
    assert event["event_name"] == "__workflow_complete"
    assert event["payload"]["runId"] == run.run_id
    assert event["payload"]["conclusion"] == "failed"


async def test_a_full_queue_refuses_whole_runs(orchestrator_db: Database) -> None:
    """OR-148."""
    policy = StartPolicy(queue_max_depth=2)
    workflow = planned("ci", lock_job("a"), lock_job("b"))
    await start(orchestrator_db, request(workflow, key="d1"), policy=policy)
    (run,) = await start(orchestrator_db, request(workflow, key="d2"), policy=policy)
    assert run.failure is not None
    assert "Queue full" in run.failure.message
    assert run.job_ids == []
    assert await rows(orchestrator_db, "SELECT count(*) AS n FROM execution_jobs") == [{"n": 2}]


async def test_characters_that_the_database_cannot_store_are_replaced(orchestrator_db: Database) -> None:
    event = Event(type="push", target_branch="main", payload={"text": "a\x00b", "path": "C:\\u0000"})
    await start(orchestrator_db, request(planned("ci", lock_job("a")), event=event))
    (row,) = await rows(orchestrator_db, "SELECT event->'payload' AS payload FROM execution_runs")
    assert row["payload"] == {"text": "a\ufffdb", "path": "C:\\u0000"}


async def test_starting_marks_the_registration_as_triggered(orchestrator_db: Database) -> None:
    """OR-74: a column, not a scan."""
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(
            text(
                """INSERT INTO workflow_registrations (id, org_id, routing_key, repo_identifier, workflow_name,
                       lock_entry, sdk_version, default_branch, trigger_types, commit_sha, pushed_at, source_file)
                   SELECT gen_random_uuid(), :org, :key, 'repo', name, '{}', '', 'main', '{}', '', now(), 'f'
                   FROM unnest(ARRAY['ci', 'other']) AS name"""
            ),
            {"org": ORG, "key": SOURCE.routing_key},
        )
    await start(orchestrator_db, request(planned("ci", lock_job("a"))))
    found = await rows(
        orchestrator_db,
        "SELECT workflow_name, last_triggered_at IS NOT NULL AS hit FROM workflow_registrations ORDER BY 1",
    )
    assert found == [{"workflow_name": "ci", "hit": True}, {"workflow_name": "other", "hit": False}]


def test_an_edge_keeps_the_statuses_that_satisfy_it() -> None:
    job = msgspec.structs.replace(lock_job("b"), needs=[Need(name="a", run_on=["success", "skipped"])])
    rows = plan_workflow(lock_workflow("ci", lock_job("a"), job), "1").jobs
    assert rows[1].planned.needs[0].run_on == ("skipped", "success")
    assert [row.starts_queued for row in rows] == [True, False]
