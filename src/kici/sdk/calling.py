"""Awaiting a step like a function, from another step or from a test (AU-6).

The runner does not go through here: it adds time limits, retries and rows of its own.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from kici.sdk import mode
from kici.sdk.blocking import blocking, wants_blocking
from kici.sdk.calls import NotAwaitedError, settle, watching
from kici.sdk.definitions import Step, is_coroutine_function
from kici.sdk.errors import WaitForTimeoutError
from kici.sdk.waits import poll

_GIVE_UP_WITHIN_S = 5.0


async def call_step(step: Step[Any], ctx: Any, params: Mapping[str, Any]) -> Any:
    """What the step returns: with its check before it, or polled until it gives a value.

    Raises NotAwaitedError for calls of a test's ctx that it forgot; the runner watches its own (AU-14).
    """
    before = mode.current.set(getattr(ctx, "check_mode", mode.current.get()))
    with watching() as calls:
        try:
            value = await _call_step(step, ctx, params)
        finally:
            mode.current.reset(before)
            forgotten = await settle(calls, within_s=_GIVE_UP_WITHIN_S)
    if forgotten:
        raise NotAwaitedError(forgotten)
    return value


async def _call_step(step: Step[Any], ctx: Any, params: Mapping[str, Any]) -> Any:
    settings = step.settings
    if settings.wait is not None:
        try:
            return await poll(lambda: call(step.fn, ctx, params), step.name, settings.wait)
        except WaitForTimeoutError as late:
            if settings.wait.on_timeout is None:
                raise
            return await call(settings.wait.on_timeout, late, {})
    if settings.check is None:
        return await call(step.fn, ctx, params)
    drift = await call(settings.check.check, ctx, {})
    if drift is None:
        return (
            None
            if settings.check.when_in_sync is None
            else await call(settings.check.when_in_sync, ctx, {})
        )
    if mode.current.get() != "apply":
        print(f"{step.name}: would change: {settings.check.summarize(drift)}")
        return None
    return await call(step.fn, ctx, params, drift)


async def call(fn: Callable[..., Any], first: Any, params: Mapping[str, Any], *more: Any) -> Any:
    """A `def` runs in a thread, with a blocking ctx when it asks for one (AU-13)."""
    if is_coroutine_function(fn):
        return await fn(first, *more, **params)
    if wants_blocking(fn):
        loop = asyncio.get_running_loop()
        first = blocking(
            first, lambda awaitable: asyncio.run_coroutine_threadsafe(awaitable, loop).result()
        )
    result = await asyncio.to_thread(fn, first, *more, **params)
    return await result if hasattr(result, "__await__") else result
