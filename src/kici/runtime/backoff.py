"""Waiting before trying again, and loops that never die of one failure."""

import asyncio
import random
from collections.abc import Awaitable, Callable

from kici.runtime.logging import get_logger

log = get_logger(__name__)


def reconnect_delay(attempt: int, *, cap_seconds: float = 60.0) -> float:
    """min(1 s · 1.5^attempt · (1 + random · 0.5), cap), attempt from 0 (AG-5, PD-14)."""
    return min(1.5 ** min(attempt, 40) * (1 + random.random() * 0.5), cap_seconds)


async def supervised(name: str, body: Callable[[], Awaitable[None]], *, cap_seconds: float = 5.0) -> None:
    """Run `body` again and again. It is meant not to return; a failure is logged and it starts anew
    after a growing pause. Cancellation passes."""
    attempt = 0
    while True:
        started = asyncio.get_running_loop().time()
        try:
            await body()
        except Exception as error:
            log.error("loop.failed", loop=name, exc_info=error)
        if asyncio.get_running_loop().time() - started > 30:
            attempt = 0
        await asyncio.sleep(min(0.05 * 2**attempt, cap_seconds))
        attempt = min(attempt + 1, 10)
