"""Keys of runs: who gets the public half, who reads what was sealed to it, and that it ends with the run."""

from typing import Any

import pytest

from kici.orchestrator.secrets.runs import RunKeys, forget
from kici.protocol.secret_outputs import seal
from kici.runtime.database import text
from tests.db.execution import rows
from tests.db.execution.rows import Job, Run
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

KEYS = RunKeys(bytes(range(32)))


async def _public_key(db: Database, job_id: str) -> str | None:
    async with db.engine.begin() as tx:
        return (await KEYS.for_jobs(tx, [job_id]))[job_id].public_key


async def _values(db: Database, job_id: str, keys: RunKeys = KEYS) -> dict[str, str]:
    async with db.engine.begin() as tx:
        return (await keys.for_jobs(tx, [job_id]))[job_id].values


async def _left(db: Database, run: Run, name: str, values: dict[str, str], *, attempt: int = 1) -> None:
    """What the end of a job writes."""
    public = await _public_key(db, run[name])
    assert public is not None
    words: dict[str, Any] = {"run_id": run.id, "job_id": run[name], "attempt": attempt}
    sealed = {key: seal(public, name=key, value=value, **words) for key, value in values.items()}
    async with db.engine.begin() as tx:
        await tx.execute(
            text(
                "UPDATE execution_jobs SET secret_outputs = CAST(:sealed AS jsonb), attempt = :attempt"
                " WHERE id = :id"
            ),
            {"sealed": rows._json(sealed).decode(), "attempt": attempt, "id": run[name]},
        )


async def test_only_dependants_read_what_a_job_left(orchestrator_db: Database) -> None:
    """AG-52, SE-41: later jobs win; who does not need a producer learns nothing of it."""
    jobs = [
        Job("mint"),
        Job("other"),
        Job("deploy", needs=[("mint", "on-success"), ("other", "on-success")]),
        Job("after", needs=[("deploy", "always")]),
    ]
    run = await rows.add_run(orchestrator_db.engine, jobs)
    await _left(orchestrator_db, run, "mint", {"TOKEN": "one", "ONLY": "mint"}, attempt=3)
    await _left(orchestrator_db, run, "other", {"TOKEN": "two"})
    assert await _values(orchestrator_db, run["deploy"]) == {"TOKEN": "two", "ONLY": "mint"}
    assert await _values(orchestrator_db, run["after"]) == {}
    assert await _values(orchestrator_db, run["mint"]) == {}


async def test_a_run_has_one_key_and_lone_jobs_have_none(orchestrator_db: Database) -> None:
    """SE-39: made at the first dispatch that needs it; the private half is sealed."""
    run = await rows.add_run(
        orchestrator_db.engine,
        [Job("a"), Job("b", needs=[("a", "always")]), Job("c", needs=[("b", "always")]), Job("alone")],
    )
    first = await _public_key(orchestrator_db, run["a"])
    assert first is not None
    assert await _public_key(orchestrator_db, run["b"]) == first
    assert await _public_key(orchestrator_db, run["c"]) is None
    assert await _public_key(orchestrator_db, run["alone"]) is None
    (row,) = await rows.fetch(orchestrator_db.engine, "SELECT * FROM execution_run_keys")
    assert (str(row["run_id"]), len(row["public_key"])) == (run.id, 32)
    assert len(row["private_key"]) > 32


async def test_names_without_values_and_broken_values_are_left_out(orchestrator_db: Database) -> None:
    """AG-52: sealed for another job, or only told by name."""
    run = await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b", needs=[("a", "always")])])
    await _left(orchestrator_db, run, "a", {"GOOD": "value"})
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(
            text(
                """UPDATE execution_jobs SET secret_outputs = secret_outputs
                   || jsonb_build_object('MOVED', secret_outputs->'GOOD', 'NAME', '', 'JUNK', 'x')
                   WHERE id = :id"""
            ),
            {"id": run["a"]},
        )
    assert await _values(orchestrator_db, run["b"]) == {"GOOD": "value"}


async def test_another_secret_key_opens_nothing(orchestrator_db: Database) -> None:
    """SE-39: and says so in the log instead of failing the dispatch."""
    run = await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b", needs=[("a", "always")])])
    await _left(orchestrator_db, run, "a", {"K": "value"})
    assert await _values(orchestrator_db, run["b"], RunKeys(bytes(32))) == {}


async def test_the_end_of_a_run_ends_its_secrets(orchestrator_db: Database) -> None:
    """SE-43: key and sealed values go; those of open runs stay."""
    ended, going = [
        await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b", needs=[("a", "always")])])
        for _ in range(2)
    ]
    for run in (ended, going):
        await _left(orchestrator_db, run, "a", {"K": "value"})
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(
            text(
                "UPDATE execution_runs SET status = 'failed', jobs_open = 0, completed_at = now() WHERE id = :id"
            ),
            {"id": ended.id},
        )
    await forget(orchestrator_db.engine)
    assert await _values(orchestrator_db, going["b"]) == {"K": "value"}
    kept = await rows.fetch(orchestrator_db.engine, "SELECT run_id FROM execution_run_keys")
    assert [str(row["run_id"]) for row in kept] == [going.id]
    assert (await rows.job(orchestrator_db.engine, ended["a"]))["secret_outputs"] is None
