"""Which agents run a job: `runs_on`, and `runs_on_all` for one child per host (AU-18…20)."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from kici.sdk.definitions import Hosts, Runner
from kici.sdk.options import Options, regex_flags
from kici.sdk.values import Pattern, Patterns, as_patterns

RunsOn: TypeAlias = Pattern | Sequence[Pattern] | Runner | Mapping[str, Any]
RunsOnAll: TypeAlias = Pattern | Sequence[Pattern] | Hosts | Mapping[str, Any]


def runner_and_hosts(given: Options) -> tuple[Runner, Hosts | None]:
    """Exactly one of both (AU-11); with hosts the runner has no labels."""
    everywhere = given.given.get("runs_on_all")
    if everywhere is None:
        return _runner(given), None
    if given.given.get("runs_on") is not None:
        given.report("E202", "has `runs_on` and `runs_on_all`", "keep one of the two")
    return Runner(labels=()), _hosts(given, everywhere)


def _hosts(given: Options, value: object) -> Hosts | None:
    if isinstance(value, Hosts | Mapping):
        chosen = given.struct("runs_on_all", Hosts, cast("Any", value))
        if chosen is None:
            return None
    else:
        chosen = Hosts(include=[cast("Patterns", value)])
    include = [
        _labels(given, "runs_on_all", group)
        for group in given.sequence("runs_on_all.include", chosen.include)
    ]
    excluded = _labels(given, "exclude", chosen.exclude)
    if not include:
        given.report("E201", "`runs_on_all` names no labels", "say which hosts: runs_on_all='role:web'")
    for labels in include:
        _contradiction(given, labels, excluded)
    return Hosts(include=include, exclude=excluded)


def _runner(given: Options) -> Runner:
    value = given.given.get("runs_on")
    chosen = (
        given.struct("runs_on", Runner, value)
        if isinstance(value, Runner | Mapping)
        else Runner(labels=cast("Patterns", value if value is not None else ()))
    ) or Runner(labels="*")
    labels = _labels(given, "runs_on", chosen.labels)
    excluded = _labels(given, "exclude", chosen.exclude)
    if not any(not _text(label).startswith("!") for label in labels):
        given.report("E201", "`runs_on` is missing", 'say which agents may run it: runs_on="kici:os:linux"')
    _contradiction(given, labels, excluded)
    if chosen.pick not in {"deterministic", "any"}:
        given.report("E119", f"unknown `pick` {chosen.pick!r}", "deterministic or any")
    return Runner(labels=labels, exclude=excluded, pick=chosen.pick)


def _contradiction(given: Options, labels: Sequence[Pattern], excluded: Sequence[Pattern]) -> None:
    unwanted = {_text(label).removeprefix("!") for label in excluded}
    unwanted |= {_text(label)[1:] for label in labels if _text(label).startswith("!")}
    for label in labels:
        if _text(label) in unwanted:
            given.report(
                "E203", f"label {_text(label)!r} is both required and excluded", "drop one of the two"
            )


def _labels(given: Options, name: str, value: object) -> tuple[Pattern, ...]:
    if not isinstance(value, str | re.Pattern | Sequence):
        given.wrong_type(name, "a label, a regex or a list of them", value)
        return ("*",)
    patterns = as_patterns(cast("Patterns", value))
    for pattern in cast("Sequence[object]", patterns):
        if not isinstance(pattern, str | re.Pattern):
            given.wrong_type(name, "a label, a regex or a list of them", pattern)
            return ("*",)
        if isinstance(pattern, re.Pattern):
            regex_flags(cast("re.Pattern[str]", pattern), given, name)
        if _text(cast("Pattern", pattern)).removeprefix("!").strip() == "":
            given.report("E201", f"`{name}` holds an empty label", "remove it")
            return ("*",)
    return patterns


def _text(pattern: Pattern) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern
