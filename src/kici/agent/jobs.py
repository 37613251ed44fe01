"""Which job this agent holds: at most one, and an answer to every dispatch (AG-14, AG-16, AG-58)."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from msgspec import Struct

from kici.agent.execution import Execution, Tools
from kici.agent.report import Report
from kici.agent.spool import Pressure
from kici.protocol.agent_v1 import InFlightJob, JobCancel, JobDispatch, JobHeartbeat
from kici.runner.host import JobResult
from kici.runtime.logging import get_logger
from kici.spec.states import JobStatus

log = get_logger(__name__)

FINISH_WITHIN_S = 10.0
STOP_WITHIN_S = 5.0
_REMEMBERED = 256


class _Ended(Struct, frozen=True):
    run_id: str
    attempt: int
    last_seq: int  # frame of the terminal status


class JobSlot:
    """Starts executions as tasks of `tasks`. `on_ended` is called when the slot is free again."""

    def __init__(self, tasks: asyncio.TaskGroup, tools: Tools, *, on_ended: Callable[[], None]) -> None:
        self.draining = False
        self.current: Execution | None = None
        self._task: asyncio.Task[None] | None = None
        self._tasks = tasks
        self._tools = tools
        self._on_ended = on_ended
        self._idle = asyncio.Event()
        self._idle.set()
        self._ended: OrderedDict[str, _Ended] = OrderedDict()

    @property
    def active_jobs(self) -> int:
        return int(self.current is not None)

    # ── what the orchestrator asks ───────────────────────────────────────────────────────────────

    def in_flight(self) -> list[InFlightJob]:
        """The job that runs, and jobs whose end is not acknowledged yet: all that this process answers for."""
        held = [
            InFlightJob(job_id=job_id, run_id=ended.run_id, attempt=ended.attempt)
            for job_id, ended in self._ended.items()
            if ended.last_seq >= self._tools.outbox.first_seq
        ]
        if self.current is not None:
            dispatch = self.current.dispatch
            held.append(
                InFlightJob(job_id=dispatch.job_id, run_id=dispatch.run_id, attempt=dispatch.attempt)
            )
        return held

    def dispatched(self, dispatch: JobDispatch) -> None:
        report = Report.on(dispatch, self._tools.outbox, self._tools.clock)
        current = self.current
        same_job = current is not None and current.job_id == dispatch.job_id
        ended = self._ended.get(dispatch.job_id)
        if current is not None and same_job and current.attempt == dispatch.attempt:
            report.ack()  # sent twice; the work goes on
        elif (current is not None and same_job and current.attempt > dispatch.attempt) or (
            ended is not None and ended.attempt >= dispatch.attempt
        ):
            log.warning("job.rejected", reason="stale", job_id=dispatch.job_id, attempt=dispatch.attempt)
            report.reject("stale_attempt")
        elif self.draining:
            log.info("job.rejected", reason="draining", job_id=dispatch.job_id)
            report.reject("draining")
        elif current is not None:
            if same_job:
                current.stop("a newer attempt was dispatched", force=True)
            log.warning("job.rejected", reason="busy", job_id=dispatch.job_id, attempt=dispatch.attempt)
            report.reject("busy")
        else:
            report.ack()
            self._start(Execution(dispatch, self._tools))

    def undecodable(self, run_id: str, job_id: str, attempt: int, problem: str) -> None:
        """A dispatch that this agent cannot read: its job fails now, with the reason (AG-11)."""
        report = Report(
            self._tools.outbox, self._tools.clock, run_id=run_id, job_id=job_id, attempt=attempt
        )
        report.ack()
        text = f"the agent cannot read this dispatch: {problem}"
        self._remember(
            run_id, job_id, attempt, report.ended(JobResult(status=JobStatus.FAILED, error_message=text))
        )

    def stop_asked(self, cancel: JobCancel) -> None:
        """Only `force` escalates: a cancel that comes again may be the same one, repeated."""
        current = self.current
        if current is not None and current.job_id == cancel.job_id:
            if current.attempt <= cancel.attempt:
                log.info("job.stop_asked", job_id=cancel.job_id, force=cancel.force, reason=cancel.reason)
                current.stop(cancel.reason, force=cancel.force)
            return
        ended = self._ended.get(cancel.job_id)
        if ended is not None and ended.attempt >= cancel.attempt:
            return  # its terminal status is there or on the way
        # Never here, or lost with an earlier process: it must still end once.
        log.info("job.stop_asked_unknown", job_id=cancel.job_id, attempt=cancel.attempt)
        report = Report(
            self._tools.outbox,
            self._tools.clock,
            run_id=cancel.run_id,
            job_id=cancel.job_id,
            attempt=cancel.attempt,
        )
        seq = report.ended(JobResult(status=JobStatus.CANCELLED, error_message=cancel.reason))
        self._remember(cancel.run_id, cancel.job_id, cancel.attempt, seq)

    # ── what the agent does ──────────────────────────────────────────────────────────────────────

    def pressure(self, pressure: Pressure) -> None:
        if self.current is not None:
            self.current.pressure(pressure)

    def heartbeat(self) -> JobHeartbeat | None:
        """For the job that runs, if one does (AG-26)."""
        if self.current is None:
            return None
        dispatch = self.current.dispatch
        return JobHeartbeat(
            run_id=dispatch.run_id,
            job_id=dispatch.job_id,
            attempt=dispatch.attempt,
            timestamp=self._tools.clock.now_ms(),
        )

    async def wait_idle(self) -> None:
        await self._idle.wait()

    async def shut_down(self) -> None:
        """No new job; the current one has 10 s, then it is stopped, then killed (AG-95)."""
        self.draining = True
        for within_s, force in ((FINISH_WITHIN_S, False), (STOP_WITHIN_S, True), (STOP_WITHIN_S, True)):
            try:
                async with asyncio.timeout(within_s):
                    await self.wait_idle()
                return
            except TimeoutError:
                if self.current is not None:
                    self.current.shut_down(force=force)
        if self._task is not None:
            self._task.cancel()  # it does not end whatever we do; the kernel will see to it

    def _start(self, execution: Execution) -> None:
        self.current = execution
        self._idle.clear()
        self._tools.telemetry.jobs_active.set(1)
        self._task = self._tasks.create_task(self._run(execution), name="job")

    async def _run(self, execution: Execution) -> None:
        last_seq = await execution.run()
        dispatch = execution.dispatch
        self._remember(dispatch.run_id, dispatch.job_id, dispatch.attempt, last_seq)
        self.current = self._task = None
        self._tools.telemetry.jobs_active.set(0)
        self._idle.set()
        self._on_ended()

    def _remember(self, run_id: str, job_id: str, attempt: int, last_seq: int) -> None:
        self._ended[job_id] = _Ended(run_id, attempt, last_seq)
        self._ended.move_to_end(job_id)
        while len(self._ended) > _REMEMBERED:
            oldest = next(iter(self._ended))
            if self._ended[oldest].last_seq >= self._tools.outbox.first_seq:
                break
            del self._ended[oldest]
