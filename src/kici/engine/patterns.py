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
from kici.spec.lock import Pattern

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


def glob_to_regex(glob: str) -> str:
    """An anchored RE2 regex for the whole value. Brackets and braces without a partner are literal."""
    return rf"(?s)\A{_translate(glob)}\z"


def _translate(glob: str) -> str:
    out: list[str] = []
    at, size = 0, len(glob)
    while at < size:
        character = glob[at]
        if character == "*":
            stop = at
            while stop < size and glob[stop] == "*":
                stop += 1
            if stop - at == 1:
                out.append("[^/]*")
            elif (at == 0 or glob[at - 1] == "/") and stop < size and glob[stop] == "/":
                out.append("(?:.*/)?")  # "a/**/b" also means "a/b"
                stop += 1
            elif at > 0 and glob[at - 1] == "/" and stop == size:
                out.append(".+")  # "a/**": anything below, not "a/" itself
            else:
                out.append(".*")
            at = stop
            continue
        if character == "?":
            out.append("[^/]")
        elif character == "[" and (stop := _class_end(glob, at)) is not None:
            out.append(_class(glob[at + 1 : stop]))
            at = stop
        elif character == "{" and (stop := _brace_end(glob, at)) is not None:
            options = _alternatives(glob[at + 1 : stop])
            out.append(f"(?:{'|'.join(_translate(option) for option in options)})")
            at = stop
        elif character == "\\" and at + 1 < size:
            at += 1
            out.append(re2.escape(glob[at]))
        else:
            out.append(re2.escape(character))
        at += 1
    return "".join(out)


def _class_end(glob: str, start: int) -> int | None:
    """Index of the `]` that closes the class opened at `start`; a `]` right after the opening is a member."""
    at = start + 1
    if at < len(glob) and glob[at] in "!^":
        at += 1
    end = glob.find("]", at + 1)
    return end if end > 0 else None


def _class(members: str) -> str:
    negated = members[0] in "!^"
    body = members[1:] if negated else members
    escaped = "".join("\\" + c if c in r"\[]^&~|" else c for c in body)
    # A class stays within its segment, whatever it lists.
    return f"[^/{escaped}]" if negated else f"[{escaped}]"


def _brace_end(glob: str, start: int) -> int | None:
    depth = 0
    at = start
    while at < len(glob):
        if glob[at] == "\\":
            at += 1
        elif glob[at] == "{":
            depth += 1
        elif glob[at] == "}":
            depth -= 1
            if depth == 0:
                return at
        at += 1
    return None


def _alternatives(body: str) -> list[str]:
    """Split at commas that stand outside nested braces."""
    parts: list[str] = []
    depth = start = at = 0
    while at < len(body):
        if body[at] == "\\":
            at += 1
        elif body[at] == "{":
            depth += 1
        elif body[at] == "}":
            depth -= 1
        elif body[at] == "," and depth == 0:
            parts.append(body[start:at])
            start = at + 1
        at += 1
    parts.append(body[start:])
    return parts


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
