"""Does this event start this workflow, and why (OR-50…55, AU-75…80)? One pure function, shared by the
orchestrator and `kici preview` and `kici run local`.

Filters of a trigger are joined by AND, values within a filter by OR. Triggers are tried in order and the
first hit wins. Every check is recorded, so that a person can see why nothing started.
"""

from collections.abc import Sequence
from functools import lru_cache

from msgspec import Struct

from kici.engine import jsonpath
from kici.engine.patterns import InvalidPattern, PatternSet
from kici.spec.events import Event
from kici.spec.lock import (
    GenericWebhookTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    TagTrigger,
    Trigger,
    WebhookTrigger,
)

PR_DEFAULT_EVENTS = ("opened", "synchronize", "reopened", "closed")

_NO_VALUE = "(none)"


class Check(Struct, frozen=True, kw_only=True):
    """One comparison. `check` names trigger and filter: `push.branches`, or `push[1].branches` when the
    workflow has several triggers."""

    check: str
    expected: str
    actual: str
    matched: bool


class Decision(Struct, frozen=True, kw_only=True):
    """`reason` is one sentence for people; `checks` has everything that was compared, in order."""

    matched: bool
    trigger_index: int | None
    reason: str
    checks: list[Check]


def event_type(trigger: Trigger) -> str:
    """The `Event.type` that this trigger waits for; `webhook` takes any (OR-55)."""
    match trigger:
        case PushTrigger():
            return "push"
        case TagTrigger():
            return "tag"
        case PrTrigger():
            return "pull_request"
        case GenericWebhookTrigger():
            return "generic_webhook"
        case WebhookTrigger():
            return "webhook"


def trigger_type(trigger: Trigger) -> str:
    """The `_type` in the lock file, which registrations list."""
    match trigger:
        case PrTrigger():
            return "pr"
        case _:
            return event_type(trigger)


def match_workflow(triggers: Sequence[Trigger], event: Event) -> Decision:
    """Total: a trigger that cannot be evaluated does not match, and its check says why."""
    if not triggers:
        return Decision(matched=False, trigger_index=None, reason="The workflow has no triggers", checks=[])
    everything: list[Check] = []
    nearest: Check | None = None  # first failed filter of a trigger that waits for this kind of event
    for index, trigger in enumerate(triggers):
        name = trigger_type(trigger) if len(triggers) == 1 else f"{trigger_type(trigger)}[{index}]"
        checks = _checks(name, trigger, event)
        everything += checks
        failed = next((check for check in checks if not check.matched), None)
        if failed is None:
            return Decision(
                matched=True, trigger_index=index, reason=_why(trigger, event), checks=everything
            )
        if checks[0].matched and nearest is None:
            nearest = failed
    return Decision(
        matched=False, trigger_index=None, reason=_why_not(triggers, event, nearest), checks=everything
    )


def _checks(name: str, trigger: Trigger, event: Event) -> list[Check]:
    """The kind of event first; the filters only when that fits."""
    kind = _kind(name, trigger, event)
    if not kind.matched:
        return [kind]
    checks = [kind]
    match trigger:
        case PushTrigger():
            checks += _value(f"{name}.branches", trigger.branches, event.target_branch)
            checks += _paths(f"{name}.paths", trigger.paths, event.changed_files)
            checks += _value(f"{name}.repos", trigger.repos, event.source_repo)
        case TagTrigger():
            checks += _value(f"{name}.patterns", trigger.patterns, event.target_branch)
            checks += _paths(f"{name}.paths", trigger.paths, event.changed_files)
            checks += _value(f"{name}.repos", trigger.repos, event.source_repo)
        case PrTrigger():
            checks.append(_one_of(f"{name}.events", trigger.events or PR_DEFAULT_EVENTS, event.action))
            checks += _value(f"{name}.target", trigger.target, event.target_branch)
            checks += _value(f"{name}.source", trigger.source, event.source_branch)
            checks += _paths(f"{name}.paths", trigger.paths, event.changed_files)
            checks += _value(f"{name}.repos", trigger.repos, event.source_repo)
        case GenericWebhookTrigger():
            checks += _generic(name, trigger, event)
        case WebhookTrigger():
            if trigger.actions:
                checks.append(_one_of(f"{name}.actions", trigger.actions, event.action))
            checks += _value(f"{name}.repos", trigger.repos, event.source_repo)
    return checks


def _kind(name: str, trigger: Trigger, event: Event) -> Check:
    if isinstance(trigger, WebhookTrigger):
        # The provider's own name, so that events we have no word for can be named (OR-55).
        names = [word for word in (event.raw_event, event.type) if word]
        return Check(
            check=f"{name}.event",
            expected=_joined(trigger.events),
            actual=_joined(list(dict.fromkeys(names))),
            matched=any(word in trigger.events for word in names),
        )
    wanted = event_type(trigger)
    return Check(check=f"{name}.event", expected=wanted, actual=event.type, matched=event.type == wanted)


def _generic(name: str, trigger: GenericWebhookTrigger, event: Event) -> list[Check]:
    checks = [
        Check(
            check=f"{name}.source",
            expected=trigger.source,
            actual=event.source or _NO_VALUE,
            matched=event.source == trigger.source,
        )
    ]
    if trigger.events:
        checks.append(_one_of(f"{name}.events", trigger.events, event.action))
    for path, expected in trigger.match.items():
        checks.append(_json(f"{name}.match {path}", path, expected, event, wanted=True))
    for path, expected in trigger.not_.items():
        checks.append(_json(f"{name}.not {path}", path, expected, event, wanted=False))
    if trigger.path.strip("/"):
        # Sources are served at exactly one path, so that a longer one is never what was called.
        checks.append(Check(check=f"{name}.path", expected=trigger.path, actual="/", matched=False))
    return checks


def _json(check: str, path: str, expected: object, event: Event, *, wanted: bool) -> Check:
    text = _short(expected) if wanted else f"not {_short(expected)}"
    try:
        values = jsonpath.find(path, event.payload)
    except jsonpath.InvalidPath as error:
        return Check(check=check, expected=text, actual=str(error), matched=False)
    hit = any(jsonpath.equals(expected, value) for value in values)
    shown = ", ".join(_short(value) for value in values[:5]) if values else "(absent)"
    return Check(check=check, expected=text, actual=shown, matched=hit is wanted)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _joined(words: Sequence[str]) -> str:
    return ", ".join(words) or _NO_VALUE


def _one_of(check: str, expected: Sequence[str], actual: str | None) -> Check:
    return Check(
        check=check,
        expected=_joined(expected),
        actual=actual or _NO_VALUE,
        matched=actual is not None and actual in expected,
    )


@lru_cache(maxsize=2048)
def _set(patterns: tuple[Pattern, ...]) -> PatternSet:
    return PatternSet(patterns)


def _value(check: str, patterns: list[Pattern], actual: str | None) -> list[Check]:
    """No check where the author gave no filter."""
    if not patterns:
        return []
    try:
        wanted = _set(tuple(patterns))
    except InvalidPattern as error:
        return [Check(check=check, expected=str(error), actual=actual or _NO_VALUE, matched=False)]
    hit = actual is not None and wanted.matches(actual)
    return [Check(check=check, expected=wanted.text, actual=actual or _NO_VALUE, matched=hit)]


def _paths(check: str, patterns: list[Pattern], files: list[str] | None) -> list[Check]:
    """OR-52: an unknown list passes and says so; a known empty one does not match."""
    if not patterns:
        return []
    try:
        wanted = _set(tuple(patterns))
    except InvalidPattern as error:
        return [Check(check=check, expected=str(error), actual="", matched=False)]
    if files is None:
        actual, hit = "changed files are not known, which passes", True
    elif not files:
        actual, hit = "no changed files", False
    else:
        count = f"{len(files)} changed file{'s' if len(files) != 1 else ''}"
        first = wanted.first_match(files)
        hit = first is not None
        actual = f"{first} ({count})" if first is not None else f"none of {count}: {_short_list(files)}"
    return [Check(check=check, expected=wanted.text, actual=actual, matched=hit)]


def _short_list(files: list[str]) -> str:
    text = ", ".join(files[:5])
    return f"{text}, …" if len(files) > 5 else text


def _why(trigger: Trigger, event: Event) -> str:
    match trigger:
        case PushTrigger():
            return f"Push to {event.target_branch or _NO_VALUE}{_matching(trigger.branches)}"
        case TagTrigger():
            return f"Tag {event.target_branch or _NO_VALUE}{_matching(trigger.patterns)}"
        case PrTrigger():
            into = f" into {event.target_branch}" if event.target_branch else ""
            return f"Pull request {event.action or 'changed'}{into}{_matching(trigger.target)}"
        case GenericWebhookTrigger():
            what = f"{event.action} " if event.action else ""
            return f"Webhook {what}from {event.source or _NO_VALUE}"
        case WebhookTrigger():
            return f"Webhook {event.raw_event or event.type}"


def _matching(patterns: list[Pattern]) -> str:
    return f" matches {_set(tuple(patterns)).text}" if patterns else ""


def _why_not(triggers: Sequence[Trigger], event: Event, nearest: Check | None) -> str:
    if nearest is not None:
        return f"{nearest.check}: wanted {nearest.expected}, got {nearest.actual}"
    kinds = ", ".join(dict.fromkeys(trigger_type(trigger) for trigger in triggers))
    return f"No trigger for {event.raw_event or event.type} events (it has {kinds})"
