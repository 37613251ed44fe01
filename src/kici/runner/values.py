"""Outputs of steps: checked where they are made, decoded where they are read (AU-25, AU-26)."""

from typing import Any, cast

import msgspec

from kici.sdk.errors import OutputError
from kici.spec.nesting import MAX_NESTING, too_deep

LIMIT_BYTES = 1 << 20  # of all outputs of a job together
TOO_BIG = "an integer may have 64 bits; write a larger one as text"


def encode_output(value: object, annotation: Any, *, step: str) -> tuple[Any, int]:
    """(JSON value, its size in bytes). `annotation` None means unchecked. Raises OutputError naming the field."""
    try:
        encoded = msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise OutputError(f"the output of step {step!r} cannot be written as JSON: {error}") from None
    try:
        plain = msgspec.json.decode(encoded)
    except RecursionError:
        raise _nested(step) from None
    if too_deep(plain):
        raise _nested(step)
    if (field := too_big(plain)) is not None:
        where = f", field {field!r}" if field else ""
        raise OutputError(f"the output of step {step!r}{where}: {TOO_BIG}")
    if annotation is not None:
        try:
            msgspec.json.decode(encoded, type=annotation)
        except msgspec.ValidationError as error:
            raise OutputError(
                f"the output of step {step!r} is not a {_type_name(annotation)}: {_with_field(error)}"
            ) from None
        except TypeError as error:
            raise OutputError(
                f"the return type {_type_name(annotation)} of step {step!r} cannot be read back from JSON: {error}"
            ) from None
    return plain, len(encoded)


def too_big(plain: Any) -> str | None:
    """The path of the first integer that JSON has room for and the way to the host has not; empty for the
    value itself, None when all fit."""
    try:
        msgspec.msgpack.encode(plain)
    except OverflowError:
        return _path_of_too_big(plain)
    return None


def _path_of_too_big(plain: Any) -> str:
    pending: list[tuple[str, Any]] = [("", plain)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
            return path.removeprefix(".")
        if isinstance(value, dict):
            entries = cast("dict[str, Any]", value)
            pending += [(f"{path}.{key}", entry) for key, entry in reversed(entries.items())]
        elif isinstance(value, list):
            members = cast("list[Any]", value)
            pending += [(f"{path}[{place}]", members[place]) for place in reversed(range(len(members)))]
    return ""


def _nested(step: str) -> OutputError:
    return OutputError(f"the output of step {step!r} is nested deeper than {MAX_NESTING} levels")


def decode_output(value: Any, annotation: Any, *, step: str) -> Any:
    """The value as the step's return type; as plain JSON when there is none."""
    if annotation is None:
        return value
    try:
        return msgspec.convert(value, annotation, str_keys=True)
    except msgspec.ValidationError as error:
        raise OutputError(
            f"the stored output of step {step!r} is not a {_type_name(annotation)}: {_with_field(error)}"
        ) from None


def _with_field(error: msgspec.ValidationError) -> str:
    what, at, path = str(error).rpartition(" - at `")
    if not at:
        return str(error)
    field = path.removesuffix("`").removeprefix("$").removeprefix(".")
    return f"field {field!r}: {what}" if field else what


def _type_name(annotation: Any) -> str:
    return getattr(annotation, "__name__", None) or str(annotation)
