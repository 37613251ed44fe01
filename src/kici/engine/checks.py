"""Single comparisons of a trigger's filters with an event, each recorded as people read it (OR-50, AU-75).
Pure and total: what cannot be evaluated does not match, and says why."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from msgspec import Struct

from kici.engine import jsonpath
from kici.engine.patterns import InvalidPattern, PatternSet
from kici.spec.triggers import Pattern

NO_VALUE = "(none)"


class Check(Struct, frozen=True, kw_only=True):
    """One comparison. `check` names trigger and filter: `push.branches`, or `push[1].branches` when the
    workflow has several triggers."""

    check: str
    expected: str
    actual: str
    matched: bool


def joined(words: Sequence[str]) -> str:
    return ", ".join(words) or NO_VALUE


def short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


@lru_cache(maxsize=2048)
def _set(patterns: tuple[Pattern, ...]) -> PatternSet:
    return PatternSet(patterns)


def pattern_text(patterns: Sequence[Pattern]) -> str:
    return _set(tuple(patterns)).text


def one_of(check: str, expected: Sequence[str], actual: str | None) -> list[Check]:
    """No check where the author gave no filter; this holds for all that follow."""
    if not expected:
        return []
    return [
        Check(
            check=check,
            expected=joined(expected),
            actual=actual or NO_VALUE,
            matched=actual is not None and actual in expected,
        )
    ]


def equal(check: str, expected: str, actual: str | None) -> list[Check]:
    return one_of(check, [expected] if expected else [], actual)


def fits(check: str, patterns: Sequence[Pattern], actual: str | None) -> list[Check]:
    """Globs and regexes; `!` excludes (AU-76)."""
    if not patterns:
        return []
    try:
        wanted = _set(tuple(patterns))
    except InvalidPattern as error:
        return [Check(check=check, expected=str(error), actual=actual or NO_VALUE, matched=False)]
    hit = actual is not None and wanted.matches(actual)
    return [Check(check=check, expected=wanted.text, actual=actual or NO_VALUE, matched=hit)]


def paths(check: str, patterns: Sequence[Pattern], files: list[str] | None) -> list[Check]:
    """OR-52, AU-78: an unknown list passes and says so; a known empty one does not match."""
    if not patterns:
        return []
    try:
        wanted = _set(tuple(patterns))
    except InvalidPattern as error:
        return [Check(check=check, expected=str(error), actual="", matched=False)]
    if files is None:
        actual, hit = "changed files are not known, which passes", True
    elif not files:
        actual, hit = "no changed files", False
    else:
        count = f"{len(files)} changed file{'s' if len(files) != 1 else ''}"
        first = wanted.first_match(files)
        hit = first is not None
        actual = f"{first} ({count})" if first is not None else f"none of {count}: {_some(files)}"
    return [Check(check=check, expected=wanted.text, actual=actual, matched=hit)]


def _some(files: list[str]) -> str:
    text = ", ".join(files[:5])
    return f"{text}, …" if len(files) > 5 else text


def text_in(check: str, wanted: str, actual: object) -> list[Check]:
    """`wanted` as a part of the text, or as `/regex/flags`."""
    if not wanted:
        return []
    if not isinstance(actual, str):
        return [Check(check=check, expected=wanted, actual=NO_VALUE, matched=False)]
    hit = jsonpath.equals(wanted, actual) if jsonpath.is_regex(wanted) else wanted in actual
    return [Check(check=check, expected=wanted, actual=short(actual), matched=hit)]


def conditions(
    name: str, match: Mapping[str, Any], not_: Mapping[str, Any], document: object
) -> list[Check]:
    """OR-53, AU-79: every path of `match` must yield what is expected, no path of `not_` may."""
    return [
        *(_condition(f"{name}.match {path}", path, value, document, True) for path, value in match.items()),
        *(_condition(f"{name}.not {path}", path, value, document, False) for path, value in not_.items()),
    ]


def _condition(check: str, path: str, expected: object, document: object, wanted: bool) -> Check:
    text = short(expected) if wanted else f"not {short(expected)}"
    try:
        values = jsonpath.find(path, document)
    except jsonpath.InvalidPath as error:
        return Check(check=check, expected=text, actual=str(error), matched=False)
    hit = any(jsonpath.equals(expected, value) for value in values)
    shown = ", ".join(short(value) for value in values[:5]) if values else "(absent)"
    return Check(check=check, expected=text, actual=shown, matched=hit is wanted)
