"""`kici_orch_outbox_depth` and `kici_orch_outbox_oldest_seconds`, by topic."""

import asyncio

from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.orchestrator.runs.projection import PLATFORM_TOPIC
from kici.runtime.database import AsyncEngine, text

MEASURE_S = 10.0

# Order by the key, not min(): the oldest row is the first of the index.
_DEPTH = text("""
    SELECT (SELECT count(*) FROM outbox WHERE topic = :topic), coalesce((
        SELECT extract(epoch FROM now() - o.created_at) FROM outbox o WHERE o.topic = :topic
        ORDER BY o.seq LIMIT 1), 0)::float8
""")


async def measure(engine: AsyncEngine, metrics: ExecutionMetrics, topic: str = PLATFORM_TOPIC) -> int:
    """Sets both gauges; the depth."""
    async with engine.connect() as tx:
        depth, oldest_s = (await tx.execute(_DEPTH, {"topic": topic})).one()
    metrics.outbox_depth.labels(topic).set(depth)
    metrics.outbox_oldest.labels(topic).set(oldest_s)
    return depth


async def measure_loop(engine: AsyncEngine, metrics: ExecutionMetrics) -> None:
    """For ever."""
    while True:
        await measure(engine, metrics)
        await asyncio.sleep(MEASURE_S)
