"""The small vocabulary of option types: patterns, durations, scalars."""

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TypeAlias, TypeVar, Union

T = TypeVar("T")

Scalar: TypeAlias = str | int | float | bool
JSON: TypeAlias = Any
Duration: TypeAlias = int | float | timedelta | str  # seconds, timedelta, or "500ms" "90s" "10m" "2h" "1d"
Pattern: TypeAlias = str | re.Pattern[str]  # a str holding * ? [ ] { } is a glob
Patterns: TypeAlias = Pattern | Sequence[Pattern]  # a leading "!" excludes
Maybe: TypeAlias = Union[Awaitable[T], T]  # noqa: UP007 - mypy refuses `Awaitable[T] | T` as a generic alias
StaticMatrix: TypeAlias = Sequence[Scalar] | Mapping[str, Sequence[Scalar]]
AnyFunction: TypeAlias = Callable[..., Any]

_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_GLOB_CHARACTERS = frozenset("*?[]{}")
_LONGEST_MS = 366 * 86_400_000


def duration_ms(value: object) -> int:
    """Milliseconds of an author's duration (AU-4); ValueError says what is wrong with it."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        milliseconds = value * 1_000
    elif isinstance(value, timedelta):
        milliseconds = value.total_seconds() * 1_000
    elif isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write '500ms', '90s', '10m', '2h' or '1d'")
        milliseconds = float(match[1]) * _UNIT_MS[match[2]]
    else:
        raise ValueError(  # noqa: TRY004 - one kind of error for the caller
            f"{type(value).__name__} is not a duration; write seconds, a timedelta, or '90s'"
        )
    if not 0 <= milliseconds <= _LONGEST_MS:  # also refuses nan
        raise ValueError(f"{value!r} is outside 0 to 366 days")
    return round(milliseconds)


def is_glob(text: str) -> bool:
    return not _GLOB_CHARACTERS.isdisjoint(text)


def as_patterns(value: Patterns) -> tuple[Pattern, ...]:
    """One pattern or several, as a tuple."""
    if isinstance(value, str | re.Pattern):
        return (value,)
    return tuple(value)
