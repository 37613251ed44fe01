"""Reads the filters of triggers: patterns, words, conditions on payloads, inputs."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from kici.sdk.inputs import Inputs, fields_of
from kici.sdk.options import Options, regex_flags
from kici.sdk.problems import nearest
from kici.sdk.source import caller
from kici.sdk.values import Patterns, Scalar
from kici.spec import triggers

Expected: TypeAlias = Scalar | Sequence[Scalar | None] | None  # text "/re/i" is a regex


def begin(factory: str, description: object) -> Options:
    return Options(f"{factory}()", {"description": description}, ("description",), caller())


def patterns(given: Options, name: str, value: Patterns) -> list[triggers.Pattern]:
    example = f"write {name}='…' or {name}=['…', '!…']"
    if not isinstance(cast("object", value), str | re.Pattern | Sequence) or isinstance(value, bytes):
        given.wrong_type(name, "a pattern, a regex or a list of them", value, example)
        return []
    entries = (value,) if isinstance(value, str | re.Pattern) else given.sequence(name, value)
    kept: list[triggers.Pattern] = []
    for entry in entries:
        if isinstance(entry, re.Pattern):
            pattern = cast("re.Pattern[str]", entry)
            flags = regex_flags(pattern, given, name)
            kept.append(triggers.Pattern(type="regex", pattern=pattern.pattern, flags=flags))
        elif isinstance(entry, str) and entry.removeprefix("!"):
            kept.append(triggers.Pattern(type="glob", pattern=entry))
        elif isinstance(entry, str):
            given.report("E405", f"`{name}` holds an empty pattern", "remove it")
        else:
            given.wrong_type(name, "a pattern, a regex or a list of them", entry, example)
    return kept


def words(given: Options, name: str, value: object, known: tuple[str, ...] = ()) -> list[str]:
    kept: list[str] = []
    for entry in (value,) if isinstance(value, str) else given.sequence(name, value):
        if not isinstance(entry, str) or not entry:
            given.report("E405", f"`{name}` holds {entry!r}", "names are text")
        elif known and entry not in known:
            guess = nearest(entry, known)
            given.report(
                "E406",
                f"unknown name {entry!r} in `{name}`",
                f"did you mean {guess!r}?" if guess else ", ".join(known),
            )
        else:
            kept.append(entry)
    return kept


def required_text(given: Options, name: str, value: object, help: str) -> str:
    if isinstance(value, str) and value.strip():
        return value
    given.report("E405", f"`{name}` is empty", help)
    return ""


def text(given: Options, name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    given.wrong_type(name, "text", value)
    return ""


def body_match(given: Options, name: str, value: object) -> str:
    """Text, or the text of a regex as `/re/flags`; a compiled one is taken, too."""
    if isinstance(value, re.Pattern):
        pattern = cast("re.Pattern[str]", value)
        return f"/{pattern.pattern}/{regex_flags(pattern, given, name)}"
    return text(given, name, value)


def conditions(given: Options, name: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        given.wrong_type(name, "a mapping of JSONPaths to values", value)
        return {}
    return {str(path): expected for path, expected in cast("Mapping[object, Any]", value).items()}


def inputs_of(given: Options, value: object) -> list[triggers.InputField]:
    if value is None:
        return []
    if not (isinstance(value, type) and issubclass(value, Inputs)):
        given.report(
            "E403", "`inputs` is no class of inputs", "write `class DeployInputs(Inputs):` and pass it"
        )
        return []
    return fields_of(value)
