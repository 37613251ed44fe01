"""What the orchestrator hears about one attempt of a job. Every frame here is reliable and in order."""

from typing import Any, Literal

from kici.agent.spool import Outbox
from kici.protocol.agent_v1 import (
    JobAck,
    JobContext,
    JobDispatch,
    JobReject,
    JobStatusUpdate,
    RunEvent,
    StepStatusUpdate,
)
from kici.protocol.runner_v1 import StepEnded, StepStarted
from kici.runtime.clock import Clock
from kici.spec.ids import PREPARE_STEP
from kici.spec.states import JobStatus, StepStatus

PREPARE_NAME = "Prepare"


class Report:
    """Bound to (run, job, attempt). Times are the agent's clock unless the runner gave its own."""

    def __init__(self, outbox: Outbox, clock: Clock, *, run_id: str, job_id: str, attempt: int) -> None:
        self._outbox = outbox
        self._clock = clock
        self._ids: dict[str, Any] = {"run_id": run_id, "job_id": job_id, "attempt": attempt}

    @classmethod
    def on(cls, dispatch: JobDispatch, outbox: Outbox, clock: Clock) -> "Report":
        return cls(outbox, clock, run_id=dispatch.run_id, job_id=dispatch.job_id, attempt=dispatch.attempt)

    def ack(self) -> None:
        now = self._clock.now_ms()
        self._outbox.put(lambda seq: JobAck(seq=seq, timestamp=now, **self._ids))

    def reject(self, reason: Literal["busy", "draining", "stale_attempt"]) -> None:
        now = self._clock.now_ms()
        self._outbox.put(lambda seq: JobReject(seq=seq, reason=reason, timestamp=now, **self._ids))

    def running(self) -> None:
        now = self._clock.now_ms()
        self._outbox.put(
            lambda seq: JobStatusUpdate(seq=seq, state=JobStatus.RUNNING, timestamp=now, **self._ids)
        )

    def ended(
        self,
        state: JobStatus,
        *,
        error_message: str | None = None,
        timeout_reason: str | None = None,
        init_failure_category: str | None = None,
        outputs: dict[str, Any] | None = None,
    ) -> int:
        """The terminal state; returns its frame's number."""
        now = self._clock.now_ms()
        return self._outbox.put(
            lambda seq: JobStatusUpdate(
                seq=seq,
                state=state,
                timestamp=now,
                error_message=_sendable(error_message),
                timeout_reason=timeout_reason,
                init_failure_category=init_failure_category,
                outputs=outputs,
                **self._ids,
            )
        )

    def prepare(
        self,
        state: StepStatus,
        *,
        error_message: str | None = None,
        duration_ms: int | None = None,
        lines: int | None = None,
        size: int | None = None,
    ) -> None:
        now = self._clock.now_ms()
        self._outbox.put(
            lambda seq: StepStatusUpdate(
                seq=seq,
                step_index=PREPARE_STEP,
                step_name=PREPARE_NAME,
                step_type="prepare",
                state=state,
                timestamp=now,
                error_message=_sendable(error_message),
                duration_ms=duration_ms,
                log_lines=lines,
                log_bytes=size,
                **self._ids,
            )
        )

    def step_started(self, step: StepStarted) -> None:
        self._outbox.put(
            lambda seq: StepStatusUpdate(
                seq=seq,
                step_index=step.step_index,
                step_name=step.step_name,
                step_type=step.step_type,
                state=StepStatus.RUNNING,
                timestamp=step.timestamp_ms,
                concurrency_kind=step.concurrency_kind,
                group_id=step.group_id,
                **self._ids,
            )
        )

    def step_ended(
        self, step: StepEnded, *, lines: int, size: int, concurrency_kind: str, group_id: str | None
    ) -> None:
        self._outbox.put(
            lambda seq: StepStatusUpdate(
                seq=seq,
                step_index=step.step_index,
                step_name=step.step_name,
                step_type=step.step_type,
                state=step.status,
                timestamp=step.timestamp_ms,
                exit_code=step.exit_code,
                error_message=step.error_message,
                duration_ms=step.duration_ms,
                log_lines=lines,
                log_bytes=size,
                concurrency_kind=concurrency_kind,
                group_id=group_id,
                **self._ids,
            )
        )

    def context(self, context: dict[str, Any]) -> None:
        self._outbox.put(lambda seq: JobContext(seq=seq, context=context, **self._ids))

    def event(
        self, event_type: str, *, duration_ms: int | None = None, metadata: dict[str, Any] | None = None
    ) -> None:
        now = self._clock.now_ms()
        self._outbox.put(
            lambda seq: RunEvent(
                seq=seq,
                event_type=event_type,
                timestamp_ms=now,
                duration_ms=duration_ms,
                metadata=metadata or {},
                **self._ids,
            )
        )


def _sendable(text: str | None) -> str | None:
    """Names of files need not be UTF-8, and stand in messages of the system; JSON must be."""
    return None if text is None else text.encode(errors="replace").decode()
