"""Calls on `ctx` that know whether anybody awaited them (AU-14).

`ctx.sh("pytest")` without `await` would be a green build that ran nothing. So each such call is a
coroutine object with a memory, and a step whose calls were not awaited fails, naming call and line. Using the
call as if it were its result (`if ctx.secrets.has("x")` would always be true) fails at once.
"""

import asyncio
import os
import sys
from collections.abc import Collection, Coroutine, Generator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, NoReturn, TypeVar

from msgspec import Struct

T = TypeVar("T")


class Forgotten(Struct, frozen=True, kw_only=True):
    """A call that did not run to its end before its step did."""

    call: str
    file: str
    line: int
    started: bool


class NotAwaitedError(Exception):
    """Calls on `ctx` that the step never awaited (AU-14). Files in `workspace` are named as in the repository."""

    def __init__(self, calls: Collection[Forgotten], workspace: str = "") -> None:
        inside = workspace.rstrip(os.sep) + os.sep if workspace else ""
        told = "; ".join(
            f"{call.call} at {call.file.removeprefix(inside)}:{call.line} "
            + ("was still running when the step ended" if call.started else "was never awaited")
            for call in calls
        )
        super().__init__(f"{told}. Write `await` before it")


class TrackedCall(Coroutine[Any, Any, T]):
    """A coroutine in every respect: `await`, `gather`, `create_task` and `TaskGroup` take it.

    `watched`: somebody will ask whether it was forgotten; otherwise Python itself warns.
    """

    def __init__(
        self, inner: Coroutine[Any, Any, T], call: str, *, workspace: str = "", watched: bool = True
    ) -> None:
        frame = sys._getframe(1)  # noqa: SLF001 - the author's line; inspect would read the source
        while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("kici."):
            frame = frame.f_back
        self._workspace = workspace
        self._watched = watched
        self._inner = inner
        self._call = call
        self._file = frame.f_code.co_filename
        self._line = frame.f_lineno
        self._started = False
        self._ended = False
        self._task: asyncio.Task[Any] | None = None

    def __await__(self) -> Generator[Any, Any, T]:
        return self  # send, throw and close make a generator of it

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

    def _misused(self, *_: object) -> NoReturn:
        lost = Forgotten(call=self._call, file=self._file, line=self._line, started=False)
        raise NotAwaitedError([lost], self._workspace)

    __bool__ = __len__ = __iter__ = __contains__ = __getitem__ = __format__ = _misused

    def __repr__(self) -> str:
        how = "ended" if self._ended else "running" if self._started else "not awaited"
        return f"<{self._call}, {how}>"

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
        if self._watched and not self._started:
            self._inner.close()  # our message replaces Python's warning


# Calls of contexts that nobody runs a row for, such as those of tests, made while a step is watched.
_watched: ContextVar[list[TrackedCall[Any]] | None] = ContextVar("kici_watched_calls", default=None)


def tracked(inner: Coroutine[Any, Any, T], call: str) -> TrackedCall[T]:
    """The call, remembered by whoever watches."""
    watched = _watched.get()
    made = TrackedCall(inner, call, watched=watched is not None)
    if watched is not None:
        watched.append(made)
    return made


@contextmanager
def watching() -> Generator[list[TrackedCall[Any]]]:
    """Calls made by `tracked` inside the block, for `settle`."""
    calls: list[TrackedCall[Any]] = []
    before = _watched.set(calls)
    try:
        yield calls
    finally:
        _watched.reset(before)


async def settle(calls: Collection[TrackedCall[Any]], *, within_s: float) -> list[Forgotten]:
    """End the calls that were not awaited and return them."""
    forgotten = [(call, lost) for call in calls if (lost := call.forgotten()) is not None]
    for call, _lost in forgotten:
        await call.give_up(within_s=within_s)
    return [lost for _call, lost in forgotten]
