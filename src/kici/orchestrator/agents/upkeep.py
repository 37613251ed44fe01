"""What the tables must hear of connected agents, and these of the tables, every few seconds."""

import asyncio

from kici.orchestrator.agents import roster
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.runs.execution import Execution

PERIOD_S = 5.0
SEEN_EVERY = 6  # periods


async def upkeep(execution: Execution, hub: Hub, *, seen: bool) -> None:
    """Sockets of revoked tokens end (AG-33); with `seen`, `last_seen_at` moves on."""
    connections = list(hub)
    if not connections:
        return
    async with execution.engine.begin() as tx:
        gone = await roster.revoked(tx, {connection.identity.token_id for connection in connections})
        if seen:
            await roster.seen(tx, [connection.identity.connection_id for connection in connections])
    hub.close_tokens(gone)


async def upkeep_loop(execution: Execution, hub: Hub) -> None:
    """For ever."""
    period = 0
    while True:
        await asyncio.sleep(PERIOD_S)
        period += 1
        await upkeep(execution, hub, seen=period % SEEN_EVERY == 0)
