"""Shared builds of dependencies: who gets a row, who builds, who waits, and what ends it (OR-136, OR-139, AG-69…74)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from sqlalchemy import event

from kici.orchestrator.runs.builds import Builds
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.request import Commit
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.sweeps import Sweeps
from kici.protocol.platform_v1 import Actor
from kici.protocol.runner_v1 import InitResult
from kici.runtime.clock import SystemClock
from kici.runtime.ids import uuid7
from kici.spec.lock import Concurrency, LabelMatcher, LockJob, LockWorkflow, Matrix
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import Held, Woken, execution, invariants, report
from tests.db.execution.rows import ORG
from tests.db.execution.starting import (
    ON_MAIN,
    Crew,
    asked,
    begin,
    begin_all,
    generator,
    job,
    job_rows,
    statuses,
    stored,
    told,
    told_of,
    workflow,
)
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

BUILD = "__build__ci"
ANN = Actor(kind="user", id="u1", display_name="Ann")
KEY = "cp311-x86_64-0123"


def needy(*jobs: LockJob, lockfile: str = "d" * 64, **more: Any) -> LockWorkflow:
    return stored(workflow(*(jobs or (job("a"), job("b", "a"))), **more), lockfile)


def packed(**more: Any) -> dict[str, Any]:
    return {"outputs": {"build": {"environment": KEY, **more}}}


async def keep(db: Database, key: str = KEY, state: str = "ready") -> None:
    """As the agent does before it reports."""
    async with db.engine.begin() as tx:
        await tx.exec_driver_sql(
            "INSERT INTO user_cache_entries (id, org_id, repo_identifier, scope, run_id, key, object_key, state,"
            f" size_bytes, sha256) VALUES ('{uuid7()}', '{ORG}', '', 'dependencies', '{uuid7()}', '{key}', 'x',"
            f" '{state}', 1, 'x')"
        )


async def built(db: Database, crew: Crew, **more: Any) -> Held:
    """The row is taken, and ends well."""
    held = await crew.start()
    assert held.job_name == BUILD
    await keep(db)
    assert await report(crew.ex, held.job(JobStatus.SUCCESS, **packed(**more))) == []
    return held


async def reason(db: Database, run_id: str) -> str | None:
    shown = [shown for shown in await told_of(db, run_id) if shown["jobName"] == BUILD]
    return shown[-1]["waitingReason"]


# ── planning ─────────────────────────────────────────────────────────────────────────────────────


async def test_everything_that_loads_author_code_waits_for_the_build(orchestrator_db: Database) -> None:
    """AG-67, AG-69, OR-136: its row is the first; outputs of it are nobody's business."""
    run = await begin(
        orchestrator_db,
        needy(
            job("a", dynamic_env=True, matrix=Matrix(values={"n": [1, 2]}), max_parallel=1),
            job("b", "a"),
            generator("more"),
            has_cleanup=True,
        ),
    )
    assert run.waits
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    assert await statuses(orchestrator_db, run.run_id) == {
        BUILD: "waiting",
        "__init__ci__a": "pending",
        "a (1)": "pending",
        "a (2)": "pending",
        "b": "pending",
        "__dynamic__ci__0": "pending",
        "__hooks__ci": "pending",
    }
    await invariants(orchestrator_db, [run.run_id])
    held = await crew.start()
    asked_of_agent = crew.sent[BUILD]
    assert (asked_of_agent.purpose, asked_of_agent.job.timeout) == ("build", 600_000)
    assert [step.name for step in asked_of_agent.job.steps] == ["build"]
    assert await crew.take() is None
    await keep(orchestrator_db)
    assert await report(crew.ex, held.job(JobStatus.SUCCESS, **packed())) == []
    order = await crew.work(
        {"__init__ci__a": {"init": InitResult(env={})}, "__dynamic__ci__0": {"generated": []}}
    )
    assert order[-1] == "__hooks__ci"
    assert crew.sent["b"].upstream_outputs == {}
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["job_count"], row["jobs_open"]) == ("success", 7, 0)
    assert (await told(orchestrator_db))[BUILD]["displayName"] == "Build: ci"


@pytest.mark.parametrize(("lockfile", "asked_for"), [(None, 0), ("d" * 64, 1)])
async def test_without_dependencies_there_is_no_row_and_no_statement(
    orchestrator_db: Database, lockfile: str | None, asked_for: int
) -> None:
    """AG-72: with them, one more."""
    counts: list[int] = []
    for lock in (workflow(job("a")), stored(workflow(job("a")), lockfile)):
        seen: list[str] = []

        def count(_connection: object, _cursor: object, statement: str, *_: Any, seen: Any = seen) -> None:
            seen.append(statement)

        event.listen(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
        run = await begin(orchestrator_db, lock)
        event.remove(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
        counts.append(len(seen))
    assert counts[1] - counts[0] == asked_for
    found = await statuses(orchestrator_db, run.run_id)
    assert found == ({BUILD: "waiting", "a": "pending"} if asked_for else {"a": "queued"})
    assert run.waits == bool(asked_for)


async def test_what_is_built_needs_no_row(orchestrator_db: Database) -> None:
    """AG-72, until it has gone from the cache (AG-75)."""
    await begin(orchestrator_db, needy())
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    await built(orchestrator_db, crew)
    again = await begin(orchestrator_db, needy())
    assert await statuses(orchestrator_db, again.run_id) == {"a": "queued", "b": "pending"}
    other = await begin(orchestrator_db, needy(lockfile="e" * 64))
    assert BUILD in await statuses(orchestrator_db, other.run_id)
    gpu = LabelMatcher(kind="exact", value="gpu")
    elsewhere = msgspec.structs.replace(job("a"), runs_on=[gpu])
    assert BUILD in await statuses(orchestrator_db, (await begin(orchestrator_db, needy(elsewhere))).run_id)
    async with orchestrator_db.engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE user_cache_entries SET state = 'doomed'")
    gone = await begin(orchestrator_db, needy())
    assert BUILD in await statuses(orchestrator_db, gone.run_id)


async def test_paths_in_the_lock_tie_a_build_to_its_commit(orchestrator_db: Database) -> None:
    """AG-73."""
    await begin(orchestrator_db, needy())
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    await built(orchestrator_db, crew, commit="0" * 40)
    same = await begin(orchestrator_db, needy())
    assert BUILD not in await statuses(orchestrator_db, same.run_id)
    commit = Commit(
        repo_identifier="acme/shop",
        repo_url="x",
        ref="refs/heads/main",
        branch="main",
        sha="1" * 40,
        message="",
    )
    other = await begin(orchestrator_db, needy(), commit=commit)
    assert BUILD in await statuses(orchestrator_db, other.run_id)


async def test_what_is_too_large_to_keep_is_not_built_again_and_again(orchestrator_db: Database) -> None:
    await begin(orchestrator_db, needy())
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    held = await crew.start()
    assert await report(crew.ex, held.job(JobStatus.SUCCESS, **packed(packed=False))) == []
    again = await begin(orchestrator_db, needy())
    assert BUILD not in await statuses(orchestrator_db, again.run_id)


async def test_a_run_of_which_nothing_would_run_builds_nothing(orchestrator_db: Database) -> None:
    """AG-72; and neither does a test run, whose tree is its own."""
    run = await begin(orchestrator_db, needy(job("a", rules=[ON_MAIN])), branch="dev")
    test = await begin(orchestrator_db, needy(), is_test_run=True)
    assert await statuses(orchestrator_db, run.run_id) == {"a": "skipped"}
    assert BUILD not in await statuses(orchestrator_db, test.run_id)


async def test_a_run_that_waits_for_its_place_does_not_build(orchestrator_db: Database) -> None:
    """OR-181: nor is its build queued by being let in."""
    lock = needy(job("a"), concurrency=Concurrency(group="deploy", cancel_in_progress=False))
    first, second = await begin(orchestrator_db, lock), await begin(orchestrator_db, needy_again(lock))
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    held = await crew.start()
    assert held.run_id == first.run_id
    assert await crew.take() is None
    assert await reason(orchestrator_db, second.run_id) == "Waiting for deploy (1 ahead)"
    assert await report(crew.ex, held.job(JobStatus.FAILED)) == []
    assert (await crew.start()).run_id == second.run_id
    await invariants(orchestrator_db, [first.run_id, second.run_id])


def needy_again(lock: LockWorkflow) -> LockWorkflow:
    """The same group, other dependencies."""
    return needy(*lock.jobs, lockfile="e" * 64, concurrency=lock.concurrency)


# ── coalescing ───────────────────────────────────────────────────────────────────────────────────


async def test_one_builds_and_the_others_say_for_whom_they_wait(orchestrator_db: Database) -> None:
    """OR-139: then all go on, and whoever waited is skipped."""
    ids = [(await begin(orchestrator_db, needy(job("a")))).run_id for _ in range(3)]
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    held = await crew.start()
    assert held.run_id == ids[0]
    assert await crew.take() is None
    for run_id in ids[1:]:
        told_reason = f"Waiting for the build of its dependencies by run {ids[0]}"
        assert await reason(orchestrator_db, run_id) == told_reason
    assert isinstance(crew.ex.wakeups, Woken)
    crew.ex.wakeups.taken()
    await keep(orchestrator_db)
    assert await report(crew.ex, held.job(JobStatus.SUCCESS, **packed())) == []
    assert "concurrency" in crew.ex.wakeups.taken()
    await crew.work()
    for run_id in ids:
        assert (await rows.run(orchestrator_db.engine, run_id))["status"] == "success"
    waited = (await job_rows(orchestrator_db, ids[1]))[BUILD]
    assert (waited["status"], waited["error_message"]) == ("skipped", f"Built by run {ids[0]}")
    await invariants(orchestrator_db, ids)


async def test_two_orchestrators_never_build_twice(orchestrator_db: Database) -> None:
    """OR-139: both look at once, again and again, and the index agrees."""
    batch = [asked(needy(job("a"))) for _ in range(4)]
    started = [*await begin_all(orchestrator_db, *batch[:2]), *await begin_all(orchestrator_db, *batch[2:])]
    services = [Builds(execution(orchestrator_db)) for _ in range(2)]
    for _ in range(3):
        await asyncio.gather(*(service.settle_all() for service in services))
        found = await rows.fetch(
            orchestrator_db.engine, "SELECT status FROM execution_jobs WHERE kind = 'build' ORDER BY id"
        )
        assert [row["status"] for row in found] == ["queued", "waiting", "waiting", "waiting"]
    await invariants(orchestrator_db, [run.run_id for run in started])


@pytest.mark.parametrize("ending", ["cancelled", "failed", "lost"])
async def test_whoever_waits_takes_over(orchestrator_db: Database, ending: str) -> None:
    """OR-139: the builder's run was cancelled, its build failed, its agent never came back."""
    ids = [(await begin(orchestrator_db, needy(job("a")))).run_id for _ in range(2)]
    ex = execution(orchestrator_db, max_job_attempts=1)
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    assert await crew.take() is None
    if ending == "cancelled":
        async with ex.change() as change:
            await cancel_runs(change, {ids[0]: Request(reason="not wanted")})
        assert await crew.take() is None  # it is being stopped, and may still end well
        assert await report(ex, held.job(JobStatus.CANCELLED)) == []
    elif ending == "failed":
        assert await report(ex, held.job(JobStatus.FAILED, error_message="no such package")) == []
    else:
        async with orchestrator_db.engine.begin() as tx:
            await tx.exec_driver_sql(
                "UPDATE execution_jobs SET last_heartbeat_at = now() - interval '1 hour',"
                f" started_at = now() - interval '1 hour' WHERE id = '{held.job_id}'"
            )
        await Sweeps(ex, lambda _agents: None).scan()
    taken = await built(orchestrator_db, crew)
    assert taken.run_id == ids[1]
    await crew.work()
    assert (await rows.run(orchestrator_db.engine, ids[1]))["status"] == "success"
    await invariants(orchestrator_db, ids)


async def test_who_waits_too_long_fails_and_says_for_whom(orchestrator_db: Database) -> None:
    """OR-139, OR-210: for a build whose agent cannot even say that its time is over."""
    ids = [(await begin(orchestrator_db, needy(job("a")))).run_id for _ in range(2)]
    ex = execution(orchestrator_db)
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    assert await crew.take() is None
    async with orchestrator_db.engine.begin() as tx:
        await tx.exec_driver_sql(
            f"UPDATE execution_jobs SET started_at = now() - interval '721 s' WHERE id = '{held.job_id}'"
        )
    await Builds(ex).settle_all()
    assert (await job_rows(orchestrator_db, ids[1]))[BUILD]["status"] == "waiting"  # it came just now
    async with orchestrator_db.engine.begin() as tx:
        await tx.exec_driver_sql("UPDATE execution_runs SET created_at = now() - interval '721 s'")
    await Builds(ex).settle_all()
    row = await rows.run(orchestrator_db.engine, ids[1])
    assert (row["status"], document(row["init_failure"])["category"]) == ("failed", "build_coordination")
    assert row["failure_reason"] == (
        f"Waited longer than 600000 ms for the build of its dependencies by run {ids[0]}"
    )
    assert (await statuses(orchestrator_db, ids[1]))["a"] == "skipped"


def document(value: Any) -> Mapping[str, Any]:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else value


# ── failure ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_failed_build_fails_its_run_in_the_installers_words(orchestrator_db: Database) -> None:
    """AG-69, OR-210: jobs are skipped, hooks of the failure run."""
    run = await begin(orchestrator_db, needy(has_on_failure=True))
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    said = "installing the workflow's dependencies failed: no such package"
    failing = {"state": JobStatus.FAILED, "error_message": said, "init_failure_category": "lock_resolution"}
    assert await crew.work({BUILD: failing}) == [BUILD, "__hooks__ci"]
    assert crew.sent["__hooks__ci"].run_outcome is not None
    assert crew.sent["__hooks__ci"].run_outcome.reason == said
    after = await job_rows(orchestrator_db, run.run_id)
    assert {name: row["status"] for name, row in after.items()} == {
        BUILD: "failed",
        "a": "skipped",
        "b": "skipped",
        "__hooks__ci": "success",
    }
    assert after["a"]["error_message"] == "upstream_unmet: __build__ci (failed)"
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["failure_reason"]) == ("failed", said)
    assert document(row["init_failure"]) == {
        "scope": "run",
        "category": "lock_resolution",
        "message": said,
        "jobName": None,
    }


async def test_only_what_failed_again_waits_for_its_turn(orchestrator_db: Database) -> None:
    """OR-207: a build that is copied is decided about like any other."""
    run = await begin(orchestrator_db, needy())
    ex = execution(orchestrator_db)
    crew = Crew(orchestrator_db, ex)
    await crew.work({BUILD: JobStatus.FAILED})
    rival = await begin(orchestrator_db, needy())
    held = await crew.start()
    assert held.run_id == rival.run_id
    service = RunService(ex, SystemClock(), cluster_name="test")
    new = await service.rerun(run.run_id, ANN, mode="failed")
    assert (await statuses(orchestrator_db, new.new_run_id))[BUILD] == "waiting"
    await keep(orchestrator_db)
    assert await report(ex, held.job(JobStatus.SUCCESS, **packed())) == []
    await crew.work()
    assert await statuses(orchestrator_db, new.new_run_id) == {
        BUILD: "skipped",
        "a": "success",
        "b": "success",
    }


async def test_a_rerun_knows_of_its_dependencies(orchestrator_db: Database) -> None:
    """OR-205: the stored lock entry has what its file said."""
    run = await begin(orchestrator_db, needy())
    ex = execution(orchestrator_db)
    crew = Crew(orchestrator_db, ex)
    await crew.work({BUILD: JobStatus.FAILED})
    new = await RunService(ex, SystemClock(), cluster_name="test").rerun(run.run_id, ANN)
    assert await statuses(orchestrator_db, new.new_run_id) == {
        BUILD: "waiting",
        "a": "pending",
        "b": "pending",
    }
