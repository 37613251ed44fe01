"""A bash script with values: the values travel as arguments and become shell variables (AU-65, AU-66).

The script's text is never edited, so no value can end a quote or start a command.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import cast

from kici.sdk.errors import LimitExceededError
from kici.sdk.words import shell_word

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_LONGEST_ARGUMENT = 128 * 1024 - 1  # the kernel's MAX_ARG_STRLEN, without the NUL

_COST_OF_AN_ARGUMENT = 9  # its NUL and the pointer to it


def _most_bytes() -> int:
    """Of arguments and environment together, as the kernel counts them."""
    return os.sysconf("SC_ARG_MAX")


def bash_argv(script: str, variables: Mapping[str, object]) -> list[str]:
    """The command line that runs `script` under `-euo pipefail` with `variables` set."""
    preamble: list[str] = []
    values: list[str] = []
    for name, value in variables.items():
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} cannot be a shell variable here: use lower case letters, digits and '_'"
            )
        if isinstance(value, list | tuple):
            items = [_word(name, item) for item in cast("Sequence[object]", value)]
            if sum(len(os.fsencode(item)) + _COST_OF_AN_ARGUMENT for item in items) > _most_bytes():
                raise LimitExceededError(
                    f"the {len(items):,} entries of {name!r} together are longer than a command line may be; "
                    "pass them with `input=` or in a file"
                )
            preamble.append(f'{name}=("${{@:{len(values) + 1}:{len(items)}}}")')
            values += items
        else:
            values.append(_word(name, value))
            preamble.append(f'{name}="${{{len(values)}}}"')
    if preamble:
        script = "; ".join([*preamble, "set --", script])
    if len(os.fsencode(script)) > _LONGEST_ARGUMENT:
        raise LimitExceededError("the script is longer than 128 KiB; put it into a file and run that")
    return ["bash", "-euo", "pipefail", "-c", script, "bash", *values]


def _word(name: str, value: object) -> str:
    word = shell_word(name, value)
    if len(os.fsencode(word)) > _LONGEST_ARGUMENT:
        raise LimitExceededError(
            f"the value of {name!r} is longer than 128 KiB; pass it with `input=` or in a file"
        )
    return word
