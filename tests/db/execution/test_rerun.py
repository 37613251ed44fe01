"""Runs that begin again, and branches that are called off (OR-174, OR-205…207)."""

import pytest

from kici.orchestrator.runs.rerun import LockGone, NotRerunnable, RerunTooSoon
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.views import RunNotFound
from kici.protocol.platform_v1 import Actor
from kici.protocol.runner_v1 import InitResult
from kici.runtime.clock import SystemClock
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from kici.spec.errors import InvalidInput
from kici.spec.lock import Concurrency, Matrix, Need
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import execution, invariants
from tests.db.execution.starting import (
    ON_MAIN,
    Crew,
    begin,
    completions,
    generator,
    job,
    job_rows,
    statuses,
    workflow,
)
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

ANN = Actor(kind="user", id="u1", display_name="Ann")


def service(db: Database) -> RunService:
    return RunService(execution(db), SystemClock(), cluster_name="test")


async def later(db: Database) -> None:
    """The cooldown is over."""
    async with db.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_runs SET created_at = created_at - interval '6 s'"))


async def test_a_run_begins_again_with_the_same_commit_and_event(orchestrator_db: Database) -> None:
    """OR-205."""
    lock = workflow(job("a", rules=[ON_MAIN]), job("b", "a"), timeout=60_000)
    first = await begin(orchestrator_db, lock, inputs={"level": 3}, chain_depth=2, inbox_id=uuid7())
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    await crew.work()
    new = await service(orchestrator_db).rerun(first.run_id, ANN)
    old_row = await rows.run(orchestrator_db.engine, first.run_id)
    row = await rows.run(orchestrator_db.engine, new.new_run_id)
    same = (
        "sha",
        "ref",
        "branch",
        "event",
        "inputs",
        "chain_depth",
        "inbox_id",
        "routing_key",
        "content_hash",
    )
    assert {name: row[name] for name in same} == {name: old_row[name] for name in same}
    assert (row["parent_run_id"], row["original_run_id"]) == (first.run_id, first.run_id)
    assert (row["triggered_by"], row["trigger_event"], row["status"]) == ("Ann", "rerun", "queued")
    await crew.work()
    assert (await rows.run(orchestrator_db.engine, new.new_run_id))["status"] == "success"
    await later(orchestrator_db)
    third = await service(orchestrator_db).rerun(new.new_run_id, ANN)
    row = await rows.run(orchestrator_db.engine, third.new_run_id)
    assert (row["parent_run_id"], row["original_run_id"]) == (new.new_run_id, first.run_id)
    told = [event for event in await completions(orchestrator_db) if event["event"] == "workflow.rerun"]
    assert [(event["parentRunId"], event["mode"]) for event in told] == [
        (first.run_id, "all"),
        (new.new_run_id, "all"),
    ]


async def test_what_cannot_begin_again_says_why(orchestrator_db: Database) -> None:
    """OR-206."""
    runs = service(orchestrator_db)
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    with pytest.raises(RunNotFound):
        await runs.rerun(uuid7(), ANN)
    open_run = await begin(orchestrator_db, workflow(job("a")))
    with pytest.raises(NotRerunnable, match="has not ended"):
        await runs.rerun(open_run.run_id, ANN)
    with pytest.raises(RunNotFound):
        await runs.rerun(open_run.run_id, ANN, org_id="org_other")
    await crew.work()
    with pytest.raises(NotRerunnable, match="no job of this run has failed"):
        await runs.rerun(open_run.run_id, ANN, mode="failed")
    await runs.rerun(open_run.run_id, ANN)
    with pytest.raises(RerunTooSoon):
        await runs.rerun(open_run.run_id, ANN)
    await later(orchestrator_db)
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(text("DELETE FROM workflow_locks"))
    with pytest.raises(LockGone):
        await runs.rerun(open_run.run_id, ANN)
    test = await begin(orchestrator_db, workflow(job("a")), is_test_run=True)
    await crew.work()
    with pytest.raises(NotRerunnable, match="working tree"):
        await runs.rerun(test.run_id, ANN)


async def test_a_run_that_failed_before_its_first_job_begins_again(orchestrator_db: Database) -> None:
    """OR-205: both modes are the same then."""
    first = await begin(orchestrator_db, workflow(job("a"), rules=[ON_MAIN]), branch="dev")
    new = await service(orchestrator_db).rerun(first.run_id, ANN, mode="failed")
    assert (await rows.run(orchestrator_db.engine, new.new_run_id))["status"] == "skipped"


async def test_only_what_failed_begins_again(orchestrator_db: Database) -> None:
    """OR-207: what succeeded is carried over with its outputs, and agents see no difference."""
    outputs = {"only": {"v": 1}}
    first = await begin(
        orchestrator_db,
        workflow(
            job("build"),
            job("lint", "build"),
            job("test", "build", matrix=Matrix(values={"n": [1, 2]})),
            job("ship", "test", "lint"),
            job("never", rules=[ON_MAIN]),
            has_on_failure=True,
        ),
        branch="dev",
    )
    ex = execution(orchestrator_db)
    await Crew(orchestrator_db, ex).work({"build": {"outputs": outputs}, "test (2)": JobStatus.FAILED})
    new = await service(orchestrator_db).rerun(first.run_id, ANN, mode="failed")
    assert await statuses(orchestrator_db, new.new_run_id) == {
        "build": "success",
        "lint": "success",
        "test (1)": "success",
        "test (2)": "queued",
        "ship": "pending",
        "never": "skipped",
        "__hooks__ci": "pending",
    }
    await invariants(orchestrator_db, [new.new_run_id])
    crew = Crew(orchestrator_db, ex)
    assert await crew.work() == ["test (2)", "ship"]
    assert crew.sent["test (2)"].upstream_outputs == {"build": outputs}
    assert crew.sent["ship"].upstream_groups == {"test": ["test (1)", "test (2)"]}
    row = await rows.run(orchestrator_db.engine, new.new_run_id)
    assert (row["status"], row["jobs_open"], row["parent_run_id"]) == ("success", 0, first.run_id)


async def test_a_job_with_secret_outputs_is_not_carried_over(orchestrator_db: Database) -> None:
    """OR-207, AG-52: they were sealed for the run that has ended."""
    first = await begin(orchestrator_db, workflow(job("token"), job("use", "token")))
    ex = execution(orchestrator_db)
    ends = {"token": {"secret_outputs": {"T": "c2VhbGVk"}}, "use": JobStatus.FAILED}
    await Crew(orchestrator_db, ex).work(ends)
    assert (await job_rows(orchestrator_db, first.run_id))["token"]["secret_output_keys"] == ["T"]
    new = await service(orchestrator_db).rerun(first.run_id, ANN, mode="failed")
    assert await statuses(orchestrator_db, new.new_run_id) == {"token": "queued", "use": "pending"}


async def test_generated_jobs_and_runtime_children_are_carried_over(orchestrator_db: Database) -> None:
    """OR-207, AU-44: a generator runs once."""
    first = await begin(
        orchestrator_db,
        workflow(
            generator("g"),
            job("t", matrix=Matrix(type="dynamic"), max_parallel=1),
            job("end", Need(group="g", run_on=["success"])),
        ),
    )
    ex = execution(orchestrator_db)
    await Crew(orchestrator_db, ex).work(
        {
            "__dynamic__ci__0": {"generated": [job("x"), job("y", "x")]},
            "__init__ci__t": {"init": InitResult(matrix={"n": [1, 2, 3]})},
            "y": JobStatus.FAILED,
            "t (1)": JobStatus.FAILED,
            "t (3)": JobStatus.FAILED,
        }
    )
    new = await service(orchestrator_db).rerun(first.run_id, ANN, mode="failed")
    await invariants(orchestrator_db, [new.new_run_id])
    assert sorted(await Crew(orchestrator_db, ex).work()) == ["end", "t (1)", "t (3)", "y"]
    assert (await rows.run(orchestrator_db.engine, new.new_run_id))["status"] == "success"


async def test_a_rerun_waits_in_its_group_like_any_other(orchestrator_db: Database) -> None:
    """OR-205, OR-181."""
    lock = workflow(job("a"), job("b"), concurrency=Concurrency(group="deploy", cancel_in_progress=False))
    ex = execution(orchestrator_db)
    first = await begin(orchestrator_db, lock)
    await Crew(orchestrator_db, ex).work({"b": JobStatus.FAILED})
    await begin(orchestrator_db, lock)
    crew = Crew(orchestrator_db, ex)
    await crew.start()
    new = await service(orchestrator_db).rerun(first.run_id, ANN, mode="failed")
    assert await statuses(orchestrator_db, new.new_run_id) == {"a": "success", "b": "waiting"}
    await crew.start()
    assert await crew.take() is None


async def test_a_branch_is_called_off(orchestrator_db: Database) -> None:
    """OR-174."""
    runs = service(orchestrator_db)
    lock = workflow(job("a"))
    ids = [(await begin(orchestrator_db, lock, branch="dev")).run_id for _ in range(3)]
    other = await begin(orchestrator_db, lock)
    held = await Crew(orchestrator_db, execution(orchestrator_db)).start()
    assert held.run_id == ids[0]
    found = await runs.cancel_branch("dev", ANN, org_id=rows.ORG)
    assert found.cancelled_runs == 3
    after = [(await rows.run(orchestrator_db.engine, run_id))["status"] for run_id in [*ids, other.run_id]]
    assert after == ["cancelling", "cancelled", "cancelled", "queued"]
    again = await runs.cancel_branch("dev", ANN, org_id=rows.ORG)
    assert again.cancelled_runs == 0
    row = await rows.job(orchestrator_db.engine, held.job_id)
    assert (row["status"], row["cancel_force"]) == ("cancelling", False)
    assert (await runs.cancel_branch("main", ANN, org_id="org_other")).cancelled_runs == 0
    with pytest.raises(InvalidInput):
        await runs.cancel_branch("", ANN, org_id=rows.ORG)
