"""Glob and regex patterns over branches, tags, paths, repositories and labels (OR-51, AU-76). Pure.

Globs match the whole value: `*` within a segment, `**` across segments, `?` one character of a segment,
`[abc] [a-z] [!a]`, `{one,two}`, backslash takes the next character literally. Regexes match anywhere
unless anchored. Both run on RE2: linear time whatever an author writes. A leading `!` excludes; a list
of exclusions only means everything else.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import ClassVar, Literal

import re2

from kici.spec.errors import InvalidInput
from kici.spec.globs import glob_to_regex
from kici.spec.triggers import Pattern

_GLOB_SPECIAL = frozenset("*?[]{}\\")
_FLAGS = frozenset("ims")


class InvalidPattern(InvalidInput):
    """RE2 does not take it; the message says why."""

    code: ClassVar[str] = "invalid_pattern"


class Matcher:
    """One compiled pattern, without its `!`."""

    __slots__ = ("_literal", "_regex", "text")

    def __init__(self, kind: Literal["glob", "regex"], text: str, flags: str) -> None:
        self.text = text
        self._literal: str | None = None
        self._regex: re2._Regexp | None = None
        if kind == "glob" and not flags and _GLOB_SPECIAL.isdisjoint(text):
            self._literal = text
        else:
            self._regex = compile_regex(glob_to_regex(text) if kind == "glob" else text, flags)

    def matches(self, value: str) -> bool:
        if self._regex is None:
            return value == self._literal
        return self._regex.search(value) is not None


def compile_regex(source: str, flags: str = "") -> "re2._Regexp":
    """A regex for `search`. `flags`: any of `i`, `m`, `s`; `a` and `u` change nothing here. Raises
    InvalidPattern."""
    unknown = set(flags) - _FLAGS - {"a", "u"}
    if unknown:
        raise InvalidPattern(f"/{source}/: unknown regex flag {''.join(sorted(unknown))!r}")
    wanted = "".join(sorted(set(flags) & _FLAGS))
    options = re2.Options()
    options.log_errors = False
    options.never_capture = True
    try:
        return re2.compile(f"(?{wanted}){source}" if wanted else source, options)
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        raise InvalidPattern(f"/{source}/: {text}") from error


@lru_cache(maxsize=4096)
def _matcher(kind: Literal["glob", "regex"], text: str, flags: str) -> Matcher:
    return Matcher(kind, text, flags)


class PatternSet:
    """A list of patterns as one question. The empty list matches everything."""

    __slots__ = ("excludes", "includes", "text")

    def __init__(self, patterns: Sequence[Pattern]) -> None:
        """Raises InvalidPattern."""
        self.includes: list[Matcher] = []
        self.excludes: list[Matcher] = []
        for pattern in patterns:
            negated = pattern.pattern.startswith("!")
            matcher = _matcher(pattern.type, pattern.pattern.removeprefix("!"), pattern.flags)
            (self.excludes if negated else self.includes).append(matcher)
        self.text = describe(patterns)

    def excludes_value(self, value: str) -> bool:
        return any(matcher.matches(value) for matcher in self.excludes)

    def matches(self, value: str) -> bool:
        if self.excludes_value(value):
            return False
        return not self.includes or any(matcher.matches(value) for matcher in self.includes)

    def first_match(self, values: Iterable[str]) -> str | None:
        """The first of `values` that is not excluded and is included (OR-52)."""
        return next((value for value in values if self.matches(value)), None)


def describe(patterns: Sequence[Pattern]) -> str:
    """Patterns as an author would write them: `main, !v1/**, /^rel-\\d+$/i`."""
    words: list[str] = []
    for pattern in patterns:
        if pattern.type == "glob":
            words.append(pattern.pattern)
        else:
            negation = "!" if pattern.pattern.startswith("!") else ""
            words.append(f"{negation}/{pattern.pattern.removeprefix('!')}/{pattern.flags}")
    return ", ".join(words)
