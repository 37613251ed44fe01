"""A process may die between any two statements: then nothing of the transaction is there, and doing it again
does all of it (OR-4, OR-130, OR-136, OR-181)."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from sqlalchemy import event

from kici.orchestrator.runs.builds import Builds
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.service import RunService
from kici.protocol.platform_v1 import Actor
from kici.protocol.runner_v1 import InitResult, RuleResult
from kici.runtime.clock import SystemClock
from kici.spec.lock import Concurrency, Matrix, Need
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import Held, execution, invariants, report
from tests.db.execution.starting import (
    IMPURE,
    ON_MAIN,
    Crew,
    begin,
    generator,
    job,
    statuses,
    stored,
    workflow,
)
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

_TABLES = (
    "execution_runs",
    "execution_jobs",
    "execution_job_specs",
    "execution_job_needs",
    "execution_steps",
    "concurrency_slots",
    "workflow_locks",
    "run_events",
    "kici_events",
    "outbox",
)


class Killed(Exception):
    pass


async def _everything(db: Database) -> list[Any]:
    return [
        await rows.fetch(db.engine, f"SELECT md5(string_agg(t::text, ',' ORDER BY t::text)) FROM {table} t")
        for table in _TABLES
    ]


async def _killed_everywhere(db: Database, act: Callable[[], Awaitable[Any]]) -> int:
    """Kills `act` before its first, second, … statement until it comes through; how many it has."""
    before = await _everything(db)
    allowed = 0
    while True:
        left = [allowed]

        def count(*_: Any, left: list[int] = left) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1

        event.listen(db.engine.sync_engine, "before_cursor_execute", count)
        try:
            await act()
        except Killed:
            event.remove(db.engine.sync_engine, "before_cursor_execute", count)
            assert await _everything(db) == before
            allowed += 1
            continue
        event.remove(db.engine.sync_engine, "before_cursor_execute", count)
        return allowed


async def _end(db: Database, ex: Execution, held: Held, **fields: Any) -> int:
    async def act() -> None:
        assert await report(ex, held.job(JobStatus.SUCCESS, **fields)) == []

    return await _killed_everywhere(db, act)


async def test_a_run_begins_whole_or_not_at_all(orchestrator_db: Database) -> None:
    """OR-130, AU-34."""
    ids: list[str] = []

    async def act() -> None:
        lock = workflow(
            job("a", rules=[ON_MAIN]),
            job("b", "a"),
            job("c"),
            concurrency=Concurrency(group="g", cancel_in_progress=False),
        )
        ids.append((await begin(orchestrator_db, lock, branch="dev", dedup_key="one")).run_id)

    assert await _killed_everywhere(orchestrator_db, act) >= 5
    assert await statuses(orchestrator_db, ids[-1]) == {"a": "skipped", "b": "skipped", "c": "waiting"}
    await invariants(orchestrator_db, ids[-1:])


async def test_what_setup_rows_find_joins_whole_or_not_at_all(orchestrator_db: Database) -> None:
    """OR-134, OR-136, AU-40, AU-43."""
    ex = execution(orchestrator_db)
    run = await begin(
        orchestrator_db,
        workflow(
            generator("g"),
            job("t", matrix=Matrix(type="dynamic"), dynamic_env=True),
            job("end", "t", Need(group="g", run_on=["success"])),
            has_cleanup=True,
        ),
    )
    crew = Crew(orchestrator_db, ex)
    found = [await crew.start(), await crew.start()]
    held = {each.job_name: each for each in found}
    jobs = [job("x", rules=[ON_MAIN]), job("y", "x")]
    assert await _end(orchestrator_db, ex, held["__dynamic__ci__0"], generated=jobs) >= 6
    await invariants(orchestrator_db, [run.run_id])
    values = InitResult(matrix={"n": [1, 2]}, env={"A": "b"})
    assert await _end(orchestrator_db, ex, held["__init__ci__t"], init=values) >= 6
    await invariants(orchestrator_db, [run.run_id])
    await crew.work()
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "success"


async def test_a_run_is_blocked_and_asks_for_its_place_at_once(orchestrator_db: Database) -> None:
    """OR-180, AU-34."""
    ex = execution(orchestrator_db)
    run = await begin(
        orchestrator_db, workflow(job("a"), rules=[IMPURE], concurrency=Concurrency(group=None))
    )
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    yes = [RuleResult(label="asks a server", passed=True, duration_ms=1)]
    await _end(orchestrator_db, ex, held, init=InitResult(rules=yes, concurrency_group="g"))
    (slot,) = await rows.fetch(orchestrator_db.engine, "SELECT * FROM concurrency_slots")
    assert (slot["holder_id"], slot["acquired_at"]) == (run.run_id, None)
    assert await crew.work() == ["__init__ci", "a"]


async def test_places_change_hands_whole_or_not_at_all(orchestrator_db: Database) -> None:
    """OR-181: admission, supersession, and the release with the end of the run."""
    ex = execution(orchestrator_db)
    lock = workflow(job("a"), job("b", concurrency_group="j"), concurrency=Concurrency(group="g"))
    ids = [(await begin(orchestrator_db, lock)).run_id]
    groups = Groups(ex)
    assert await _killed_everywhere(orchestrator_db, groups.settle_all) >= 5
    crew = Crew(orchestrator_db, ex)
    held = [await crew.start(), await crew.start()]
    ids.append((await begin(orchestrator_db, lock)).run_id)
    assert await _killed_everywhere(orchestrator_db, groups.settle_all) >= 5

    async def act() -> None:
        assert await report(ex, *(each.job(JobStatus.CANCELLED) for each in held)) == []

    await _killed_everywhere(orchestrator_db, act)
    assert [
        row["holder_id"]
        for row in await rows.fetch(orchestrator_db.engine, "SELECT * FROM concurrency_slots")
    ] == ids[1:]
    await crew.work()
    assert [(await rows.run(orchestrator_db.engine, each))["status"] for each in ids] == [
        "cancelled",
        "success",
    ]
    await invariants(orchestrator_db, ids)


async def test_builds_change_hands_whole_or_not_at_all(orchestrator_db: Database) -> None:
    """OR-139: the row is queued, ends, and makes the others superfluous."""
    ex = execution(orchestrator_db)
    lock = stored(workflow(job("a"), job("b", "a")))
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    builds = Builds(ex)
    assert await _killed_everywhere(orchestrator_db, builds.settle_all) >= 5
    held = await Crew(orchestrator_db, ex).start()
    await _end(orchestrator_db, ex, held, outputs={"build": {"environment": "e", "packed": False}})
    assert await _killed_everywhere(orchestrator_db, builds.settle_all) >= 5
    assert (await statuses(orchestrator_db, ids[1]))["__build__ci"] == "skipped"
    await Crew(orchestrator_db, ex).work()
    assert [(await rows.run(orchestrator_db.engine, each))["status"] for each in ids] == ["success"] * 2
    await invariants(orchestrator_db, ids)


async def test_a_cancel_with_hooks_and_a_rerun_are_whole(orchestrator_db: Database) -> None:
    """OR-171, AU-33, OR-207."""
    ex = execution(orchestrator_db)
    run = await begin(orchestrator_db, workflow(job("a"), job("b", "a"), has_on_cancel=True))
    crew = Crew(orchestrator_db, ex)
    await crew.work(at_most=1)

    async def cancel() -> None:
        async with ex.change() as change:
            await cancel_runs(change, {run.run_id: Request(reason="no", by="Ann")})

    assert await _killed_everywhere(orchestrator_db, cancel) >= 4
    assert await crew.work() == ["a", "__hooks__ci"]
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "cancelled"
    new: list[str] = []

    async def again() -> None:
        runs = RunService(ex, SystemClock(), cluster_name="test")
        actor = Actor(kind="user", id="u")
        new.append((await runs.rerun(run.run_id, actor, mode="failed")).new_run_id)

    assert await _killed_everywhere(orchestrator_db, again) >= 5
    assert await statuses(orchestrator_db, new[-1]) == {
        "a": "success",
        "b": "queued",
        "__hooks__ci": "pending",
    }
    await invariants(orchestrator_db, new[-1:])
