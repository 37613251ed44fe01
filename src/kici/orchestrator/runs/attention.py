"""How long this process has listened to its agents without a break (OR-160).

A process that was stopped, restarted, starved or without its database could not have heard an agent. So the
clocks that an agent must beat (life signs, answers, its return) count only while we listened; after a break
they begin anew.
"""

import asyncio
from collections.abc import Awaitable, Callable

from kici.runtime.clock import Clock
from kici.runtime.logging import get_logger

log = get_logger(__name__)

TICK_S = 1.0
BREAK_MS = 2_500  # between two ticks; less than any sensible life sign interval takes to matter


class Attention:
    """The wall clock, because PostgreSQL's is what agents are judged by: where it jumps, that is a break, too."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._since_ms = self._ticked_ms = clock.now_ms()

    def tick(self) -> None:
        """All that agents had sent until now is applied."""
        self.for_ms()
        self._ticked_ms = self._clock.now_ms()

    def for_ms(self) -> int:
        """Milliseconds since the last break; 0 during one."""
        now_ms = self._clock.now_ms()
        if not 0 <= now_ms - self._ticked_ms <= BREAK_MS:
            self._since_ms = now_ms
        return now_ms - self._since_ms

    async def listen(self, reports_applied: Callable[[], Awaitable[object]]) -> None:
        """For ever. `reports_applied` returns when everything that came before the call is in the tables."""
        while True:
            try:
                await reports_applied()
            except TimeoutError:
                continue
            missed_ms = self._clock.now_ms() - self._ticked_ms
            self.tick()
            if not 0 <= missed_ms <= BREAK_MS:
                log.warning("agents.not_heard", missed_ms=missed_ms)
            await asyncio.sleep(TICK_S)
