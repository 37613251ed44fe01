"""What authors hand to commands as text: shell variables, arguments, environment variables (AU-55, AU-65).

Members of an Enum stand for their value, as in dispatch inputs.
"""

import os
import re
from collections.abc import Mapping
from enum import Enum
from typing import Any, cast

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def plain(value: object) -> object:
    """The value of a member of an Enum; anything else as it is. In lists, too."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in cast("list[object]", value)]
    return value


def shell_word(name: str, value: object) -> str:
    """The text of the shell variable `name`, or of one entry of it. Raises TypeError or ValueError."""
    match plain(value):
        case bool() as truth:
            word = "true" if truth else "false"
        case str() | int() | float() as scalar:
            word = str(scalar)
        case bytes() | os.PathLike() as path:
            word = os.fsdecode(cast("bytes | os.PathLike[str]", path))
        case _:
            raise TypeError(
                f"{name}={value!r} cannot become a shell variable: pass text, a number, a path, or a list of them"
            )
    if "\0" in word:
        raise ValueError(f"the value of {name!r} holds a NUL byte, which no shell variable can hold")
    return word


def argument(value: object) -> str:
    """One word of a command line. Raises TypeError or ValueError."""
    found = plain(value)
    if not isinstance(found, str | bytes | os.PathLike):
        raise TypeError(f"ctx.run takes text and paths, not {type(found).__name__}: write str({value!r})")
    word = os.fsdecode(cast("str | bytes | os.PathLike[str]", found))
    if "\0" in word:
        raise ValueError(f"{word!r:.100} holds a NUL byte, which no argument can hold")
    return word


def environment(given: Mapping[str, Any] | None) -> dict[str, str]:
    """What `env=` of a command adds. Raises TypeError or ValueError."""
    if not isinstance(cast("object", given), Mapping | None):
        raise TypeError(f"`env` is a mapping of names to text, not {type(given).__name__}")
    found: dict[str, str] = {}
    for name, value in cast("Mapping[object, object]", given or {}).items():
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
        found[name] = environment_text(name, value)
    return found


def environment_text(name: str, value: object) -> str:
    """Raises TypeError or ValueError. Numbers are refused as they are in `env` of a job."""
    text = plain(value)
    if not isinstance(text, str):
        raise TypeError(f"variable {name!r} is text, not {type(text).__name__}: write str({value!r})")
    if "\0" in text:
        raise ValueError(f"the value of {name!r} holds a NUL byte, which no variable can hold")
    return text


def environment_name(name: object) -> str:
    """The name, when author code may set a variable of that name. Raises ValueError."""
    if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
        raise ValueError(
            f"{name!r} cannot be the name of an environment variable: letters, digits and _, no digit first"
        )
    if name.startswith("KICI_"):
        raise ValueError(f"{name} cannot be set: names that start with KICI_ belong to kici")
    return name
