"""Gives away the places of concurrency groups (OR-180, OR-181, AU-59).

The tables say who holds and who waits; this looks at one group at a time, under an advisory lock that only we
take, and writes what `kici.engine.concurrency` decides. It is woken when somebody comes or ends, and looks by
itself every few seconds: a crash between a release and the next admission delays, and loses nothing. Nobody
who waits has an agent.
"""

from collections.abc import Sequence

from msgspec import Struct

from kici.engine import concurrency
from kici.engine.concurrency import Place, Settlement
from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.runs.builds import Builds
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.graph import enter
from kici.orchestrator.runs.state import JobPatch, JobRow, RunPatch
from kici.runtime.database import AsyncConnection, Wakeups, text
from kici.runtime.logging import get_logger
from kici.spec.durations import in_words
from kici.spec.states import RUN_TERMINAL, JobStatus, RunStatus

log = get_logger(__name__)

SWEEP_S = 5.0
AT_ONCE = 500


class Group(Struct, frozen=True):
    """Keys are scoped by organisation, routing key and repository; runs and jobs have groups of their own."""

    org_id: str
    routing_key: str
    repo_identifier: str
    scope: str
    name: str


class _Slot(Struct, frozen=True):
    holder_id: str
    run_id: str
    holds: bool
    limit: int
    cancel_in_progress: bool
    overdue: bool
    reason: str | None  # what people read now about who waits


# Groups at rest are left alone: nobody who waits could begin, is overdue, or says what is no longer true.
_WANTED = text("""
    WITH s AS (
        SELECT *, row_number() OVER (g ORDER BY seq) - 1 AS ahead,
            count(*) FILTER (WHERE acquired_at IS NOT NULL) OVER g AS held
        FROM concurrency_slots WINDOW g AS (PARTITION BY org_id, routing_key, repo_identifier, scope, group_name)
    )
    SELECT DISTINCT s.org_id, s.routing_key, s.repo_identifier, s.scope, s.group_name
    FROM s LEFT JOIN execution_jobs j ON j.id = s.holder_id LEFT JOIN execution_runs r ON r.id = s.holder_id
    WHERE s.acquired_at IS NULL AND (s.held < s.max OR s.expires_at < now()
        OR coalesce(j.waiting_reason, r.waiting_reason, '') <> format(CAST(:reason AS text), s.group_name, s.ahead))
    ORDER BY 1, 2, 3, 4, 5
""")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7700180))")
_SLOTS = text("""
    SELECT s.holder_id, s.run_id, s.acquired_at IS NOT NULL, s.max, s.cancel_in_progress,
        s.acquired_at IS NULL AND coalesce(s.expires_at < now(), false),
        coalesce(j.waiting_reason, CASE WHEN j.id IS NULL THEN r.waiting_reason END)
    FROM concurrency_slots s LEFT JOIN execution_jobs j ON j.id = s.holder_id
        LEFT JOIN execution_runs r ON r.id = s.holder_id
    WHERE (s.org_id, s.routing_key, s.repo_identifier, s.scope, s.group_name)
        = (:org_id, :routing_key, :repo_identifier, :scope, :name) ORDER BY s.seq
""")
_ACQUIRE = text("""
    UPDATE concurrency_slots SET acquired_at = now(), expires_at = NULL
    WHERE holder_id = ANY(CAST(:ids AS uuid[]))
""")
_ENTER = text("""
    SELECT id, run_id, attempt, concurrency_group FROM execution_jobs
    WHERE run_id = ANY(CAST(:run_ids AS uuid[])) AND status = 'waiting' AND needs_pending = 0
        AND kind <> 'build' ORDER BY run_id, id
""")
_WAITING = text("""
    SELECT id FROM execution_jobs WHERE run_id = ANY(CAST(:run_ids AS uuid[])) AND status = 'waiting'
""")
# What no transaction of ours leaves behind, but a hand on the table might.
_FREE = text("""
    DELETE FROM concurrency_slots s WHERE NOT EXISTS (
        SELECT FROM execution_runs r WHERE r.id = s.holder_id AND r.completed_at IS NULL)
    AND NOT EXISTS (SELECT FROM execution_jobs j WHERE j.id = s.holder_id AND j.completed_at IS NULL)
    RETURNING s.holder_id
""")
_FORGOTTEN_RUNS = text(f"""
    SELECT r.id FROM execution_runs r WHERE r.blocked AND r.completed_at IS NULL
        AND NOT EXISTS (SELECT FROM concurrency_slots s WHERE s.holder_id = r.id) LIMIT {AT_ONCE}
""")
_FORGOTTEN_JOBS = text(f"""
    SELECT j.id FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id
    WHERE j.status = 'waiting' AND j.completed_at IS NULL AND j.concurrency_group IS NOT NULL AND NOT r.blocked
        AND NOT EXISTS (SELECT FROM concurrency_slots s WHERE s.holder_id = j.id) LIMIT {AT_ONCE}
""")


class Groups:
    """One per process; any number of processes may settle the same groups."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution
        self._builds = Builds(execution)

    async def run(self, wakeups: Wakeups) -> None:
        """For ever: on the hint `concurrency`, and every few seconds. Builds that are waited for come along."""
        while True:
            await wakeups.wait("concurrency", sweep_seconds=SWEEP_S)
            while await self.settle_all() + await self._builds.settle_all():
                pass

    async def settle_all(self) -> int:
        """Looks at every group in which something may move; how many runs and jobs were admitted or stopped."""
        async with self._execution.engine.connect() as tx:
            wanted = [Group(*row) for row in await tx.execute(_WANTED, {"reason": concurrency.WAITING})]
        return sum([await self.settle(group) for group in wanted])

    async def settle(self, group: Group) -> int:
        async with self._execution.change() as change:
            slots = await _lock(change.tx, group)
            found = concurrency.settle(
                [
                    Place(
                        holder=slot.holder_id,
                        holds=slot.holds,
                        limit=slot.limit,
                        cancel_in_progress=slot.cancel_in_progress,
                    )
                    for slot in slots
                    if not slot.overdue
                ]
            )
            overdue = [slot.holder_id for slot in slots if slot.overdue]
            if group.scope == "run":
                moved = await self._settle_runs(change, group, slots, found, overdue)
            else:
                moved = await self._settle_jobs(change, group, slots, found, overdue)
        if moved:
            log.info(
                "concurrency.settled",
                group=group.name,
                scope=group.scope,
                admitted=len(found.admit),
                superseded=len(found.supersede),
                dropped=len(found.drop),
                expired=len(overdue),
            )
        return moved

    async def _settle_runs(
        self,
        change: Change,
        group: Group,
        slots: Sequence[_Slot],
        found: Settlement,
        overdue: Sequence[str],
    ) -> int:
        reasons = _news(group, slots, found)
        concerned = [*found.admit, *found.supersede, *found.drop, *overdue, *reasons]
        if not concerned:
            return 0
        await change.lock_runs(concerned)
        stops = {
            run_id: Request(reason=reason)
            for ids, reason in (
                ([*found.supersede, *found.drop], concurrency.superseded(group.name)),
                (overdue, self._waited_too_long(group)),
            )
            for run_id in ids
            if self._is_active(change, run_id)
        }
        if stops:
            await cancel_runs(change, stops)
        admitted = [run_id for run_id in found.admit if self._is_active(change, run_id)]
        patches = [
            RunPatch(run_id=run_id, waiting_reason=reason)
            for run_id, reason in reasons.items()
            if self._is_active(change, run_id)
        ]
        if patches:  # what their jobs say follows from what the run says
            rows = await change.tx.execute(_WAITING, {"run_ids": [patch.run_id for patch in patches]})
            change.touch_jobs(rows.scalars())
        await self._admit(change, admitted, patches)
        return len(stops) + len(admitted)

    @staticmethod
    def _is_active(change: Change, run_id: str) -> bool:
        """Neither over nor being stopped: a second request would kill it."""
        run = change.runs.get(run_id)
        return run is not None and run.status not in RUN_TERMINAL and run.status is not RunStatus.CANCELLING

    async def _admit(self, change: Change, run_ids: Sequence[str], patches: list[RunPatch]) -> None:
        jobs: list[JobPatch] = []
        if run_ids:
            for run_id in run_ids:
                change.runs[run_id].blocked = False
                patches.append(RunPatch(run_id=run_id, blocked=False))
                change.event(run_id, "run.admitted")
            await change.tx.execute(_ACQUIRE, {"ids": list(run_ids)})
            for job_id, run_id, attempt, own_group in await change.tx.execute(
                _ENTER, {"run_ids": list(run_ids)}
            ):
                patch = JobPatch(job_id=job_id, was=JobStatus.WAITING, attempt=attempt)
                if own_group is None:
                    enter(patch, change.runs[run_id], None)
                else:  # it goes on waiting, for a place of its own
                    patch.waiting_reason = concurrency.waiting_reason(own_group, 0)
                    change.wish(job_id)
                jobs.append(patch)
        await change.write(jobs, runs=patches)

    async def _settle_jobs(
        self,
        change: Change,
        group: Group,
        slots: Sequence[_Slot],
        found: Settlement,
        overdue: Sequence[str],
    ) -> int:
        reasons = _news(group, slots, found)
        concerned = [*found.admit, *overdue, *reasons]
        if not concerned:
            return 0
        jobs = await change.lock_jobs(concerned)
        waiting = {job_id: job for job_id, job in jobs.items() if job.status is JobStatus.WAITING}
        patches: list[JobPatch] = []
        for job_id in overdue:
            if (job := waiting.get(job_id)) is not None:
                patch = _patch(job)
                patch.status = job_after(job.status, JobEvent.EXPIRE)
                patch.error_message = self._waited_too_long(group)
                patches.append(patch)
        admitted = [waiting[job_id] for job_id in found.admit if job_id in waiting]
        for job in admitted:
            patch = _patch(job)
            patch.status = job_after(job.status, JobEvent.TIMER_DONE)
            patch.ready = True
            patches.append(patch)
        moved = len(patches)
        for job_id, reason in reasons.items():
            if (job := waiting.get(job_id)) is not None:
                patch = _patch(job)
                patch.waiting_reason = reason
                patches.append(patch)
        if admitted:
            await change.tx.execute(_ACQUIRE, {"ids": [job.job_id for job in admitted]})
        await change.write(patches)
        return moved

    def _waited_too_long(self, group: Group) -> str:
        limit_ms = self._execution.limits.concurrency_wait_timeout_ms
        return f"Waited longer than {in_words(limit_ms)} for a place in concurrency group '{group.name}'"

    async def repair(self) -> int:
        """Places of who has ended are free again, and nobody waits without having asked. Rows written."""
        async with self._execution.change() as change:
            freed = list((await change.tx.execute(_FREE)).scalars())
            runs = list((await change.tx.execute(_FORGOTTEN_RUNS)).scalars())
            jobs = list((await change.tx.execute(_FORGOTTEN_JOBS)).scalars())
            if runs:
                await change.lock_runs(runs)
                await change.block_runs(runs)
            for job_id in jobs:
                change.wish(job_id)
            change.regrouped = change.regrouped or bool(freed)
        repaired = len(freed) + len(runs) + len(jobs)
        if repaired:
            log.error("concurrency.repaired", freed=len(freed), runs=len(runs), jobs=len(jobs))
            self._execution.metrics.repairs.labels("slot").inc(repaired)
        return repaired


async def _lock(tx: AsyncConnection, group: Group) -> list[_Slot]:
    """The group's rows in order of arrival, with nobody else deciding about them until `tx` ends."""
    values = {
        "org_id": group.org_id,
        "routing_key": group.routing_key,
        "repo_identifier": group.repo_identifier,
        "scope": group.scope,
        "name": group.name,
    }
    await tx.execute(_LOCK, {"key": "\x1f".join(values.values())})
    rows = await tx.execute(_SLOTS, values)
    return [_Slot(*row) for row in rows]


def _news(group: Group, slots: Sequence[_Slot], found: Settlement) -> dict[str, str]:
    """Who waits, with what is to be said about it, where that has changed."""
    told = {slot.holder_id: slot.reason for slot in slots}
    return {
        holder: reason
        for holder, ahead in found.waiting.items()
        if told[holder] != (reason := concurrency.waiting_reason(group.name, ahead))
    }


def _patch(job: JobRow) -> JobPatch:
    return JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt)
