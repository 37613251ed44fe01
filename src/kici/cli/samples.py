"""Values that match what a trigger asks for: names for patterns, bodies for JSONPath conditions (AU-121)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from kici.engine.patterns import InvalidPattern, PatternSet, compile_regex
from kici.spec.triggers import Pattern

_FILLERS = ("1", "a", "x-1", "main", "1.0.0")
_REGEX_TEXT = re.compile(r"/(.*)/([imsau]*)", re.DOTALL)
_SIMPLE_PATH = re.compile(r"""\.([\w-]+)|\[\s*(?:'([^']*)'|"([^"]*)"|(\d+))\s*\]""")


def matching(patterns: Sequence[Pattern], *usual: str) -> str | None:
    """The first of `usual` that the patterns let pass, else something made from the first positive pattern.

    None when nothing could be found: a regex that excludes what it includes, say.
    """
    try:
        wanted = PatternSet(patterns)
    except InvalidPattern:
        return None
    made = [
        text
        for pattern in patterns
        if not pattern.pattern.startswith("!")
        for filler in _FILLERS
        if (text := _made(pattern, filler)) is not None
    ]
    return wanted.first_match(value for value in (*usual, *made, *_FILLERS) if value)


def _made(pattern: Pattern, filler: str) -> str | None:
    if pattern.type == "glob":
        return _from_glob(pattern.pattern, filler)
    return from_regex(pattern.pattern, filler)


def _from_glob(glob: str, filler: str) -> str:
    """Each wildcard filled in, the first of alternatives taken."""
    text = re.sub(r"\{([^{},]*)(?:,[^{}]*)?\}", r"\1", glob)
    text = re.sub(r"\[[!^][^\]]*\]", "z", text)
    text = re.sub(r"\[([^\]])[^\]]*\]", r"\1", text)
    text = re.sub(r"\*+", filler, text).replace("?", filler[0])
    return re.sub(r"\\(.)", r"\1", text)


def from_regex(source: str, filler: str = "a") -> str | None:
    """A short text that matches. None for what Python's reader of regexes does not take."""
    try:
        from re import _parser as parser  # type: ignore[attr-defined]

        return "".join(_from_parsed(cast("Any", parser).parse(source), filler))
    except (ImportError, re.error, OverflowError):
        return None


def _from_parsed(parsed: Any, filler: str) -> list[str]:
    out: list[str] = []
    for kind, argument in parsed:
        match str(kind):
            case "LITERAL":
                out.append(chr(argument))
            case "NOT_LITERAL":
                out.append("b" if argument == ord(filler[0]) else filler[0])
            case "ANY":
                out.append(filler[0])
            case "IN":
                out.append(_from_class(argument, filler))
            case "BRANCH":
                out += _from_parsed(argument[1][0], filler)
            case "SUBPATTERN":
                out += _from_parsed(argument[-1], filler)
            case "ATOMIC_GROUP":
                out += _from_parsed(argument, filler)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                least, most, inner = argument
                out += _from_parsed(inner, filler) * min(max(least, 1), most)
            case _:
                pass  # anchors take no room
    return out


def _from_class(members: Any, filler: str) -> str:
    if str(members[0][0]) == "NEGATE":
        unwanted = {chr(argument) for kind, argument in members if str(kind) == "LITERAL"}
        return next(character for character in f"{filler[0]}a1-z" if character not in unwanted)
    for kind, argument in members:
        match str(kind):
            case "LITERAL":
                return chr(argument)
            case "RANGE":
                low, high = argument
                return filler[0] if low <= ord(filler[0]) <= high else chr(low)
            case "CATEGORY":
                return {"CATEGORY_DIGIT": "1", "CATEGORY_SPACE": " ", "CATEGORY_NOT_WORD": "-"}.get(
                    str(argument), "a"
                )
            case _:
                pass
    return filler[0]


def text_for(wanted: str) -> str:
    """A text that holds `wanted`, or matches it when it is written `/re/flags`."""
    regex = _REGEX_TEXT.fullmatch(wanted)
    if regex is None:
        return wanted
    for filler in _FILLERS:
        made = from_regex(regex[1], filler)
        try:
            if made is not None and compile_regex(regex[1], regex[2]).search(made) is not None:
                return made
        except InvalidPattern:
            break
    return wanted


def body_for(conditions: Mapping[str, Any]) -> dict[str, Any]:
    """A body in which every path that is a plain chain of names and indexes has what is expected."""
    body: dict[str, Any] = {}
    for path, expected in conditions.items():
        keys = _keys(path)
        if keys and isinstance(keys[0], str):
            _put(body, keys, _value_for(expected))
    return body


def _keys(path: str) -> list[str | int]:
    text = path.strip().removeprefix("$")
    keys: list[str | int] = []
    at = 0
    while at < len(text):
        match = _SIMPLE_PATH.match(text, at)
        if match is None:
            return []
        keys.append(int(match[4]) if match[4] is not None else (match[1] or match[2] or match[3] or ""))
        at = match.end()
    return keys


def _put(body: Any, keys: Sequence[str | int], value: Any) -> None:
    for key, following in zip(keys, [*keys[1:], None], strict=True):
        inner: Any = value if following is None else [] if isinstance(following, int) else {}
        if isinstance(body, list):
            members = cast("list[Any]", body)
            if not isinstance(key, int):
                return
            while len(members) <= key:
                members.append(None)
            if following is None or members[key] is None:
                members[key] = inner
            body = members[key]
        else:
            table = cast("dict[str | int, Any]", body)
            if following is None or not isinstance(table.get(key), dict | list):
                table[key] = inner
            body = table[key]


def _value_for(expected: Any) -> Any:
    if isinstance(expected, list):
        members = cast("list[Any]", expected)
        return _value_for(members[0]) if members else None
    return text_for(expected) if isinstance(expected, str) else expected
