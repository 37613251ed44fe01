"""One run of one workflow: its jobs in the order of their needs, as many at a time as there is room for."""

import asyncio
import os
import time
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from kici.cli.local.event import Occasion
from kici.cli.local.results import JobReport, RunReport, StepReport
from kici.cli.local.screen import Screen
from kici.cli.local.workspace import Workspaces
from kici.engine.graph import PlannedJob
from kici.protocol.runner_v1 import Execute, Ready, StepEnded, StepStarted
from kici.runner.environment import step_environment
from kici.runner.host import JobResult, Zygote
from kici.spec.errors import KiciError
from kici.spec.ids import PREPARE_STEP
from kici.spec.lock import LockWorkflow
from kici.spec.states import JobStatus, RunStatus, StepStatus

DEFAULT_STEP_TIMEOUT_MS = 1_800_000
DEFAULT_GRACE_PERIOD_MS = 30_000
MAX_GRACE_PERIOD_MS = 300_000
_FAILED = frozenset({JobStatus.FAILED, JobStatus.CANCELLED})


class Machine(Struct, frozen=True, kw_only=True):
    """What all runs of one command share."""

    zygote: Zygote
    workspaces: Workspaces
    occasion: Occasion
    screen: Screen
    places: asyncio.Semaphore  # jobs at a time
    keep_going: bool
    keep: bool


class LocalRun:
    """`run` it once. `stop` may be called meanwhile, again to kill."""

    def __init__(
        self,
        machine: Machine,
        workflow: LockWorkflow,
        jobs: Sequence[PlannedJob],
        *,
        run_id: str,
        trigger: str,
        first_number: int,
        label: str = "",
    ) -> None:
        """`jobs` index each other by position. `label` stands before job names on the screen."""
        self._machine = machine
        self._workflow = workflow
        self._jobs = jobs
        self._run_id = run_id
        self._trigger = trigger
        self._first_number = first_number
        self._label = label
        self._ended: list[asyncio.Future[JobReport]] = [
            asyncio.get_running_loop().create_future() for _ in jobs
        ]
        self._windows = {
            job.position: asyncio.Semaphore(job.job.max_parallel) for job in jobs if job.job.max_parallel
        }
        self._failed_positions: set[int] = set()
        self._failed = False
        self._stop: str | None = None
        self._forced = False
        self._running: set[str] = set()

    @property
    def names(self) -> list[str]:
        return [self._label + job.variant.job_name for job in self._jobs]

    def stop(self, reason: str, *, force: bool) -> None:
        """Nothing starts any more; what runs is cancelled, forced: killed."""
        self._stop = self._stop or reason
        self._forced = self._forced or force
        for job_id in self._running:
            self._machine.zygote.abort(job_id, reason, force=force)

    async def run(self) -> RunReport:
        started = time.monotonic()
        limit: asyncio.TimerHandle | None = None
        if self._workflow.timeout is not None:
            limit = asyncio.get_running_loop().call_later(self._workflow.timeout / 1000, self._time_is_up)
        async with asyncio.TaskGroup() as tasks:
            for index, job in enumerate(self._jobs):
                tasks.create_task(self._one(index, job), name=job.variant.job_name)
        if limit is not None:
            limit.cancel()
        reports = [ended.result() for ended in self._ended]
        return RunReport(
            workflow=self._workflow.name,
            trigger=self._trigger,
            status=_run_status(reports),
            duration_ms=round((time.monotonic() - started) * 1000),
            jobs=reports,
        )

    def _time_is_up(self) -> None:
        assert self._workflow.timeout is not None
        self.stop(f"the workflow timed out after {self._workflow.timeout / 1000:g} s", force=False)

    async def _one(self, index: int, planned: PlannedJob) -> None:
        """Wait for the job's needs and a place, run it or not, and say how it ended."""
        upstream = [(await self._ended[need.upstream], need.run_on) for need in planned.needs]
        reason = self._why_not(planned, upstream)
        if reason is None:
            window = self._windows.get(planned.position)
            if window is not None:
                async with window, self._machine.places:
                    report = await self._start(index, planned, upstream)
            else:
                async with self._machine.places:
                    report = await self._start(index, planned, upstream)
        else:
            report = _never_ran(planned, reason)
        if report.status in _FAILED:
            self._failed = True
            self._failed_positions.add(planned.position)
        self._ended[index].set_result(report)

    def _why_not(
        self, planned: PlannedJob, upstream: Sequence[tuple[JobReport, tuple[str, ...]]]
    ) -> str | None:
        """Why the job does not run; None when it may."""
        if self._stop is not None:
            return self._stop
        for report, run_on in upstream:
            if report.status not in run_on:
                return f"needs {report.name}, which ended as {report.status}"
        if planned.job.fail_fast and planned.position in self._failed_positions:
            return "fail_fast: another combination failed"
        wanted_failure = any(report.status in _FAILED for report, _run_on in upstream)
        if self._failed and not self._machine.keep_going and not wanted_failure:
            return "not started after a failure (--keep-going runs it)"
        return None

    async def _start(
        self,
        index: int,
        planned: PlannedJob,
        upstream: Sequence[tuple[JobReport, tuple[str, ...]]],
    ) -> JobReport:
        reason = self._why_not(planned, upstream)  # things may have happened while there was no place
        if reason is not None:
            return _never_ran(planned, reason)
        machine, number = self._machine, self._first_number + index
        watcher = _JobWatcher(machine.screen, self._label + planned.variant.job_name)
        job_id = f"{self._run_id}-{number}"
        started = time.monotonic()
        watcher.say(_where(planned))
        try:
            place, tmp = await asyncio.to_thread(
                machine.workspaces.make, number, checkout=planned.job.checkout
            )
        except (OSError, KiciError) as error:
            return _never_ran(planned, f"its workspace cannot be made: {error}", JobStatus.FAILED)
        if self._stop is not None:
            return _never_ran(planned, self._stop)
        self._running.add(job_id)
        try:
            execute = self._execute(
                planned, job_id, str(place), str(tmp), [report for report, _ in upstream]
            )
            result = await machine.zygote.run(execute, watcher)
        finally:
            self._running.discard(job_id)
        keep = machine.keep or result.status in _FAILED
        if not keep:
            machine.workspaces.drop(number)
        return watcher.report(
            planned,
            result,
            duration_ms=round((time.monotonic() - started) * 1000),
            workspace=str(place) if keep else None,
        )

    def _execute(
        self, planned: PlannedJob, job_id: str, place: str, tmp: str, upstream: Sequence[JobReport]
    ) -> Execute:
        occasion, source = self._machine.occasion, self._workflow.source
        facts = {
            "KICI": "true",
            "KICI_RUN_ID": self._run_id,
            "KICI_JOB_ID": job_id,
            "KICI_WORKFLOW": self._workflow.name,
            "KICI_JOB": planned.variant.job_name,
            "KICI_ATTEMPT": "1",
            "KICI_REPO": occasion.repository,
            "KICI_SHA": occasion.sha,
            "KICI_REF": occasion.ref,
            "KICI_BRANCH": occasion.ref,
            "KICI_EVENT": occasion.event.type,
        }
        return Execute(
            run_id=self._run_id,
            job_id=job_id,
            attempt=1,
            workflow_name=self._workflow.name,
            workflow_file=source.file,
            export=source.export or "",
            job_name=planned.variant.job_name,
            base_job_name=planned.variant.base_job_name,
            workspace=place,
            tmp=tmp,
            matrix=planned.variant.values,
            event=occasion.event,
            upstream_outputs={report.name: report.outputs for report in upstream if report.outputs},
            upstream_statuses={report.name: report.status for report in upstream},
            run_info={"repository": occasion.repository, "ref": occasion.ref, "sha": occasion.sha},
            env={**step_environment(os.environ), **facts, **planned.job.env},
            default_step_timeout_ms=DEFAULT_STEP_TIMEOUT_MS,
            max_grace_period_ms=min(
                planned.job.grace_period or DEFAULT_GRACE_PERIOD_MS, MAX_GRACE_PERIOD_MS
            ),
            is_local=True,
        )


class _JobWatcher:
    """Shows what a job does and remembers its steps."""

    def __init__(self, screen: Screen, name: str) -> None:
        self._screen = screen
        self._name = name
        self._who: dict[int, str] = {PREPARE_STEP: name}
        self._steps: list[StepReport] = []

    def say(self, text: str) -> None:
        self._screen.line(self._name, text)

    def ready(self, m: Ready) -> None:
        pass

    def step_started(self, m: StepStarted) -> None:
        if m.attempt > 1:
            return
        beside_others = m.concurrency_kind != "sequential"
        self._who[m.step_index] = f"{self._name} › {m.step_name}" if beside_others else self._name
        self._screen.line(self._who[m.step_index], f"▶ {m.step_name}")

    def output(self, step_index: int, data: bytes) -> None:
        self._screen.output(self._who[step_index], data)

    def step_ended(self, m: StepEnded) -> None:
        started = m.step_index in self._who
        self._steps.append(
            StepReport(
                index=m.step_index,
                name=m.step_name,
                type=m.step_type,
                status=m.status,
                duration_ms=m.duration_ms if started else None,
                exit_code=m.exit_code,
                error_message=m.error_message,
            )
        )
        if started:
            who = self._who[m.step_index]
            self._screen.finish(who)
            self._screen.line(who, f"{_MARKS[m.status]} {m.step_name}  {m.duration_ms / 1000:.1f} s")

    def report(
        self, planned: PlannedJob, result: JobResult, *, duration_ms: int, workspace: str | None
    ) -> JobReport:
        self._screen.finish(self._name)
        if result.status == JobStatus.FAILED and not any(
            step.status == StepStatus.FAILED for step in self._steps
        ):
            self._screen.line(self._name, f"✗ {result.error_message}")
        return JobReport(
            name=planned.variant.job_name,
            status=result.status,
            runs_on=_labels(planned),
            duration_ms=duration_ms,
            error_message=result.error_message,
            timeout_reason=result.timeout_reason,
            outputs=result.outputs,
            workspace=workspace,
            steps=self._steps,
        )


_MARKS: dict[str, Literal["✓", "✗", "■", "○"]] = {
    StepStatus.SUCCESS: "✓",
    StepStatus.FAILED: "✗",
    StepStatus.CANCELLED: "■",
    StepStatus.SKIPPED: "○",
}


def _labels(planned: PlannedJob) -> list[str]:
    return [matcher.value or matcher.source for matcher in planned.job.runs_on]


def _where(planned: PlannedJob) -> str:
    labels = _labels(planned)
    foreign = [label for label in labels if label.startswith("kici:os:") and label != "kici:os:linux"]
    here = f" (this machine is no {foreign[0].removeprefix('kici:os:')})" if foreign else ""
    return f"runs on {', '.join(labels)}{here}"


def _never_ran(planned: PlannedJob, reason: str, status: JobStatus = JobStatus.SKIPPED) -> JobReport:
    return JobReport(
        name=planned.variant.job_name,
        status=status,
        runs_on=_labels(planned),
        error_message=reason,
    )


def _run_status(jobs: Sequence[JobReport]) -> RunStatus:
    """Failed before cancelled before success; skipped when nothing ran."""
    statuses = {job.status for job in jobs}
    if JobStatus.FAILED in statuses:
        return RunStatus.FAILED
    if JobStatus.CANCELLED in statuses:
        return RunStatus.CANCELLED
    return RunStatus.SUCCESS if JobStatus.SUCCESS in statuses else RunStatus.SKIPPED
