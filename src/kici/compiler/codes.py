"""Every code the compiler reports: cause, example, remedy. `codes.toml` holds the texts."""

import tomllib
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct


class Explanation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`example` is a part of a workflow file that causes the code; empty where that takes more than a file."""

    title: str
    cause: str
    remedy: str
    example: str = ""


@cache
def explanations() -> dict[str, Explanation]:
    """By code, in order of the file."""
    text = Path(__file__).with_name("codes.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Explanation])
