"""What the Platform clears away by itself, a little at a time (PD-37)."""

import asyncio
from datetime import timedelta

from kici.platform.people.throttle import WINDOW
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

PERIOD_SECONDS = 300
EVENT_LOG_KEPT = timedelta(days=30)
_BATCH = 5_000


class Housekeeping:
    def __init__(self, engine: AsyncEngine, clock: Clock, metrics: Metrics) -> None:
        self._engine = engine
        self._clock = clock
        self._runs = metrics.counter("platform_job_runs_total", "Scheduled jobs", ["job", "result"])
        self._succeeded = metrics.gauge(
            "platform_job_last_success_timestamp_seconds", "When a scheduled job last succeeded", ["job"]
        )

    async def run(self) -> None:
        """For ever."""
        await supervised("housekeeping", self._loop)

    async def _loop(self) -> None:
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            try:
                await self.tidy()
            except Exception:
                self._runs.labels("tidy", "failure").inc()
                raise
            self._runs.labels("tidy", "success").inc()
            self._succeeded.labels("tidy").set(self._clock.now_ms() / 1000)

    async def tidy(self) -> None:
        now = to_datetime(self._clock.now_ms())
        for statement, before in (
            ("DELETE FROM sessions WHERE expires_at < :before", now),
            ("DELETE FROM sign_in_links WHERE expires_at < :before", now - timedelta(days=1)),
            ("DELETE FROM sign_in_failures WHERE at < :before", now - WINDOW),
        ):
            async with self._engine.begin() as tx:
                await tx.execute(text(statement), {"before": before})
        while True:
            async with self._engine.begin() as tx:
                gone = await tx.execute(
                    text("""
                        DELETE FROM event_log WHERE ctid = ANY(ARRAY(
                            SELECT ctid FROM event_log WHERE received_at < :before LIMIT :batch))
                    """),
                    {"before": now - EVENT_LOG_KEPT, "batch": _BATCH},
                )
            if gone.rowcount < _BATCH:
                return
