"""Snapshots in any order and any number of times lead to the newest state (PD-33)."""

import itertools
import random
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from kici.platform.projection import queries
from kici.platform.projection.service import ProjectionService
from kici.protocol.dashboard_v1 import RunEventView
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.ids import uuid7
from kici.runtime.metrics import Metrics
from kici.spec.states import JobStatus, RunStatus, StepStatus
from tests.support import platform as kit
from tests.support.postgres import Database

OTHER_ORG = "org_cccccccccccc"


async def state(database: Database) -> list[Sequence[Any]]:
    async with database.engine.connect() as tx:
        return [
            (await tx.execute(text(f"SELECT t::text FROM {table} t ORDER BY 1"))).all()
            for table in ("execution_runs", "execution_jobs", "execution_steps", "run_events")
        ]


async def apply(database: Database, items: Sequence[ProjectionItem], org_id: str = kit.ORG):
    async with database.engine.begin() as tx:
        return await queries.apply(tx, org_id, "default", items)


def story() -> list[ProjectionItem]:
    """What an orchestrator says about one run, in order."""
    run_id, job_id = uuid7(), uuid7()
    done = kit.NOON + timedelta(seconds=9)

    def event(kind: str) -> RunEventView:
        return RunEventView(
            run_id=run_id,
            event_type=kind,
            timestamp_ms=1,
            source_service="orchestrator",
            job_id=None,
            step_index=None,
            duration_ms=None,
            metadata={},
        )

    return [
        kit.item(
            1,
            run_id,
            run=kit.run_projection(run_id, status=RunStatus.PENDING),
            jobs=[kit.job_projection(run_id, job_id, status=JobStatus.QUEUED)],
            events=[event("run.created"), event("job.queued")],
        ),
        kit.item(
            2,
            run_id,
            run=kit.run_projection(run_id, started_at=kit.NOON),
            jobs=[kit.job_projection(run_id, job_id)],
        ),
        kit.item(3, run_id, steps=[kit.step_projection(run_id, job_id)]),
        kit.item(
            4,
            run_id,
            steps=[kit.step_projection(run_id, job_id, status=StepStatus.SUCCESS, completed_at=done)],
            events=[event("step.ended")],
        ),
        kit.item(
            5,
            run_id,
            run=kit.run_projection(
                run_id,
                status=RunStatus.SUCCESS,
                started_at=kit.NOON,
                completed_at=done,
                duration_ms=9000,
            ),
            jobs=[kit.job_projection(run_id, job_id, status=JobStatus.SUCCESS, completed_at=done)],
        ),
    ]


async def test_every_order_of_delivery_ends_in_the_same_state(platform_db: Database):
    items = story()
    await apply(platform_db, items)
    expected = await state(platform_db)
    for order in itertools.permutations(items):
        async with platform_db.engine.begin() as tx:
            await tx.execute(
                text("TRUNCATE execution_runs, execution_jobs, execution_steps, run_events, run_search")
            )
        for item in order:
            await apply(platform_db, [item])
        assert await state(platform_db) == expected


async def test_replaying_a_batch_changes_nothing_and_says_so(platform_db: Database):
    items = story()
    first = await apply(platform_db, items)
    before = await state(platform_db)
    again = await apply(platform_db, items)
    assert await state(platform_db) == before
    assert list(first.runs.values()) == [True]
    assert not again.runs
    assert not again.jobs
    assert not again.steps
    assert not again.events


async def test_batches_cut_and_repeated_at_random_end_in_the_same_state(platform_db: Database):
    chance = random.Random(7)
    stories = [story() for _ in range(6)]
    items = [item for part in itertools.zip_longest(*stories) for item in part if item is not None]
    items = [
        kit.item(rev, i.run_id, run=i.run, jobs=i.jobs, steps=i.steps, events=i.events)
        for rev, i in enumerate(items)
    ]
    await apply(platform_db, items)
    expected = await state(platform_db)
    async with platform_db.engine.begin() as tx:
        await tx.execute(
            text("TRUNCATE execution_runs, execution_jobs, execution_steps, run_events, run_search")
        )
    position = 0
    while position < len(items):  # the link resends everything after the last acknowledgement it saw
        size = chance.randrange(1, 9)
        await apply(platform_db, items[position : position + size])
        position = max(0, position + size - chance.choice([0, 0, 0, 2, 5]))
    assert await state(platform_db) == expected


async def test_an_org_cannot_touch_another_orgs_run(platform_db: Database):
    items = story()
    await apply(platform_db, items)
    before = await state(platform_db)
    run_id = items[0].run_id
    await apply(
        platform_db, [kit.item(99, run_id, run=kit.run_projection(run_id, workflow_name="mine"))], OTHER_ORG
    )
    async with platform_db.engine.connect() as tx:
        mine = await tx.scalar(
            text("SELECT doc ->> 'workflowName' FROM execution_runs WHERE org_id = :org"), {"org": kit.ORG}
        )
    assert mine == "ci"
    assert len((await state(platform_db))[0]) == len(before[0]) + 1


async def test_one_impossible_item_does_not_hold_up_the_others(platform_db: Database):
    service = ProjectionService(platform_db.engine, Metrics("kici_"))
    told: list[str] = []
    service.on_applied.append(lambda _org, items, _applied: told.extend(i.run_id for i in items))
    good, bad, also_good = (
        story()[0],
        kit.item(7, "not-a-uuid", run=kit.run_projection("not-a-uuid")),
        story()[0],
    )
    await service.apply(kit.ORG, "default", [good, bad, also_good])
    assert set(told) == {good.run_id, also_good.run_id}
    assert len((await state(platform_db))[0]) == 2


@pytest.mark.parametrize("started", [None, kit.NOON + timedelta(hours=1)])
async def test_lists_sort_by_creation_whenever_a_run_starts(
    platform_db: Database, started: datetime | None
):
    run = kit.run_projection(started_at=started)
    await apply(platform_db, [kit.item(1, run.run_id, run=run)])
    async with platform_db.engine.connect() as tx:
        assert await tx.scalar(text("SELECT created_at FROM execution_runs")) == kit.NOON
