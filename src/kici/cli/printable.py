"""Text that can be written down. Names of files and words of the command line are bytes to the system: what of
them is no UTF-8 reaches Python as lone surrogates, which no document can hold."""

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec import Struct, structs

from kici.spec.errors import InvalidInput

S = TypeVar("S", bound=Struct)


def printable(text: str) -> str:
    """With `�` for each byte that is no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def printable_struct(value: S) -> S:
    """The same for every text of a Struct and of what it holds."""
    try:
        msgspec.json.encode(value)
    except UnicodeEncodeError:
        return structs.replace(
            value, **{name: _printable(getattr(value, name)) for name in value.__struct_fields__}
        )
    return value


def utf8_only(option: str, text: str) -> str:
    """`text` as it is. Raises InvalidInput: of a value that programs use, no byte can be replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{option}: the value is not UTF-8") from None
    return text


def _printable(value: Any) -> Any:
    match value:
        case str():
            return printable(value)
        case Struct():
            return printable_struct(value)
        case list() | tuple():
            return [_printable(each) for each in cast("list[Any]", value)]
        case Mapping():
            pairs = cast("Mapping[Any, Any]", value).items()
            return {_printable(key): _printable(inner) for key, inner in pairs}
        case _:
            return value
