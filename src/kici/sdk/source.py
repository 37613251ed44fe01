"""Where a definition stands in its author's file (AU-12)."""

import sys
from itertools import islice

from msgspec import Struct


class SourceLocation(Struct, frozen=True, kw_only=True):
    """`file` as Python reports it (absolute for workflow files); `line` and `column` count from 1."""

    file: str
    line: int
    column: int = 1


def caller() -> SourceLocation:
    """The innermost frame outside this package: the author's call or decorator."""
    frame = sys._getframe(1)  # noqa: SLF001 - inspect would cost 6 ms of every import
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).startswith("kici.sdk"):
        frame = frame.f_back
    position = next(islice(frame.f_code.co_positions(), frame.f_lasti // 2, None), None)
    line = (position and position[0]) or frame.f_lineno
    column = (position and position[2]) or 0
    return SourceLocation(file=frame.f_code.co_filename, line=line, column=column + 1)


def of_function(fn: object) -> SourceLocation | None:
    """The first line of a function, decorators included; None for callables without code."""
    code = getattr(fn, "__code__", None)
    if code is None:
        return None
    return SourceLocation(file=code.co_filename, line=code.co_firstlineno)
