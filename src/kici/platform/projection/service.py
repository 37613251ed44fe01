"""Applying projection batches, then telling browsers what changed."""

import asyncio
from collections.abc import Callable, Sequence

from kici.platform.errors import DATABASE_TROUBLE, database_is_away
from kici.platform.projection import queries
from kici.platform.projection.queries import Applied
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.database import AsyncEngine
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)


class ProjectionService:
    """`on_applied` hears (org id, items, what of them was new) after the commit, in order per org."""

    def __init__(self, engine: AsyncEngine, metrics: Metrics) -> None:
        # One statement is one transaction: no BEGIN and COMMIT round trips.
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._items = metrics.counter(
            "platform_execution_status_updates_total", "Projection items applied", ["result"]
        )
        self._jobs = metrics.counter(
            "platform_job_status_forwards_total", "Job snapshots applied", ["status"]
        )
        self._steps = metrics.counter(
            "platform_step_status_forwards_total", "Step snapshots applied", ["state"]
        )
        self._events = metrics.counter("platform_execution_events_total", "Run events applied")
        self._seconds = metrics.histogram(
            "platform_projection_duration_seconds",
            "Time to apply one batch",
            (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5),
        )
        self.on_applied: list[Callable[[str, Sequence[ProjectionItem], Applied], None]] = []

    async def apply(self, org_id: str, cluster_name: str, items: Sequence[ProjectionItem]) -> None:
        """Returns when the batch is committed. Waits out a database that is away; an item that the
        database refuses is logged and left out, so that it can't hold up all that follow."""
        if not items:
            return
        attempt = 0
        while True:
            try:
                with self._seconds.time():
                    async with self._engine.connect() as tx:
                        applied = await queries.apply(tx, org_id, cluster_name, items)
                break
            except DATABASE_TROUBLE as error:
                if not database_is_away(error):
                    await self._apart(org_id, cluster_name, items, error)
                    return
                log.warning("projection.waiting", attempt=attempt, exc_info=error)
            await asyncio.sleep(min(0.1 * 2**attempt, 5))
            attempt += 1
        self._items.labels("applied").inc(len(items))
        for item in items:
            for job in item.jobs:
                self._jobs.labels(job.status).inc()
            for step in item.steps:
                self._steps.labels(step.status).inc()
            self._events.inc(len(item.events))
        for told in self.on_applied:
            told(org_id, items, applied)

    async def _apart(
        self, org_id: str, cluster_name: str, items: Sequence[ProjectionItem], error: Exception
    ) -> None:
        if len(items) == 1:
            self._items.labels("refused").inc()
            log.error("projection.refused", run_id=items[0].run_id, rev=items[0].rev, exc_info=error)
            return
        middle = len(items) // 2
        await self.apply(org_id, cluster_name, items[:middle])
        await self.apply(org_id, cluster_name, items[middle:])
