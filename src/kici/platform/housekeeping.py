"""What the Platform clears away by itself, a little at a time (PD-37)."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

from kici.platform.link.queries import release_silent
from kici.platform.people.throttle import WINDOW
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

PERIOD_SECONDS = 60
TIDY_EVERY = 10  # periods
SILENT = timedelta(minutes=6)  # twice the time after which a silent socket is closed (PD-36)
EVENT_LOG_KEPT = timedelta(days=30)
_BATCH = 5_000


class Housekeeping:
    def __init__(self, engine: AsyncEngine, clock: Clock, metrics: Metrics) -> None:
        self._engine = engine
        self._clock = clock
        self._orphans = metrics.counter(
            "platform_orphan_connections_swept_total", "Connections that no replica holds any more"
        )
        self._runs = metrics.counter("platform_job_runs_total", "Scheduled jobs", ["job", "result"])
        self._succeeded = metrics.gauge(
            "platform_job_last_success_timestamp_seconds", "When a scheduled job last succeeded", ["job"]
        )

    async def run(self) -> None:
        """For ever."""
        await supervised("housekeeping", self._loop)

    async def _loop(self) -> None:
        period = 0
        while True:
            await asyncio.sleep(PERIOD_SECONDS)
            period += 1
            await self._job("orphan_sweep", self.sweep_orphans)
            if period % TIDY_EVERY == 0:
                await self._job("tidy", self.tidy)

    async def _job(self, name: str, body: Callable[[], Awaitable[None]]) -> None:
        try:
            await body()
        except Exception:
            self._runs.labels(name, "failure").inc()
            raise
        self._runs.labels(name, "success").inc()
        self._succeeded.labels(name).set(self._clock.now_ms() / 1000)

    async def sweep_orphans(self) -> None:
        async with self._engine.begin() as tx:
            released = await release_silent(tx, to_datetime(self._clock.now_ms()) - SILENT)
        if released:
            self._orphans.inc(released)
            log.warning("orchestrators.swept", count=released)

    async def tidy(self) -> None:
        now = to_datetime(self._clock.now_ms())
        for statement, before in (
            ("DELETE FROM sessions WHERE expires_at < :before", now),
            ("DELETE FROM sign_in_links WHERE expires_at < :before", now - timedelta(days=1)),
            ("DELETE FROM sign_in_failures WHERE at < :before", now - WINDOW),
            ("DELETE FROM oauth_codes WHERE expires_at < :before", now - timedelta(days=1)),
            ("DELETE FROM oauth_devices WHERE expires_at < :before", now - timedelta(days=1)),
            ("DELETE FROM oauth_grants WHERE expires_at < :before", now - timedelta(days=1)),
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
