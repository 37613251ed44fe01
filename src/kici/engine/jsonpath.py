"""The part of JSONPath that triggers use (OR-53, AU-79). Pure.

`$`, `.name`, `['name']`, `[0]`, `[-1]`, `.*`, `[*]`, `..name`. A path yields every value it reaches.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, ClassVar, cast

from kici.engine.patterns import InvalidPattern, compile_regex
from kici.spec.errors import InvalidInput

_TOKEN = re.compile(
    r"""(?P<deep>\.\.(?=[\w\-*\[]))?
        (?:(?:(?<=\.\.)|\.)(?P<name>[\w\-]+|\*)
          |\[\s*(?:'(?P<single>(?:[^'\\]|\\.)*)'|"(?P<double>(?:[^"\\]|\\.)*)"|(?P<index>-?\d+)|(?P<star>\*))\s*\])""",
    re.VERBOSE,
)
_REGEX_TEXT = re.compile(r"/(.*)/([imsau]*)", re.DOTALL)
_MAX_VALUES = 10_000


class InvalidPath(InvalidInput):
    code: ClassVar[str] = "invalid_json_path"


_Part = tuple[bool, str | int | None]  # (search at every depth, key or index or None for all)


@lru_cache(maxsize=1024)
def _parse(path: str) -> tuple[_Part, ...]:
    text = path.strip()
    if not text.startswith("$"):
        raise InvalidPath(f"{path!r} is not a JSONPath: it starts with $")
    parts: list[_Part] = []
    at = 1
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.end() == at:
            raise InvalidPath(f"{path!r} is not a JSONPath that triggers know: look at {text[at:]!r}")
        deep = match["deep"] is not None
        if match["index"] is not None:
            parts.append((deep, int(match["index"])))
        elif match["star"] is not None or match["name"] == "*":
            parts.append((deep, None))
        else:
            quoted = match["single"] if match["single"] is not None else match["double"]
            parts.append((deep, match["name"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)))
        at = match.end()
    return tuple(parts)


def _children(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            yield from cast("dict[str, Any]", value).values()
        case list():
            yield from cast("list[Any]", value)
        case _:
            pass


def _everything(value: Any) -> Iterator[Any]:
    """`value` and all below it, iteratively: a hostile depth must not end us."""
    stack = [value]
    while stack:
        current = stack.pop()
        yield current
        stack.extend(reversed(list(_children(current))))


def _step(value: Any, selector: str | int | None) -> Iterator[Any]:
    match value, selector:
        case _, None:
            yield from _children(value)
        case dict(), str() if selector in value:
            yield cast("dict[str, Any]", value)[selector]
        case list(), int() if -len(cast("list[Any]", value)) <= selector < len(cast("list[Any]", value)):
            yield cast("list[Any]", value)[selector]
        case _:
            pass


def find(path: str, document: Any) -> list[Any]:
    """Every value that `path` reaches, at most 10,000. Raises InvalidPath."""
    values = [document]
    for deep, selector in _parse(path):
        following: list[Any] = []
        for value in values:
            for start in _everything(value) if deep else (value,):
                following.extend(_step(start, selector))
                if len(following) > _MAX_VALUES:
                    raise InvalidPath(f"{path!r} reaches more than {_MAX_VALUES} values")
        values = following
    return values


def is_regex(text: str) -> bool:
    """Whether the text is meant as `/regex/flags`."""
    return _REGEX_TEXT.fullmatch(text) is not None


def equals(expected: Any, value: Any) -> bool:
    """Equal, a member of an expected list, or a match of an expected `/regex/flags` text.

    Scalars compare with their JSON type: `1` is not `true` and not `"1"`.
    """
    if isinstance(expected, list):
        return any(equals(member, value) for member in cast("list[Any]", expected))
    if isinstance(expected, str) and (regex := _REGEX_TEXT.fullmatch(expected)) is not None:
        try:
            return isinstance(value, str) and compile_regex(regex[1], regex[2]).search(value) is not None
        except InvalidPattern:
            return expected == value
    if isinstance(expected, bool) or isinstance(value, bool):
        return expected is value
    return expected == value


def matches(path: str, expected: Any, document: Any) -> bool:
    """Whether any value that `path` reaches equals `expected`."""
    return any(equals(expected, value) for value in find(path, document))
