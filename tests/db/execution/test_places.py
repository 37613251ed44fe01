"""Where jobs and steps are written, and what their authors say of them, as people see it in a run (AU-12)."""

import pytest

from kici.orchestrator.runs.service import RunService
from kici.protocol.dashboard_v1 import JobView, PlaceView
from kici.runtime.clock import SystemClock
from kici.runtime.database import text
from kici.spec.lock import LockJob, LockStep, Matrix, SourceLocation
from tests.db.execution.acting import execution
from tests.db.execution.starting import FILE, Crew, begin, generator, job, told_of, workflow
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

JOB, STEP = PlaceView(file=FILE, line=3, column=None), PlaceView(file=FILE, line=4, column=None)


def place(line: int | None, file: str = FILE) -> PlaceView:
    return PlaceView(file=file, line=line, column=None)


async def shown(db: Database, run_id: str) -> dict[str, JobView]:
    service = RunService(execution(db), SystemClock(), cluster_name="test")
    return {view.job_name: view for view in (await service.detail(run_id)).jobs}


async def test_jobs_know_their_place_and_that_of_every_step(orchestrator_db: Database) -> None:
    """Before a step has begun, in the order of step indexes; variants share those of their job."""
    steps = [
        LockStep(name="install", source_location=SourceLocation(file=FILE, line=12, column=5)),
        LockStep(name="scan", source_location=SourceLocation(file="scanner.py", line=7)),
    ]
    checks = LockJob(
        name="checks",
        description="Lint, then scan",
        source=SourceLocation(file=FILE, line=20, column=9),
        steps=steps,
        matrix=Matrix(values={"n": [1, 2]}),
    )
    run = await begin(orchestrator_db, workflow(checks, job("bare")))
    jobs = await shown(orchestrator_db, run.run_id)
    for name in ("checks (1)", "checks (2)"):
        assert jobs[name].description == "Lint, then scan"
        assert jobs[name].place == PlaceView(file=FILE, line=20, column=9)
        assert jobs[name].step_places == [
            PlaceView(file=FILE, line=12, column=5),
            place(7, "scanner.py"),
        ]
    assert (jobs["bare"].description, jobs["bare"].place) == ("", JOB)


async def test_setup_rows_have_the_places_of_what_they_are_for(orchestrator_db: Database) -> None:
    """And generated jobs their own, as soon as they are there."""
    run = await begin(
        orchestrator_db, workflow(job("deploy", dynamic_env=True), generator("pages"), has_cleanup=True)
    )
    before = await shown(orchestrator_db, run.run_id)
    assert (before["__init__ci__deploy"].place, before["__init__ci__deploy"].step_places) == (JOB, [JOB])
    assert before["__dynamic__ci__0"].place == place(9)
    hooks = before["__hooks__ci"]
    assert (hooks.place, hooks.step_places) == (place(None), [])
    made = job("page", generated=True, description="One page")
    await Crew(orchestrator_db, execution(orchestrator_db)).work(
        {"__dynamic__ci__0": {"generated": [made]}}
    )
    page = (await shown(orchestrator_db, run.run_id))["page"]
    assert (page.description, page.place, page.step_places) == ("One page", JOB, [STEP])


async def test_nobody_is_told_of_places_with_every_change(orchestrator_db: Database) -> None:
    """The plan never changes: it is read for those who look, and a job without one is shown all the same."""
    run = await begin(orchestrator_db, workflow(job("a")))
    await Crew(orchestrator_db, execution(orchestrator_db)).work()
    assert all("place" not in document for document in await told_of(orchestrator_db, run.run_id))
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(text("DELETE FROM execution_job_specs"))
    job_view = (await shown(orchestrator_db, run.run_id))["a"]
    assert (job_view.status, job_view.place, job_view.step_places) == ("success", None, [])
