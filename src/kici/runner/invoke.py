"""Calls of author functions: `async def` on the event loop, `def` on a thread of its own (AU-13)."""

import asyncio
import contextvars
import ctypes
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from kici.sdk.definitions import is_coroutine_function

# What the thread of a `def` has handed to the event loop and waits for.
handed_over: ContextVar[set[Future[Any]] | None] = ContextVar("kici_handed_over", default=None)


class ExitedError(Exception):
    """Author code called `sys.exit` with something other than success."""

    def __init__(self, code: object) -> None:
        super().__init__(f"sys.exit({code!r})")
        self.exit_code = code if isinstance(code, int) else 1


async def invoke(fn: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    """What the function returns or raises; `sys.exit` becomes None or ExitedError."""
    body = _awaited if is_coroutine_function(fn) else _in_thread
    return await body(fn, arguments, named)


async def _awaited(fn: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    try:
        return await fn(*arguments, **named)
    except SystemExit as exit_:
        return _exited(exit_)


def _exited(exit_: SystemExit) -> None:
    if exit_.code not in (None, 0):
        raise ExitedError(exit_.code) from exit_


async def _in_thread(fn: Callable[..., Any], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A `def` runs on a thread of its own: it may block, and a stuck one holds up nobody else."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    waited_for: set[Future[Any]] = set()
    context.run(handed_over.set, waited_for)

    def settle(result: Any, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(result)
        elif isinstance(error, StopIteration):
            ended.set_exception(RuntimeError(f"raised {error!r}"))
        else:
            ended.set_exception(error)

    def body() -> None:
        result, error = None, None
        try:
            result = context.run(fn, *arguments, **named)
        except SystemExit as exit_:
            try:
                _exited(exit_)
            except ExitedError as translated:
                error = translated
        except BaseException as raised:
            error = raised
        loop.call_soon_threadsafe(settle, result, error)

    thread = threading.Thread(target=body, name="kici-step", daemon=True)
    thread.start()
    while True:
        try:
            result = await asyncio.shield(ended)
            break
        except asyncio.CancelledError:
            if ended.done():
                raise
            for call in list(waited_for):
                call.cancel()
            if thread.ident is not None:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(thread.ident), ctypes.py_object(asyncio.CancelledError)
                )
    return await result if hasattr(result, "__await__") else result
