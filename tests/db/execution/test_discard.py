"""An independent orchestrator's outbox stays empty."""

import asyncio

from kici.orchestrator.outbox.discard import discard_loop
from kici.runtime.database import text
from tests.support import postgres


async def test_what_nobody_takes_is_thrown_away(orchestrator_db: postgres.Database):
    """OR-7: independent mode has no Platform."""
    async with orchestrator_db.engine.begin() as tx:
        await tx.execute(
            text(
                "INSERT INTO outbox (topic, key, payload) SELECT 'platform', n::text, '{}' FROM generate_series(1, 50) n"
            )
        )

    async def left() -> int:
        async with orchestrator_db.engine.connect() as connection:
            return await connection.scalar(text("SELECT count(*) FROM outbox")) or 0

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        loop = tasks.create_task(discard_loop(orchestrator_db.engine))
        while await left():
            await asyncio.sleep(0)
        loop.cancel()
