"""`ctx` for a `def` that declares `SyncContext`: its calls return when they are done (AU-13).

The function's thread hands each call to the event loop and waits for it. Stopping the activity cancels
such calls.
"""

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError
from typing import Any

from kici.runner.activity import Activity
from kici.runner.invoke import handed_over
from kici.sdk.blocking import blocking, wants_blocking
from kici.sdk.definitions import is_coroutine_function


def adapted(fn: Callable[..., Any], activity: Activity, ctx: Any) -> Any:
    """The context as the function declared it."""
    if is_coroutine_function(fn) or not wants_blocking(fn):
        return ctx

    def wait(call: Coroutine[Any, Any, Any]) -> Any:
        waited_for = handed_over.get()
        if waited_for is None:
            waited_for = set()  # a thread of the author's: only commands of its calls are stopped
        handed = asyncio.run_coroutine_threadsafe(call, activity.services.loop)
        waited_for.add(handed)
        try:
            return handed.result()
        except CancelledError:
            raise asyncio.CancelledError from None
        finally:
            waited_for.discard(handed)

    return blocking(ctx, wait)
