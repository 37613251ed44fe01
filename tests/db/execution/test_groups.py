"""Concurrency groups of runs and of jobs (OR-180, OR-181, AU-59)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import event

from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.groups import Groups
from kici.runtime.database import text
from kici.spec.lock import Concurrency, Inline, LockWorkflow, Matrix
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import Woken, execution, invariants, report
from tests.db.execution.starting import BROKEN, Crew, begin, job, job_rows, statuses, told_of, workflow
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

BY_REF = Inline(expression=["binary", "+", "deploy-", ["attr", ["arg"], "ref"]])


def grouped(*, cancel: bool = False, limit: int = 1, group: Any = "deploy", **more: Any) -> LockWorkflow:
    return workflow(
        job("a"),
        job("b", "a"),
        concurrency=Concurrency(group=group, cancel_in_progress=cancel, max=limit),
        **more,
    )


async def run_rows(db: Database, ids: Sequence[str]) -> list[dict[str, Any]]:
    return [await rows.run(db.engine, run_id) for run_id in ids]


async def slots(db: Database) -> list[dict[str, Any]]:
    return await rows.fetch(db.engine, "SELECT * FROM concurrency_slots ORDER BY seq")


async def test_runs_of_a_group_go_one_after_the_other(orchestrator_db: Database) -> None:
    """OR-181, AU-59: who waits is queued, says for whom, and holds no agent."""
    ex = execution(orchestrator_db)
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(3)]
    crew = Crew(orchestrator_db, ex)
    first = await crew.start()
    assert first.run_id == ids[0]
    assert await crew.take() is None
    found = await run_rows(orchestrator_db, ids)
    assert [row["status"] for row in found] == ["running", "queued", "queued"]
    assert [row["waiting_reason"] for row in found] == [
        None,
        "Waiting for deploy (1 ahead)",
        "Waiting for deploy (2 ahead)",
    ]
    assert await statuses(orchestrator_db, ids[1]) == {"a": "waiting", "b": "pending"}
    assert [row["agent_id"] for row in (await job_rows(orchestrator_db, ids[1])).values()] == [None, None]
    shown = [job for job in await told_of(orchestrator_db, ids[2]) if job["jobName"] == "a"]
    assert [job["waitingReason"] for job in shown][-1] == "Waiting for deploy (2 ahead)"
    assert await report(ex, first.job(JobStatus.SUCCESS)) == []
    assert (await crew.start()).run_id == ids[0]  # its own second job: the place is the run's
    await invariants(orchestrator_db, ids)


async def test_the_place_is_free_with_the_end_of_the_run(orchestrator_db: Database) -> None:
    """OR-181: the release is part of ending the run."""
    ex = execution(orchestrator_db)
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(2)]
    crew = Crew(orchestrator_db, ex)
    await crew.work(at_most=1)
    assert isinstance(ex.wakeups, Woken)
    ex.wakeups.taken()
    held = await crew.start()
    assert await report(ex, held.job(JobStatus.FAILED)) == []
    assert "concurrency" in ex.wakeups.taken()
    assert [row["run_id"] for row in await slots(orchestrator_db)] == ids[1:]
    assert (await crew.start()).run_id == ids[1]
    assert (await run_rows(orchestrator_db, ids))[1]["waiting_reason"] is None


async def test_as_many_as_the_group_allows(orchestrator_db: Database) -> None:
    """OR-180."""
    ids = [(await begin(orchestrator_db, grouped(limit=2))).run_id for _ in range(3)]
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    assert {(await crew.start()).run_id for _ in range(2)} == set(ids[:2])
    assert await crew.take() is None


async def test_groups_are_scoped_and_worked_out_by_pure_functions(orchestrator_db: Database) -> None:
    """OR-180, AU-41: another ref, another repository: another group."""
    lock = grouped(group=BY_REF)
    a = await begin(orchestrator_db, lock)
    b = await begin(orchestrator_db, lock, branch="dev")
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    assert {(await crew.start()).run_id, (await crew.start()).run_id} == {a.run_id, b.run_id}
    assert [row["group_name"] for row in await slots(orchestrator_db)] == [
        "deploy-refs/heads/main",
        "deploy-refs/heads/dev",
    ]


async def test_a_group_that_cannot_be_worked_out_fails_the_run(orchestrator_db: Database) -> None:
    """OR-180, AU-59."""
    run = await begin(orchestrator_db, grouped(group=BROKEN.inline))
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert row["status"] == "failed"
    assert row["failure_reason"].startswith("concurrency group failed: ")


async def test_a_newer_run_supersedes_the_older_and_begins_after_its_end(orchestrator_db: Database) -> None:
    """OR-181, AU-59: holders stop gracefully, who waited is dropped, and there is no overlap."""
    ex = execution(orchestrator_db)
    lock = grouped(cancel=True, has_on_cancel=True)
    ids = [(await begin(orchestrator_db, lock)).run_id]
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    ids += [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    assert await crew.take() is None
    found = await run_rows(orchestrator_db, ids)
    assert [row["status"] for row in found] == ["cancelling", "cancelled", "queued"]
    reason = "Superseded by run in concurrency group 'deploy'"
    assert [row["failure_reason"] for row in found] == [reason, reason, None]
    assert found[2]["waiting_reason"] == "Waiting for deploy (1 ahead)"
    assert (await job_rows(orchestrator_db, ids[0]))["a"]["cancel_force"] is False
    await Groups(ex).settle_all()  # looking again asks for nothing more
    assert (await job_rows(orchestrator_db, ids[0]))["a"]["cancel_force"] is False
    assert await report(ex, held.job(JobStatus.CANCELLED)) == []
    hooks = await crew.start()
    assert (hooks.job_name, hooks.run_id) == ("__hooks__ci", ids[0])
    assert await crew.take() is None  # the older one has not ended
    assert await report(ex, hooks.job(JobStatus.SUCCESS)) == []
    assert (await crew.start()).run_id == ids[2]
    assert [row["status"] for row in await run_rows(orchestrator_db, ids)] == [
        "cancelled",
        "cancelled",
        "running",
    ]
    await invariants(orchestrator_db, ids)


async def test_cancelling_a_run_gives_up_its_wish(orchestrator_db: Database) -> None:
    """OR-173."""
    ex = execution(orchestrator_db)
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(3)]
    crew = Crew(orchestrator_db, ex)
    await crew.start()
    async with ex.change() as change:
        await cancel_runs(change, {ids[1]: Request(reason="never mind", by="Ann")})
    assert await crew.take() is None
    found = await run_rows(orchestrator_db, ids)
    assert (found[1]["status"], found[2]["waiting_reason"]) == ("cancelled", "Waiting for deploy (1 ahead)")
    assert [row["run_id"] for row in await slots(orchestrator_db)] == [ids[0], ids[2]]


async def test_nobody_waits_for_ever(orchestrator_db: Database) -> None:
    """OR-181: KICI_CONCURRENCY_WAIT_TIMEOUT_MS."""
    ex = execution(orchestrator_db)
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(2)]
    crew = Crew(orchestrator_db, ex)
    await crew.start()
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(text("UPDATE concurrency_slots SET expires_at = now() - interval '1 s'"))
    assert await Groups(ex).settle_all() == 1
    (one, other) = await run_rows(orchestrator_db, ids)
    assert (one["status"], other["status"]) == ("running", "cancelled")
    assert other["failure_reason"].startswith("Waited longer than 1h for a place in")
    await invariants(orchestrator_db, ids)


async def test_the_clock_of_a_run_begins_with_its_place(orchestrator_db: Database) -> None:
    """OR-162: waiting is not running."""
    ex = execution(orchestrator_db)
    lock = grouped(timeout=60_000)
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    await Groups(ex).settle_all()
    found = await run_rows(orchestrator_db, ids)
    assert [row["deadline_at"] is not None for row in found] == [True, False]


async def test_jobs_of_a_group_go_one_after_the_other(orchestrator_db: Database) -> None:
    """AU-59: across runs; the rest of the run goes on."""
    ex = execution(orchestrator_db)
    lock = workflow(job("deploy", concurrency_group="prod"), job("test"))
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    crew = Crew(orchestrator_db, ex)
    held = [await crew.start() for _ in range(3)]
    assert sorted(each.job_name for each in held) == ["deploy", "test", "test"]
    assert await crew.take() is None
    waiting = (await job_rows(orchestrator_db, ids[1]))["deploy"]
    assert (waiting["status"], waiting["waiting_reason"]) == ("waiting", "Waiting for prod (1 ahead)")
    deploy = next(each for each in held if each.job_name == "deploy")
    assert await report(ex, deploy.job(JobStatus.FAILED)) == []
    again = await crew.start()
    assert (again.job_name, again.run_id) == ("deploy", ids[1])
    await invariants(orchestrator_db, ids)


async def test_a_job_that_needs_others_waits_for_its_place_when_it_is_ready(
    orchestrator_db: Database,
) -> None:
    """AU-59, OR-134: also as children of a matrix with a window."""
    ex = execution(orchestrator_db)
    run = await begin(
        orchestrator_db,
        workflow(
            job("build"),
            job(
                "deploy",
                "build",
                matrix=Matrix(values={"n": [1, 2, 3]}),
                max_parallel=2,
                concurrency_group="g",
            ),
        ),
    )
    assert await slots(orchestrator_db) == []
    crew = Crew(orchestrator_db, ex)
    await crew.work(at_most=1)
    held = await crew.start()
    assert await statuses(orchestrator_db, run.run_id) == {
        "build": "success",
        "deploy (1)": "running",
        "deploy (2)": "waiting",
        "deploy (3)": "pending",
    }
    assert await report(ex, held.job(JobStatus.SUCCESS)) == []
    assert await crew.work() == ["build", "deploy (1)", "deploy (2)", "deploy (3)"]
    assert await slots(orchestrator_db) == []
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "success"


async def test_the_place_of_the_run_comes_before_those_of_its_jobs(orchestrator_db: Database) -> None:
    """OR-181."""
    ex = execution(orchestrator_db)
    lock = workflow(
        job("deploy", concurrency_group="prod"),
        concurrency=Concurrency(group="ci", cancel_in_progress=False),
    )
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    assert [(row["scope"], row["run_id"]) for row in await slots(orchestrator_db)] == [
        ("run", ids[0]),
        ("run", ids[1]),
        ("job", ids[0]),
    ]
    assert await report(ex, held.job(JobStatus.SUCCESS)) == []
    assert (await crew.start()).run_id == ids[1]


async def test_a_job_that_waited_too_long_is_cancelled(orchestrator_db: Database) -> None:
    ex = execution(orchestrator_db)
    lock = workflow(job("deploy", concurrency_group="prod"))
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    await Crew(orchestrator_db, ex).start()
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(text("UPDATE concurrency_slots SET expires_at = now() - interval '1 s'"))
    await Groups(ex).settle_all()
    assert [row["status"] for row in await run_rows(orchestrator_db, ids)] == ["running", "cancelled"]


async def test_groups_at_rest_are_left_alone(orchestrator_db: Database) -> None:
    """A sweep over groups in which nothing can move is one statement, however many there are."""
    ex = execution(orchestrator_db)
    for name in ("a", "b"):
        for _ in range(3):
            await begin(orchestrator_db, grouped(group=name, cancel=name == "b"))
    groups = Groups(ex)
    while await groups.settle_all():
        pass
    await groups.settle_all()
    asked: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        asked.append(statement)

    event.listen(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
    assert await groups.settle_all() == 0
    event.remove(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
    assert len(asked) == 1


async def test_two_processes_admit_one(orchestrator_db: Database) -> None:
    """OR-181: decisions are made under a lock per group."""
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(4)]
    processes = [Groups(execution(orchestrator_db)) for _ in range(4)]
    moved = await asyncio.gather(*(each.settle_all() for each in processes))
    assert sum(moved) == 1
    assert [row["blocked"] for row in await run_rows(orchestrator_db, ids)] == [False, True, True, True]


async def test_what_a_hand_left_behind_is_repaired(orchestrator_db: Database) -> None:
    """OR-181: slots of ended runs are freed, and who has lost its wish asks again."""
    ex = execution(orchestrator_db)
    ids = [(await begin(orchestrator_db, grouped())).run_id for _ in range(3)]
    crew = Crew(orchestrator_db, ex)
    await crew.start()
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(text("DELETE FROM concurrency_slots WHERE run_id = :id"), {"id": ids[2]})
        await tx.execute(
            text("""
                UPDATE execution_jobs SET status = 'cancelled', completed_at = now() WHERE run_id = :id
            """),
            {"id": ids[0]},
        )
        await tx.execute(
            text("""
                UPDATE execution_runs SET status = 'cancelled', completed_at = now(), jobs_open = 0 WHERE id = :id
            """),
            {"id": ids[0]},
        )
    groups = Groups(ex)
    assert await groups.repair() == 2
    assert await groups.repair() == 0
    assert [row["run_id"] for row in await slots(orchestrator_db)] == ids[1:]
    assert (await crew.start()).run_id == ids[1]
