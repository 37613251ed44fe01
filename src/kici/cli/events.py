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
from kici.spec import lock
from kici.spec.errors import InvalidInput

__all__ = [
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
    "push": (lock.PushTrigger, ""),
    "pr": (lock.PrTrigger, "[:open|sync|close|reopen|ACTION]"),
    "tag": (lock.TagTrigger, ""),
    "comment": (lock.CommentTrigger, "[:ACTION]"),
    "review": (lock.ReviewTrigger, "[:ACTION]"),
    "review_comment": (lock.ReviewCommentTrigger, "[:ACTION]"),
    "release": (lock.ReleaseTrigger, "[:ACTION]"),
    "dispatch": (lock.DispatchTrigger, "[:TYPE]"),
    "create": (lock.CreateTrigger, "[:branch|tag]"),
    "delete": (lock.DeleteTrigger, "[:branch|tag]"),
    "status": (lock.StatusTrigger, ""),
    "workflow_run": (lock.WorkflowRunTrigger, "[:ACTION]"),
    "fork": (lock.ForkTrigger, ""),
    "star": (lock.StarTrigger, "[:ACTION]"),
    "watch": (lock.WatchTrigger, "[:ACTION]"),
    "kici_event": (lock.KiciEventTrigger, ":NAME"),
    "generic_webhook": (lock.GenericWebhookTrigger, ":SOURCE"),
    "webhook_event": (lock.WebhookTrigger, ":NAME"),
    "workflow_complete": (lock.WorkflowCompleteTrigger, "[:STATUS]"),
    "job_complete": (lock.JobCompleteTrigger, "[:STATUS]"),
    "lifecycle": (lock.LifecycleTrigger, "[:EVENT]"),
    "schedule": (lock.ScheduleTrigger, "[:WORKFLOW]"),
}
_ALIASES = {"webhook": "generic_webhook", "pull_request": "pr"}
HELP = ", ".join(f"{word}{behind}" for word, (_, behind) in WORDS.items())


class UnknownEvent(InvalidInput):
    """The command line names no event that workflows can start on."""


Named = tuple[str, lock.Trigger]  # the workflow's name, and one of its triggers


def is_word(text: str) -> bool:
    """Whether it names a kind of event; else it may be a fixture."""
    kind = text.partition(":")[0]
    return kind in WORDS or kind in _ALIASES


def word_of(workflow: str, trigger: lock.Trigger) -> str:
    """The word that makes an event for this trigger of this workflow."""
    match trigger:
        case lock.PrTrigger(events=[action, *_]):
            short = {action: word for word, action in _PR_WORDS.items()}
            return f"pr:{short.get(action, action)}"
        case lock.KiciEventTrigger(name=detail) | lock.GenericWebhookTrigger(source=detail):
            pass
        case lock.ScheduleTrigger():
            detail = workflow
        case lock.DispatchTrigger(types=[detail, *_]) | lock.LifecycleTrigger(events=[detail, *_]):
            pass
        case lock.WebhookTrigger(events=[detail, *_]):
            pass
        case (
            lock.CommentTrigger(actions=[detail, *_])
            | lock.ReviewTrigger(actions=[detail, *_])
            | lock.ReviewCommentTrigger(actions=[detail, *_])
            | lock.ReleaseTrigger(actions=[detail, *_])
            | lock.WorkflowRunTrigger(actions=[detail, *_])
            | lock.StarTrigger(actions=[detail, *_])
            | lock.WatchTrigger(actions=[detail, *_])
        ):
            pass
        case lock.CreateTrigger(ref_types=[detail, *_]) | lock.DeleteTrigger(ref_types=[detail, *_]):
            pass
        case (
            lock.WorkflowCompleteTrigger(status=[detail, *_]) | lock.JobCompleteTrigger(status=[detail, *_])
        ):
            pass
        case _:
            detail = ""
    word = next(word for word, (kind, _) in WORDS.items() if isinstance(trigger, kind))
    return f"{word}:{detail}" if detail else word


def details_of(trigger: lock.Trigger) -> str:
    """Its filters, for people: `branches main, !v1/**; paths src/**`."""
    parts: list[str] = []
    for name in trigger.__struct_fields__:
        value: Any = getattr(trigger, name)
        if not value or name in {"description", "inputs", "auth"} or (name, value) == ("timezone", "UTC"):
            continue
        if isinstance(value, list) and isinstance(value[0], lock.Pattern):
            text = describe(cast("list[lock.Pattern]", value))
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


def trigger_for(word: str, triggers: Iterable[Named]) -> lock.Trigger:
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
    kind = _ALIASES.get(kind, kind)
    if kind not in WORDS:
        raise UnknownEvent(f"{word!r} is no event; events: {HELP}")
    return kind, _PR_WORDS.get(detail, detail) if kind == "pr" else detail


def occasion_for(
    trigger: lock.Trigger,
    repository: Repository | None,
    *,
    folder_name: str,
    workflow: str = "",
    given: Given | None = None,
) -> Occasion:
    """The event that matches this trigger, whatever git says. Raises InvalidInput."""
    detail = workflow if isinstance(trigger, lock.ScheduleTrigger) else ""
    return Maker(repository, folder_name, given or Given(), exact=True).occasion(trigger, detail)


def _trigger_for(kind: str, detail: str, triggers: Sequence[Named]) -> lock.Trigger:
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
            return lock.KiciEventTrigger(name=detail)
        case "generic_webhook":
            return lock.GenericWebhookTrigger(source=detail)
        case "webhook_event":
            return lock.WebhookTrigger(events=[detail])
        case "lifecycle":
            return lock.LifecycleTrigger(events=[detail or "workflow_complete"])
        case "schedule":
            raise UnknownEvent(
                f"no workflow {detail!r} has a schedule" if detail else "no workflow has a schedule"
            )
        case _:
            return cast("lock.Trigger", wanted())


def _fits(workflow: str, trigger: lock.Trigger, detail: str) -> bool:
    if not detail:
        return True
    match trigger:
        case lock.KiciEventTrigger(name=name) | lock.GenericWebhookTrigger(source=name):
            return name == detail
        case lock.ScheduleTrigger():
            return workflow == detail
        case lock.WebhookTrigger(events=allowed) | lock.LifecycleTrigger(events=allowed):
            return detail in allowed
        case lock.DispatchTrigger(types=allowed):
            pass
        case lock.CreateTrigger(ref_types=allowed) | lock.DeleteTrigger(ref_types=allowed):
            pass
        case lock.WorkflowCompleteTrigger(status=allowed) | lock.JobCompleteTrigger(status=allowed):
            pass
        case lock.PrTrigger(events=allowed):
            pass
        case (
            lock.CommentTrigger(actions=allowed)
            | lock.ReviewTrigger(actions=allowed)
            | lock.ReviewCommentTrigger(actions=allowed)
            | lock.ReleaseTrigger(actions=allowed)
            | lock.WorkflowRunTrigger(actions=allowed)
            | lock.StarTrigger(actions=allowed)
            | lock.WatchTrigger(actions=allowed)
        ):
            pass
        case _:
            return True
    return not allowed or detail in allowed
