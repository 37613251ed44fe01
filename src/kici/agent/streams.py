"""The log streams of one job: one cutter per step, one timer for all, everything into the outbox.

A stream ends before its row does, so that the row's totals are those of a whole log.
"""

import asyncio
from collections.abc import Callable

from kici.agent.logs import PATIENCE_MS, Cutter, Totals
from kici.agent.spool import Outbox
from kici.runtime.clock import Clock
from kici.spec.ids import PREPARE_STEP

# Nobody watches while the orchestrator is away: fewer, fuller blocks are kinder to the spool.
_OFFLINE_PATIENCE_MS = 2_000


class Streams:
    def __init__(
        self,
        outbox: Outbox,
        clock: Clock,
        *,
        job_id: str,
        attempt: int,
        max_bytes: int,
        on_bytes: Callable[[int], None],
    ) -> None:
        self._outbox = outbox
        self._clock = clock
        self._job_id = job_id
        self._attempt = attempt
        self._max_bytes = max_bytes
        self._on_bytes = on_bytes
        self._cutters: dict[int, Cutter] = {}
        self._timer: asyncio.TimerHandle | None = None

    def say(self, text: str, step_index: int = PREPARE_STEP) -> None:
        """A line of our own."""
        self.feed(step_index, text.encode(errors="replace") + b"\n")

    def feed(self, step_index: int, data: bytes) -> None:
        cutter = self.open(step_index)
        cutter.patience_ms = PATIENCE_MS if self._outbox.is_connected else _OFFLINE_PATIENCE_MS
        self._on_bytes(len(data))
        cutter.feed(data, self._clock.now_ms())
        if self._timer is None and cutter.due_ms is not None:
            self._arm()

    def open(self, step_index: int) -> Cutter:
        cutter = self._cutters.get(step_index)
        if cutter is None:
            cutter = self._cutters[step_index] = Cutter(
                self._job_id, self._attempt, step_index, self._outbox.put_block, max_bytes=self._max_bytes
            )
        return cutter

    def end(self, step_index: int) -> Totals:
        """Last block of a stream. A stream that was never opened has no blocks, and says zero."""
        cutter = self._cutters.pop(step_index, None)
        return cutter.end(self._clock.now_ms()) if cutter is not None else Totals(0, 0)

    def close(self) -> None:
        """Ends what is still open."""
        for step_index in list(self._cutters):
            self.end(step_index)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        due = min(
            (due for cutter in self._cutters.values() if (due := cutter.due_ms) is not None), default=None
        )
        if due is None:
            self._timer = None
            return
        delay_s = max(0, due - self._clock.now_ms()) / 1000
        self._timer = asyncio.get_running_loop().call_later(delay_s, self._tick)

    def _tick(self) -> None:
        now_ms = self._clock.now_ms()
        for cutter in self._cutters.values():
            cutter.tick(now_ms)
        self._arm()
