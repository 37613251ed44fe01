"""Factories of triggers (AU-75…81). Filters AND, values inside a filter OR, an absent filter is any."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

from kici.sdk.definitions import Trigger
from kici.sdk.options import Options, regex_flags
from kici.sdk.problems import nearest
from kici.sdk.source import caller
from kici.sdk.values import Patterns, Scalar
from kici.spec import lock

PrEvent: TypeAlias = Literal[
    "opened",
    "synchronize",
    "reopened",
    "closed",
    "assigned",
    "unassigned",
    "labeled",
    "unlabeled",
    "edited",
    "converted_to_draft",
    "ready_for_review",
    "locked",
    "unlocked",
    "review_requested",
    "review_request_removed",
    "auto_merge_enabled",
    "auto_merge_disabled",
]
Expected: TypeAlias = Scalar | Sequence[Scalar | None] | None  # text "/re/i" is a regex

_PR_EVENTS: tuple[str, ...] = get_args(PrEvent)


def push(
    *, branches: Patterns = (), tags: Patterns = (), paths: Patterns = (), description: str = ""
) -> Trigger:
    """A push of commits or tags. With `tags` alone, branch pushes do not match (AU-77).

    >>> push(branches=["main", "release/*"], paths=["src/**", "!**/*.md"])
    """
    given = _options("push", description)
    branch_patterns = _patterns(given, "branches", branches)
    tag_patterns = _patterns(given, "tags", tags)
    path_patterns = _patterns(given, "paths", paths)
    halves: list[lock.Trigger] = []
    if branch_patterns or not tag_patterns:
        halves.append(
            lock.PushTrigger(
                branches=branch_patterns, paths=path_patterns, description=given.text("description")
            )
        )
    if tag_patterns:
        halves.append(
            lock.TagTrigger(
                patterns=tag_patterns, paths=path_patterns, description=given.text("description")
            )
        )
    return Trigger(locked=tuple(halves), source=given.source)


def pr(
    *,
    events: PrEvent | Sequence[PrEvent] = ("opened", "synchronize", "reopened", "closed"),
    target: Patterns = (),
    source: Patterns = (),
    paths: Patterns = (),
    description: str = "",
) -> Trigger:
    """A pull request: `target` is the branch it goes into, `source` the one it comes from.

    >>> pr(target="main", paths="src/**")
    """
    given = _options("pr", description)
    locked = lock.PrTrigger(
        events=_words(given, "events", events, _PR_EVENTS),
        target=_patterns(given, "target", target),
        source=_patterns(given, "source", source),
        paths=_patterns(given, "paths", paths),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def tag(*, patterns: Patterns = (), description: str = "") -> Trigger:
    """A pushed tag.

    >>> tag(patterns="v*")
    """
    given = _options("tag", description)
    locked = lock.TagTrigger(
        patterns=_patterns(given, "patterns", patterns), description=given.text("description")
    )
    return Trigger(locked=(locked,), source=given.source)


def webhook(
    *, events: str | Sequence[str], actions: str | Sequence[str] = (), description: str = ""
) -> Trigger:
    """A provider's event by its raw name, of the repository's own source.

    >>> webhook(events="deployment", actions="created")
    """
    given = _options("webhook", description)
    locked = lock.WebhookTrigger(
        events=_words(given, "events", events),
        actions=_words(given, "actions", actions),
        description=given.text("description"),
    )
    if not locked.events:
        given.report("E405", "`events` is empty", "name the provider's events")
    return Trigger(locked=(locked,), source=given.source)


def generic_webhook(
    *,
    source: str,
    events: str | Sequence[str] = (),
    match: Mapping[str, Expected] | None = None,
    not_: Mapping[str, Expected] | None = None,
    path: str = "",
    description: str = "",
) -> Trigger:
    """A delivery of a generic webhook source. `match` and `not_` map JSONPaths to what they must (not) hold.

    >>> generic_webhook(source="grafana", events="alert", match={"$.status": "firing"})
    """
    given = _options("generic_webhook", description)
    if not isinstance(cast("object", source), str) or not source:
        given.report("E405", "`source` is empty", "name the source that an operator has added")
        source = ""
    locked = lock.GenericWebhookTrigger(
        source=source,
        events=_words(given, "events", events),
        match=_conditions(given, "match", match),
        not_=_conditions(given, "not_", not_),
        path=path,
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def _options(factory: str, description: object) -> Options:
    return Options(f"{factory}()", {"description": description}, ("description",), caller())


def _patterns(given: Options, name: str, value: Patterns) -> list[lock.Pattern]:
    entries: Sequence[object] = (
        (value,) if isinstance(value, str | re.Pattern) else given.sequence(name, value)
    )
    kept: list[lock.Pattern] = []
    for entry in entries:
        if isinstance(entry, re.Pattern):
            pattern = cast("re.Pattern[str]", entry)
            flags = regex_flags(pattern, given, name)
            kept.append(lock.Pattern(type="regex", pattern=pattern.pattern, flags=flags))
        elif isinstance(entry, str) and entry.removeprefix("!"):
            kept.append(lock.Pattern(type="glob", pattern=entry))
        elif isinstance(entry, str):
            given.report("E405", f"`{name}` holds an empty pattern", "remove it")
        else:
            given.wrong_type(name, "a pattern, a regex or a list of them", entry)
    return kept


def _words(given: Options, name: str, value: object, known: tuple[str, ...] = ()) -> list[str]:
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


def _conditions(given: Options, name: str, value: object) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        given.wrong_type(name, "a mapping of JSONPaths to values", value)
        return {}
    return {str(path): expected for path, expected in cast("Mapping[object, Any]", value).items()}
