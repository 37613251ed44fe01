"""Events from words of the command line, and from triggers (AU-111, AU-112, AU-121).

A word names a kind of event: `push`, `pr:sync`, `comment:created`, `kici_event:deploy-complete`. What git
knows (branch, commit, changed files) comes from git; what only a trigger knows (actions, names, sources,
cron) comes from the first trigger of that kind. An event that is made *for* a trigger always matches it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, cast

from msgspec import structs

from kici.cli.local.repository import Repository
from kici.cli.occasions import Given, Maker, Occasion
from kici.engine.patterns import describe
from kici.spec.errors import InvalidInput
from kici.spec.triggers import (
    CommentTrigger,
    CreateTrigger,
    DeleteTrigger,
    DispatchTrigger,
    ForkTrigger,
    GenericWebhookTrigger,
    JobCompleteTrigger,
    KiciEventTrigger,
    LifecycleTrigger,
    Pattern,
    PrTrigger,
    PushTrigger,
    ReleaseTrigger,
    ReviewCommentTrigger,
    ReviewTrigger,
    ScheduleTrigger,
    StarTrigger,
    StatusTrigger,
    TagTrigger,
    Trigger,
    WatchTrigger,
    WebhookTrigger,
    WorkflowCompleteTrigger,
    WorkflowRunTrigger,
)

__all__ = [
    "ALIASES",
    "HELP",
    "WORDS",
    "Given",
    "Named",
    "Occasion",
    "UnknownEvent",
    "details_of",
    "is_word",
    "make_occasion",
    "occasion_for",
    "trigger_for",
    "word_of",
]

_PR_WORDS = {"open": "opened", "sync": "synchronize", "close": "closed", "reopen": "reopened"}

# word → (the trigger it is for, what may stand behind the colon)
WORDS: dict[str, tuple[type[Any], str]] = {
    "push": (PushTrigger, ""),
    "pr": (PrTrigger, "[:open|sync|close|reopen|ACTION]"),
    "tag": (TagTrigger, ""),
    "comment": (CommentTrigger, "[:ACTION]"),
    "review": (ReviewTrigger, "[:ACTION]"),
    "review_comment": (ReviewCommentTrigger, "[:ACTION]"),
    "release": (ReleaseTrigger, "[:ACTION]"),
    "dispatch": (DispatchTrigger, "[:TYPE]"),
    "create": (CreateTrigger, "[:branch|tag]"),
    "delete": (DeleteTrigger, "[:branch|tag]"),
    "status": (StatusTrigger, ""),
    "workflow_run": (WorkflowRunTrigger, "[:ACTION]"),
    "fork": (ForkTrigger, ""),
    "star": (StarTrigger, "[:ACTION]"),
    "watch": (WatchTrigger, "[:ACTION]"),
    "kici_event": (KiciEventTrigger, ":NAME"),
    "generic_webhook": (GenericWebhookTrigger, ":SOURCE"),
    "webhook_event": (WebhookTrigger, ":NAME"),
    "workflow_complete": (WorkflowCompleteTrigger, "[:STATUS]"),
    "job_complete": (JobCompleteTrigger, "[:STATUS]"),
    "lifecycle": (LifecycleTrigger, "[:EVENT]"),
    "schedule": (ScheduleTrigger, "[:WORKFLOW]"),
}
ALIASES = {"webhook": "generic_webhook", "pull_request": "pr"}
HELP = ", ".join(f"{word}{behind}" for word, (_, behind) in WORDS.items())


class UnknownEvent(InvalidInput):
    """The command line names no event that workflows can start on."""


Named = tuple[str, Trigger]  # the workflow's name, and one of its triggers


def is_word(text: str) -> bool:
    """Whether it names a kind of event; else it may be a fixture."""
    kind = text.partition(":")[0]
    return kind in WORDS or kind in ALIASES


def word_of(workflow: str, trigger: Trigger) -> str:
    """The word that makes an event for this trigger of this workflow."""
    match trigger:
        case PrTrigger(events=[action, *_]):
            short = {action: word for word, action in _PR_WORDS.items()}
            return f"pr:{short.get(action, action)}"
        case KiciEventTrigger(name=detail) | GenericWebhookTrigger(source=detail):
            pass
        case ScheduleTrigger():
            detail = workflow
        case DispatchTrigger(types=[detail, *_]) | LifecycleTrigger(events=[detail, *_]):
            pass
        case WebhookTrigger(events=[detail, *_]):
            pass
        case (
            CommentTrigger(actions=[detail, *_])
            | ReviewTrigger(actions=[detail, *_])
            | ReviewCommentTrigger(actions=[detail, *_])
            | ReleaseTrigger(actions=[detail, *_])
            | WorkflowRunTrigger(actions=[detail, *_])
            | StarTrigger(actions=[detail, *_])
            | WatchTrigger(actions=[detail, *_])
        ):
            pass
        case CreateTrigger(ref_types=[detail, *_]) | DeleteTrigger(ref_types=[detail, *_]):
            pass
        case WorkflowCompleteTrigger(status=[detail, *_]) | JobCompleteTrigger(status=[detail, *_]):
            pass
        case _:
            detail = ""
    word = next(word for word, (kind, _) in WORDS.items() if isinstance(trigger, kind))
    return f"{word}:{detail}" if detail else word


def details_of(trigger: Trigger) -> str:
    """Its filters, for people: `branches main, !v1/**; paths src/**`."""
    parts: list[str] = []
    for name in trigger.__struct_fields__:
        value: Any = getattr(trigger, name)
        if not value or name in {"description", "inputs", "auth"} or (name, value) == ("timezone", "UTC"):
            continue
        if isinstance(value, list) and isinstance(value[0], Pattern):
            text = describe(cast("list[Pattern]", value))
        elif isinstance(value, list):
            text = ", ".join(map(str, cast("list[object]", value)))
        else:
            text = str(value)
        parts.append(f"{name.rstrip('_').replace('_', ' ')} {text}")
    return "; ".join(parts)


def make_occasion(
    word: str,
    repository: Repository | None,
    *,
    folder_name: str,
    triggers: Iterable[Named] = (),
    given: Given | None = None,
) -> Occasion:
    """The event that a word stands for. Raises InvalidInput."""
    kind, detail = _parts(word)
    trigger = _trigger_for(kind, detail, list(triggers))
    made = Maker(repository, folder_name, given or Given(), exact=False)
    return made.occasion(trigger, detail, body_action=not detail)


def trigger_for(word: str, triggers: Iterable[Named]) -> Trigger:
    """The trigger that a word is about: one of these, else the plainest, with the word's action only. Raises
    InvalidInput."""
    kind, detail = _parts(word)
    trigger = _trigger_for(kind, detail, list(triggers))
    if not detail or kind in {"kici_event", "generic_webhook", "schedule"}:
        return trigger
    field = next(
        name
        for name in ("actions", "types", "ref_types", "status", "events")
        if name in trigger.__struct_fields__ and (name != "actions" or kind != "webhook_event")
    )
    return structs.replace(trigger, **{field: [detail]})


def _parts(word: str) -> tuple[str, str]:
    """(kind, what stands behind the colon), both in full."""
    kind, _, detail = word.partition(":")
    kind = ALIASES.get(kind, kind)
    if kind not in WORDS:
        raise UnknownEvent(f"{word!r} is no event; events: {HELP}")
    return kind, _PR_WORDS.get(detail, detail) if kind == "pr" else detail


def occasion_for(
    trigger: Trigger,
    repository: Repository | None,
    *,
    folder_name: str,
    workflow: str = "",
    given: Given | None = None,
) -> Occasion:
    """The event that matches this trigger, whatever git says. Raises InvalidInput."""
    detail = workflow if isinstance(trigger, ScheduleTrigger) else ""
    return Maker(repository, folder_name, given or Given(), exact=True).occasion(trigger, detail)


def _trigger_for(kind: str, detail: str, triggers: Sequence[Named]) -> Trigger:
    """The first trigger of the kind that wants `detail`, else the plainest one there can be."""
    wanted, behind = WORDS[kind]
    mine = [(workflow, trigger) for workflow, trigger in triggers if isinstance(trigger, wanted)]
    words = ", ".join(dict.fromkeys(word_of(*entry) for entry in mine))
    if not detail and behind.startswith(":"):
        raise UnknownEvent(f"say which: {kind}{behind}" + (f" ({words})" if words else ""))
    if kind == "schedule" and not detail and len({workflow for workflow, _ in mine}) > 1:
        raise UnknownEvent(f"several workflows have a schedule, say which: {words}")
    fitting = next((trigger for workflow, trigger in mine if _fits(workflow, trigger, detail)), None)
    if fitting is not None:
        return fitting
    match kind:
        case "kici_event":
            return KiciEventTrigger(name=detail)
        case "generic_webhook":
            return GenericWebhookTrigger(source=detail)
        case "webhook_event":
            return WebhookTrigger(events=[detail])
        case "lifecycle":
            return LifecycleTrigger(events=[detail or "workflow_complete"])
        case "schedule":
            raise UnknownEvent(
                f"no workflow {detail!r} has a schedule" if detail else "no workflow has a schedule"
            )
        case _:
            return cast("Trigger", wanted())


def _fits(workflow: str, trigger: Trigger, detail: str) -> bool:
    if not detail:
        return True
    match trigger:
        case KiciEventTrigger(name=name) | GenericWebhookTrigger(source=name):
            return name == detail
        case ScheduleTrigger():
            return workflow == detail
        case WebhookTrigger(events=allowed) | LifecycleTrigger(events=allowed):
            return detail in allowed
        case DispatchTrigger(types=allowed):
            pass
        case CreateTrigger(ref_types=allowed) | DeleteTrigger(ref_types=allowed):
            pass
        case WorkflowCompleteTrigger(status=allowed) | JobCompleteTrigger(status=allowed):
            pass
        case PrTrigger(events=allowed):
            pass
        case (
            CommentTrigger(actions=allowed)
            | ReviewTrigger(actions=allowed)
            | ReviewCommentTrigger(actions=allowed)
            | ReleaseTrigger(actions=allowed)
            | WorkflowRunTrigger(actions=allowed)
            | StarTrigger(actions=allowed)
            | WatchTrigger(actions=allowed)
        ):
            pass
        case _:
            return True
    return not allowed or detail in allowed
