"""Without a Platform nobody takes what is meant for it: it is thrown away instead of piling up (OR-7)."""

import asyncio

from kici.runtime.database import AsyncEngine, text

PERIOD_S = 10.0
BATCH = 5_000

_DISCARD = text(
    "DELETE FROM outbox WHERE seq IN (SELECT seq FROM outbox WHERE topic = 'platform' ORDER BY seq LIMIT :batch)"
)


async def discard_loop(engine: AsyncEngine) -> None:
    """For ever, in an independent orchestrator."""
    while True:
        async with engine.begin() as tx:
            done = await tx.execute(_DISCARD, {"batch": BATCH})
        if done.rowcount < BATCH:
            await asyncio.sleep(PERIOD_S)
