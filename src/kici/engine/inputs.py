"""Typed inputs of dispatches and schedules: from what somebody gave to what a workflow reads (AU-83). Pure.

Texts become what their field wants, so that a form, a command line and JSON lead to the same values.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from kici.engine.patterns import InvalidPattern, compile_regex
from kici.spec.errors import InvalidInput
from kici.spec.triggers import InputField

_TRUE = frozenset({"true", "1", "yes"})
_FALSE = frozenset({"false", "0", "no"})
_MAX_SHOWN = 80
_MAX_INTEGER_TEXT = 40  # parsing a number costs the square of its length


class InvalidInputs(InvalidInput):
    """`problems` has one sentence for each key that is wrong, and begins with its name (OR-54)."""

    code: ClassVar[str] = "invalid_inputs"
    status: ClassVar[int] = 422

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = list(problems)


class _Unfit(Exception):
    """The message completes "input 'x' …"."""


def resolve(
    fields: Sequence[InputField], given: Mapping[str, object]
) -> dict[str, str | int | float | bool | None]:
    """A value for every field, coerced, checked and defaulted. Raises InvalidInputs with all that is wrong.

    An optional field without a default is None when absent or null. Defaults are taken as they are.
    """
    known = {field.name: field for field in fields}
    problems = [_unknown(name, known) for name in given if name not in known]
    values: dict[str, str | int | float | bool | None] = {}
    for field in fields:
        value = given.get(field.name)
        if value is None and not field.required:
            if field.name not in given or field.default is None:
                values[field.name] = field.default
                continue
        elif field.name not in given:
            problems.append(f"input {field.name!r} is missing: it must be {describe(field)}")
            continue
        try:
            values[field.name] = _checked(field, value)
        except _Unfit as error:
            problems.append(f"input {field.name!r} {error}")
    if problems:
        raise InvalidInputs(problems)
    return values


def describe(field: InputField) -> str:
    """What the field takes, in words for people."""
    if field.choices:
        return f"one of {', '.join(_shown(choice) for choice in field.choices)}"
    words = {
        "string": "text",
        "integer": "a whole number",
        "number": "a number",
        "boolean": "true or false",
    }
    return words[field.type]


def _unknown(name: str, known: Mapping[str, InputField]) -> str:
    return f"input {name!r} is not known: this workflow has {', '.join(known) or 'no inputs'}"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[: _MAX_SHOWN - 1]}…"


def _checked(field: InputField, given: object) -> str | int | float | bool:
    if field.choices:
        return _choice(field, given)
    value = _coerced(field, given)
    if isinstance(value, str):
        _check_text(field, value)
    elif not isinstance(value, bool):
        if field.ge is not None and value < field.ge:
            raise _Unfit(f"must be at least {field.ge:g}, got {_shown(value)}")
        if field.le is not None and value > field.le:
            raise _Unfit(f"must be at most {field.le:g}, got {_shown(value)}")
    return value


def _choice(field: InputField, given: object) -> str | int | float | bool:
    for choice in field.choices:
        # `true` is not the number 1, and "1" may stand for either.
        if isinstance(choice, bool) == isinstance(given, bool) and choice == given:
            return choice
    if isinstance(given, str):
        for choice in field.choices:
            if isinstance(choice, bool):
                if given.strip().lower() in (_TRUE if choice else _FALSE):
                    return choice
            elif not isinstance(choice, str) and given.strip() == str(choice):
                return choice
    raise _Unfit(f"must be {describe(field)}, got {_shown(given)}")


def _coerced(field: InputField, given: object) -> str | int | float | bool:
    unfit = _Unfit(f"must be {describe(field)}, got {_shown(given)}")
    match field.type, given:
        case "string", str():
            return given
        case "boolean", bool():
            return given
        case "boolean", str() if (word := given.strip().lower()) in _TRUE | _FALSE:
            return word in _TRUE
        case "boolean", int() if given in (0, 1):
            return given == 1
        case (("integer" | "number"), bool()):
            raise unfit
        case "integer", int():
            return given
        case "integer", float() if given.is_integer():
            return int(given)
        case "integer", str() if len(given) <= _MAX_INTEGER_TEXT:
            try:
                return int(given)
            except ValueError:
                raise unfit from None
        case "number", int() | float() | str():
            try:
                number = float(given)
            except (ValueError, OverflowError):
                raise unfit from None
            if not math.isfinite(number):
                raise unfit
            return number
        case _:
            raise unfit


def _check_text(field: InputField, value: str) -> None:
    if field.min_length is not None and len(value) < field.min_length:
        raise _Unfit(f"must have at least {field.min_length} characters, got {len(value)}")
    if field.max_length is not None and len(value) > field.max_length:
        raise _Unfit(f"must have at most {field.max_length} characters, got {len(value)}")
    if field.pattern is None:
        return
    try:
        fits = compile_regex(field.pattern).search(value) is not None
    except InvalidPattern as error:
        raise _Unfit(f"cannot be checked: {error}") from error
    if not fits:
        raise _Unfit(f"must match {field.pattern}, got {_shown(value)}")
