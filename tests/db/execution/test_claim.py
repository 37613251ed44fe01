"""Queue order, label matching and exactly one owner per job."""

import asyncio

import pytest
from msgspec.structs import replace

from kici.orchestrator.dispatch.claim import Claim, FreeAgent, Match, claim, patterned
from kici.runtime.ids import uuid7
from kici.spec.lock import Amount, Resources
from tests.db.execution import rows
from tests.db.execution.rows import Job
from tests.db.execution.starting import begin, job, workflow
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


def _agent(agent_id: str, *labels: str, org: str = rows.ORG) -> FreeAgent:
    return FreeAgent(
        agent_id=agent_id, session_id=uuid7(), org_id=org, labels=frozenset(labels or ["kici:os:linux"])
    )


async def _claim(db: Database, *free: FreeAgent, by_pattern: list[Match] | None = None) -> Claim:
    async with db.engine.begin() as tx:
        return await claim(tx, free, by_pattern or [], ack_timeout_ms=10_000)


def _pairs(found: Claim) -> set[tuple[str, str]]:
    return {(job.job_name, job.agent_id) for job in found.jobs}


async def test_oldest_jobs_go_first_and_the_lowest_agent_id_gets_the_oldest(
    orchestrator_db: Database,
) -> None:
    """OR-145, OR-146, AG-18."""
    for name in ("a", "b", "c"):
        await rows.add_run(orchestrator_db.engine, [Job(name)])
    urgent = await rows.add_run(orchestrator_db.engine, [Job("d", priority=5)])
    found = await _claim(orchestrator_db, _agent("agent-2"), _agent("agent-1"))
    assert _pairs(found) == {("d", "agent-1"), ("a", "agent-2")}
    row = await rows.job(orchestrator_db.engine, urgent["d"])
    assert (row["attempt"], row["agent_id"], row["status"]) == (1, "agent-1", "queued")
    assert row["ack_deadline"] > row["dispatched_at"]
    assert _pairs(
        await _claim(orchestrator_db, _agent("agent-3"), _agent("agent-4"), _agent("agent-5"))
    ) == {
        ("b", "agent-3"),
        ("c", "agent-4"),
    }
    empty = await _claim(orchestrator_db, _agent("agent-6"))
    assert (empty.jobs, empty.seen, empty.patterned) == ([], 0, False)


async def test_who_does_not_care_leaves_the_low_ids_to_others(orchestrator_db: Database) -> None:
    """OR-146, AU-19: nobody gets two jobs, whatever is asked."""
    for name, pick in (("a", "any"), ("b", "deterministic"), ("c", "any"), ("d", "deterministic")):
        await begin(orchestrator_db, workflow(job(name, runs_on_pick=pick)))
    found = await _claim(orchestrator_db, _agent("1"), _agent("2"), _agent("3"))
    assert _pairs(found) == {("a", "3"), ("b", "1"), ("c", "2")}
    assert _pairs(await _claim(orchestrator_db, _agent("4"), _agent("5"))) == {("d", "4")}


async def test_an_agent_must_be_as_large_as_the_job_asks(orchestrator_db: Database) -> None:
    """AU-56: requests are matched against cores and memory; large agents are left for who needs them."""
    amount = Amount(cpus=4, memory_bytes=8 << 30)
    await begin(orchestrator_db, workflow(job("large", resources=Resources(requests=amount))))
    await begin(orchestrator_db, workflow(job("small")))
    small = replace(_agent("a"), cpus=4, memory_mb=8191)
    assert _pairs(await _claim(orchestrator_db, small)) == {("small", "a")}
    await begin(orchestrator_db, workflow(job("small")))
    large = replace(_agent("b"), cpus=4, memory_mb=8192)
    again = replace(_agent("c"), cpus=2, memory_mb=8192)
    assert _pairs(await _claim(orchestrator_db, large, again)) == {("large", "b"), ("small", "c")}


async def test_labels_exclusions_and_org_decide_who_may_take_a_job(orchestrator_db: Database) -> None:
    """OR-146."""
    engine = orchestrator_db.engine
    await rows.add_run(engine, [Job("gpu", runs_on=["linux", "gpu"])])
    await rows.add_run(engine, [Job("not-spot", runs_on=["linux"], exclude=["spot"])])
    assert _pairs(await _claim(orchestrator_db, _agent("a", "linux", "spot"))) == set()
    assert _pairs(await _claim(orchestrator_db, _agent("b", "linux", "gpu", org="org_other"))) == set()
    assert _pairs(await _claim(orchestrator_db, _agent("c", "linux"))) == {("not-spot", "c")}
    assert _pairs(await _claim(orchestrator_db, _agent("d", "linux", "gpu", "spot"))) == {("gpu", "d")}


async def test_an_undemanding_job_leaves_the_rare_agent_to_the_job_that_needs_it(
    orchestrator_db: Database,
) -> None:
    await rows.add_run(orchestrator_db.engine, [Job("any", runs_on=["linux"])])
    await rows.add_run(orchestrator_db.engine, [Job("rare", runs_on=["gpu"])])
    found = await _claim(orchestrator_db, _agent("a-gpu", "linux", "gpu"), _agent("b", "linux"))
    assert _pairs(found) == {("any", "b"), ("rare", "a-gpu")}


async def test_what_fits_only_a_taken_group_is_seen_and_left_for_the_next_round(
    orchestrator_db: Database,
) -> None:
    for _ in range(2):
        await rows.add_run(orchestrator_db.engine, [Job("small", runs_on=["linux"])])
    small, big = _agent("small", "linux"), _agent("big", "linux", "gpu")
    found = await _claim(orchestrator_db, small, big)
    assert (found.seen, [job.agent_id for job in found.jobs]) == (2, ["small"])
    assert [job.agent_id for job in (await _claim(orchestrator_db, big)).jobs] == ["big"]


async def test_patterns_are_matched_outside_and_keep_their_place_in_the_queue(
    orchestrator_db: Database,
) -> None:
    """OR-145, OR-146."""
    engine = orchestrator_db.engine
    await rows.add_run(engine, [Job("first", runs_on=[], patterns=["^gpu-"])])
    await rows.add_run(engine, [Job("second", runs_on=["linux"])])
    plain, gpu = _agent("plain", "linux"), _agent("rich", "linux", "gpu-a100")
    found = await _claim(orchestrator_db, plain)
    assert (_pairs(found), found.patterned) == ({("second", "plain")}, True)
    async with engine.connect() as tx:
        match = await patterned(tx, [plain, gpu])
    assert [agent for _, agent in match] == ["rich"]
    await rows.add_run(engine, [Job("third", runs_on=["linux"])])
    found = await _claim(orchestrator_db, gpu, by_pattern=match)
    assert _pairs(found) == {("first", "rich")}  # older than "third"


async def test_two_orchestrators_never_take_the_same_job(orchestrator_db: Database) -> None:
    """OR-145."""
    for _ in range(20):
        await rows.add_run(orchestrator_db.engine)
    taken: list[str] = []

    async def orchestrator(name: str) -> None:
        for round_number in range(10):
            free = [_agent(f"{name}-{round_number}-{index}") for index in range(2)]
            taken.extend(job.job_id for job in (await _claim(orchestrator_db, *free)).jobs)

    async with asyncio.TaskGroup() as tasks:
        for name in ("x", "y", "z"):
            tasks.create_task(orchestrator(name))
    assert len(taken) == len(set(taken)) == 20


async def test_a_claim_carries_all_that_a_dispatch_says(orchestrator_db: Database) -> None:
    """OR-153."""
    run = await rows.add_run(orchestrator_db.engine, [Job("build", children=2)])
    found = await _claim(orchestrator_db, _agent("agent-1"))
    job = found.jobs[0]
    assert (job.run_id, job.job_id, job.attempt) == (run.id, run["build (0)"], 1)
    assert (job.workflow_export, job.repo_url, job.upstream) == ("ci", "file:///srv/shop.git", "[]")
    assert job.matrix_values == '{"value": 0}'
    assert 0 <= job.waited_ms < 60_000
