"""Calls on `ctx` that know whether anybody awaited them (AU-14).

`ctx.sh("pytest")` without `await` would be a green build that ran nothing. So each such call is a
coroutine object with a memory, and a step whose calls were not awaited fails, naming call and line.
"""

import asyncio
import os
import sys
from collections.abc import Coroutine, Generator
from types import TracebackType
from typing import Any, TypeVar

from msgspec import Struct

T = TypeVar("T")
_OUR_FOLDER = os.path.dirname(os.path.abspath(__file__)) + os.sep


class Forgotten(Struct, frozen=True, kw_only=True):
    """A call that did not run to its end before its step did."""

    call: str
    file: str
    line: int
    started: bool


class TrackedCall(Coroutine[Any, Any, T]):
    """A coroutine in every respect: `await`, `gather`, `create_task` and `TaskGroup` take it."""

    def __init__(self, inner: Coroutine[Any, Any, T], call: str) -> None:
        frame = sys._getframe(1)  # noqa: SLF001 - the author's line; inspect would read the source
        while frame.f_back is not None and frame.f_code.co_filename.startswith(_OUR_FOLDER):
            frame = frame.f_back
        self._inner = inner
        self._call = call
        self._file = frame.f_code.co_filename
        self._line = frame.f_lineno
        self._started = False
        self._ended = False
        self._task: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # type: ignore[return-value]  # send, throw and close make a generator of it

    def __iter__(self) -> "TrackedCall[T]":
        return self

    def __next__(self) -> Any:
        return self.send(None)

    def send(self, value: Any, /) -> Any:
        if not self._started:
            self._started = True
            self._task = asyncio.current_task()
        try:
            return self._inner.send(value)
        except BaseException:
            self._ended = True
            raise

    def throw(
        self,
        typ: Any,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
        /,
    ) -> Any:
        self._started = True
        error = typ if isinstance(typ, BaseException) else (val or typ())
        assert isinstance(error, BaseException)
        try:
            return self._inner.throw(error if tb is None else error.with_traceback(tb))
        except BaseException:
            self._ended = True
            raise

    def close(self) -> None:
        self._started = self._ended = True
        self._inner.close()

    def forgotten(self) -> Forgotten | None:
        """Set when the call never ran, or still runs and nobody asked it to stop."""
        if self._ended or (self._task is not None and self._task.cancelling()):
            return None
        return Forgotten(call=self._call, file=self._file, line=self._line, started=self._started)

    async def give_up(self, *, within_s: float) -> None:
        """End it if it runs; it never will if it does not."""
        if self._task is None:
            self.close()
        elif not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=within_s)

    def __del__(self) -> None:
        if not self._started:
            self._inner.close()  # our message replaces Python's warning
