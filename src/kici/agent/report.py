"""What the orchestrator hears about one attempt of a job. Every frame here is reliable and in order."""

from typing import Any, ClassVar, Literal

import msgspec

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
from kici.runner.host import JobResult
from kici.runtime.clock import Clock
from kici.spec.errors import KiciError
from kici.spec.ids import PREPARE_STEP
from kici.spec.states import JobStatus, StepStatus

PREPARE_NAME = "Prepare"
MAX_RESULT = 2 << 20  # bytes of JSON; the orchestrator takes frames of 4 MiB


class ResultTooLarge(KiciError):
    """What a job came to does not fit into a frame."""

    code: ClassVar[str] = "result_too_large"


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
        result: JobResult,
        *,
        init_failure_category: str | None = None,
        secret_outputs: dict[str, str] | None = None,
    ) -> int:
        """The terminal state; returns its frame's number. Raises ResultTooLarge, or what msgspec raises for
        values that are no JSON; then nothing was sent."""
        now = self._clock.now_ms()
        for name, value in (
            ("outputs", result.outputs),
            ("generated jobs", result.generated),
            ("rules", result.rules),
            ("results", result.init),
        ):
            if value and (size := len(msgspec.json.encode(value))) > MAX_RESULT:
                raise ResultTooLarge(f"the job's {name} are {size} bytes of JSON; {MAX_RESULT} are allowed")
        return self._outbox.put(
            lambda seq: JobStatusUpdate(
                seq=seq,
                state=result.status,
                timestamp=now,
                error_message=_sendable(result.error_message),
                timeout_reason=result.timeout_reason,
                init_failure_category=init_failure_category or result.failure_category,
                outputs=result.outputs or None,
                rules=result.rules,
                init=result.init,
                generated=result.generated,
                drifted=result.drifted,
                secret_outputs=secret_outputs or {},
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
        """`step` as `fitting` gave it."""
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
                secrets_accessed=step.secrets_accessed,
                check_outcome=step.check_outcome,
                annotations=step.annotations,
                summary=step.summary,
                drift_summary=step.drift_summary,
                rules=step.rules,
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


def fitting(step: StepEnded) -> tuple[StepEnded, list[str]]:
    """The end of a step as it fits into a frame, and the parts that had to be left out for that."""
    left_out: list[str] = []
    for name in ("annotations", "summary", "drift_summary", "rules"):
        extras = [step.annotations, step.summary, step.drift_summary, step.rules]
        if not any(extras) or len(msgspec.json.encode(extras)) <= MAX_RESULT:
            break
        left_out.append(name.replace("_", " "))
        nothing: Any = None if name in {"summary", "drift_summary"} else []
        step = msgspec.structs.replace(step, **{name: nothing})
    return step, left_out


def _sendable(text: str | None) -> str | None:
    """Names of files need not be UTF-8, and stand in messages of the system; JSON must be."""
    return None if text is None else text.encode(errors="replace").decode()
