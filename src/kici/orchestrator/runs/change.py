"""One transaction over runs: what was locked, what was written, who must be told."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from kici.orchestrator.runs import graph, slots, state
from kici.orchestrator.runs.graph import Downstream, Family
from kici.orchestrator.runs.projection import StepKey
from kici.orchestrator.runs.record import TimelineEvent, write_record
from kici.orchestrator.runs.state import (
    JobPatch,
    JobRow,
    RunPatch,
    RunRow,
    StepPatch,
    WrittenJob,
    WrittenRun,
)
from kici.runtime.database import AsyncConnection
from kici.runtime.ids import uuid7
from kici.spec.states import JobStatus, StepStatus


class Change:
    """Made by `Execution.change`. Lock first, then write; both may be repeated, in that order of tables."""

    def __init__(self, tx: AsyncConnection, *, queue_timeout_ms: int, concurrency_wait_ms: int) -> None:
        self.tx = tx
        self.runs: dict[str, RunRow] = {}
        self.ended_jobs: list[WrittenJob] = []
        self.released_jobs: list[WrittenJob] = []
        self.ended_runs: list[WrittenRun] = []
        self.step_states: list[StepStatus] = []
        self.queued = False  # something entered the queue
        self.told = False  # the outbox has more
        self.recalled = False  # a job that an agent holds was cancelled or ended by us
        self.regrouped = False  # somebody wants a place in a concurrency group or a build, or gave it back
        self.jobs_written = 0
        self._queue_timeout_ms = queue_timeout_ms
        self._concurrency_wait_ms = concurrency_wait_ms
        self._wishes: list[str] = []  # jobs
        self._released: list[str] = []  # runs and jobs
        self._run_ids: set[str] = set()
        self._job_ids: set[str] = set()
        self._steps: set[StepKey] = set()
        self._events: list[TimelineEvent] = []

    async def lock_jobs(self, job_ids: Collection[str]) -> dict[str, JobRow]:
        """Those that exist, by id."""
        runs, jobs = await state.lock_jobs(self.tx, job_ids)
        self.runs.update(runs)
        return jobs

    async def lock_runs(self, run_ids: Collection[str]) -> dict[str, JobRow]:
        """All open jobs of these runs, by id; the runs themselves, also ended ones, are in `runs`."""
        runs, jobs = await state.lock_runs(self.tx, run_ids)
        self.runs.update(runs)
        return jobs

    def event(self, run_id: str, event_type: str, job_id: str | None = None, **metadata: Any) -> None:
        """A time line entry of ours, now."""
        self._events.append(
            TimelineEvent(
                id=uuid7(),
                run_id=run_id,
                event_type=f"orchestrator.{event_type}",
                job_id=job_id,
                metadata=metadata,
            )
        )

    def foreign_event(self, event: TimelineEvent) -> None:
        """A time line entry that an agent reported."""
        self._events.append(event)

    def touch_jobs(self, job_ids: Iterable[str]) -> None:
        """Jobs of this transaction that somebody else wrote: the claim, or their insert."""
        self._job_ids.update(job_ids)

    def wish(self, job_id: str) -> None:
        """The job waits for a place in its own concurrency group."""
        self._wishes.append(job_id)

    async def block_runs(self, run_ids: Sequence[str]) -> None:
        """Their concurrency group is known only now: whatever becomes ready waits with its run. Their rows
        name the group already."""
        for run_id in run_ids:
            self.runs[run_id].blocked = True
        await slots.ask_for_runs(self.tx, run_ids, wait_ms=self._concurrency_wait_ms)
        self.regrouped = True

    async def write(
        self, jobs: Sequence[JobPatch] = (), steps: Sequence[StepPatch] = (), runs: Sequence[RunPatch] = ()
    ) -> None:
        """Steps, then jobs with all that follows from them, then their runs. The rows are locked."""
        if steps:
            for job_id, attempt, index, status in await state.write_steps(self.tx, steps):
                self._steps.add((job_id, attempt, index))
                self.step_states.append(status)
        patches = {patch.run_id: patch for patch in runs}
        ended = await self._write_jobs(jobs, patches)
        while ended:
            ended = await self._follow(ended, patches)
        for run_id, patch in patches.items():
            row = self.runs[run_id]
            row.jobs_open -= patch.ended
            patch.last = patch.last or (patch.ended > 0 and row.jobs_open == 0)
        if patches:
            written = await state.write_runs(self.tx, list(patches.values()))
            for run in written:
                self.runs[run.run_id].status = run.status
            self._run_ids.update(run.run_id for run in written)
            self.ended_runs += [run for run in written if run.ended]
            self._released += [run.run_id for run in written if run.ended and run.concurrency_group]

    async def settle(self, job_ids: Sequence[str], windows: Collection[Family] = ()) -> None:
        """Repair (OR-132): decide again over pending jobs and over windows. Their runs are locked."""
        runs: dict[str, RunPatch] = {}
        ended = await self._advance(await graph.needs_of(self.tx, job_ids), set(windows), runs)
        while ended:
            ended = await self._follow(ended, runs)
        await self.write(runs=list(runs.values()))

    async def _write_jobs(self, patches: Sequence[JobPatch], runs: dict[str, RunPatch]) -> list[WrittenJob]:
        """Returns the jobs that ended; adds to the patches of their runs."""
        if not patches:
            return []
        ended: list[WrittenJob] = []
        started = {patch.job_id for patch in patches if patch.started_ms is not None}
        waits = {patch.job_id for patch in patches if patch.status is JobStatus.WAITING}
        quiet = {patch.job_id for patch in patches if _is_quiet(patch)}
        for job in await state.write_jobs(self.tx, patches, queue_timeout_ms=self._queue_timeout_ms):
            self.jobs_written += 1
            if job.job_id not in quiet:
                self._job_ids.add(job.job_id)
            self._steps.update((job.job_id, job.attempt, index) for index in job.ended_steps or ())
            begun = job.job_id in started
            if begun or job.ended:
                run = runs.setdefault(job.run_id, RunPatch(run_id=job.run_id))
                run.active = True
                if begun and job.started_ms is not None:
                    run.started_ms = min(job.started_ms, run.started_ms or job.started_ms)
                    self.event(job.run_id, "job.started", job.job_id, attempt=job.attempt)
                if job.ended:
                    if job.concurrency_group is not None:
                        self._released.append(job.job_id)
                    self.regrouped = self.regrouped or job.kind == "build"
                    run.ended += 1
                    run.log_bytes += job.log_bytes
                    ended.append(job)
                    if job.attempt:
                        self._completed(job)
            if job.job_id in waits and job.concurrency_group and not self.runs[job.run_id].blocked:
                self.wish(job.job_id)
            if job.status is JobStatus.QUEUED and job.agent_id is None:
                self.queued = True
                if job.attempt:
                    self.released_jobs.append(job)
        self.ended_jobs += ended
        return ended

    def _completed(self, job: WrittenJob) -> None:
        self._events.append(
            TimelineEvent(
                id=uuid7(),
                run_id=job.run_id,
                event_type="orchestrator.job.completed",
                job_id=job.job_id,
                duration_ms=job.duration_ms,
                metadata={"status": job.status, "attempt": job.attempt},
            )
        )

    async def _follow(self, ended: Sequence[WrittenJob], runs: dict[str, RunPatch]) -> list[WrittenJob]:
        """One round of consequences; returns what ended by them."""
        among_many = [job for job in ended if self.runs[job.run_id].job_count > 1]
        if not among_many:
            return []
        windows = {
            (job.run_id, job.base_job_name)
            for job in among_many
            if job.max_parallel is not None or job.fail_fast
        }
        needs = await graph.downstream_of(self.tx, [job.job_id for job in among_many])
        return await self._advance(needs, windows, runs)

    async def _advance(
        self, needs: Sequence[Downstream], windows: set[Family], runs: dict[str, RunPatch]
    ) -> list[WrittenJob]:
        patches, candidates = graph.after_needs(needs, self.runs)
        ended = await self._write_jobs(patches, runs)
        windows |= candidates
        if windows:
            siblings = await graph.families(self.tx, windows)
            ended += await self._write_jobs(graph.among_siblings(siblings, self.runs), runs)
        return ended

    async def record(self) -> None:
        """Last in the transaction: places in groups, completions, time line and outbox rows of all that
        changed."""
        if self._wishes:
            await slots.ask_for_jobs(self.tx, self._wishes, wait_ms=self._concurrency_wait_ms)
        if self._released:
            await slots.release(self.tx, self._released)
        self.regrouped = self.regrouped or bool(self._wishes or self._released)
        rows = await write_record(
            self.tx,
            self._events,
            run_ids=self._run_ids,
            job_ids=self._job_ids,
            steps=self._steps,
            ended_jobs=[job.job_id for job in self.ended_jobs],
            ended_runs=[run.run_id for run in self.ended_runs],
        )
        self.told = rows > 0


def _is_quiet(patch: JobPatch) -> bool:
    """Nothing of it is in a JobProjection: acknowledgements, life signs, deadlines, context."""
    return (
        patch.status is None
        and patch.needs_pending is None
        and patch.error_message is None
        and patch.waiting_reason is None
        and not patch.release
    )
