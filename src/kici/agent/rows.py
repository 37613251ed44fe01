"""The rows of one attempt and their logs: a row ends after its log, with the log's true size (AG-45, AG-83).

The preparation row ends when the first step begins, with what the workflow printed while it was loaded. What
author code prints outside of steps after that has a row of its own, which is there only when something was.
"""

from collections.abc import Callable

import msgspec

from kici.agent.report import Report, fitting
from kici.agent.streams import Streams
from kici.agent.telemetry import Telemetry
from kici.protocol.runner_v1 import StepEnded, StepStarted
from kici.runtime.clock import Clock
from kici.spec.ids import OUTSIDE_STEP, PREPARE_STEP
from kici.spec.states import StepStatus


class Rows:
    def __init__(
        self,
        report: Report,
        streams: Streams,
        telemetry: Telemetry,
        clock: Clock,
        *,
        took_ms: Callable[[], int],
    ) -> None:
        """`took_ms`: since the attempt began."""
        self._report = report
        self._streams = streams
        self._telemetry = telemetry
        self._clock = clock
        self._took_ms = took_ms
        self._preparing = True
        self._prepared = False
        self._begun: dict[int, StepStarted] = {}
        self._last_ms = 0

    # ── preparation ──────────────────────────────────────────────────────────────────────────────

    def prepared(self) -> None:
        """From here on, whatever comes: the preparation itself succeeded."""
        self._prepared = True

    def end_preparation(self, state: StepStatus, error_message: str | None) -> None:
        """`state` and `error_message`: why it was not prepared, if it was not. May be repeated."""
        if not self._preparing:
            return
        self._preparing = False
        if self._prepared:
            state, error_message = StepStatus.SUCCESS, None
        elif error_message:
            self._streams.say(error_message)
        totals = self._streams.end(PREPARE_STEP)
        self._report.prepare(
            state,
            error_message=error_message,
            duration_ms=self._took_ms(),
            lines=totals.lines,
            size=totals.bytes,
        )

    # ── steps and what runs like them ────────────────────────────────────────────────────────────

    def output(self, step_index: int, data: bytes) -> None:
        """Masked bytes of a row."""
        self._streams.feed(self._outside() if step_index == PREPARE_STEP else step_index, data)

    def started(self, m: StepStarted) -> None:
        """Retries go on in the same row."""
        if m.attempt == 1:
            self.end_preparation(StepStatus.SUCCESS, None)
            self._begin(m)

    def ended(self, m: StepEnded) -> None:
        """All output of the row has come."""
        begun = self._begun.pop(m.step_index, None)
        m, left_out = fitting(m)
        if begun is not None:
            m = msgspec.structs.replace(m, timestamp_ms=max(m.timestamp_ms, begun.timestamp_ms))
        if left_out:
            self._streams.say(f"Left out, too large to be sent: {', '.join(left_out)}", m.step_index)
        self._telemetry.steps.labels(m.status).inc()
        self._telemetry.step_duration.observe(m.duration_ms / 1000)
        self._end(m, begun)

    def close(self) -> None:
        """The attempt is over: the row of what was printed outside of steps, and every log."""
        row = self._begun.pop(OUTSIDE_STEP, None)
        if row is not None:
            now_ms = max(self._clock.now_ms(), row.timestamp_ms)
            ended = StepEnded(
                step_index=OUTSIDE_STEP,
                step_name=row.step_name,
                step_type=row.step_type,
                status=StepStatus.SUCCESS,
                timestamp_ms=now_ms,
                duration_ms=now_ms - row.timestamp_ms,
            )
            self._end(ended, row)
        self._streams.close()

    def _outside(self) -> int:
        """The row of what is printed outside of steps, now."""
        if self._preparing:
            return PREPARE_STEP
        if OUTSIDE_STEP not in self._begun:
            self._begin(
                StepStarted(
                    step_index=OUTSIDE_STEP,
                    step_name="Outside of steps",
                    step_type="outside",
                    timestamp_ms=self._clock.now_ms(),
                )
            )
        return OUTSIDE_STEP

    def _begin(self, m: StepStarted) -> None:
        """Each at least a millisecond after the one before: times tell the order."""
        self._last_ms = max(m.timestamp_ms, self._last_ms + 1)
        m = msgspec.structs.replace(m, timestamp_ms=self._last_ms)
        self._begun[m.step_index] = m
        self._streams.open(m.step_index)
        self._report.step_started(m)

    def _end(self, m: StepEnded, begun: StepStarted | None) -> None:
        totals = self._streams.end(m.step_index)
        self._report.step_ended(
            m,
            lines=totals.lines,
            size=totals.bytes,
            concurrency_kind=begun.concurrency_kind if begun else "sequential",
            group_id=begun.group_id if begun else None,
        )
