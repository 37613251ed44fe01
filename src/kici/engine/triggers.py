"""Does this event start this workflow, and why (OR-50…55, AU-75…80)? One pure function, shared by the
orchestrator and `kici preview` and `kici run local`.

Filters of a trigger are joined by AND, values within a filter by OR. Triggers are tried in order and the
first hit wins. Every check is recorded, so that a person can see why nothing started.
"""

from collections.abc import Sequence
from typing import Any, cast

from msgspec import Struct
from msgspec.structs import replace

from kici.engine.checks import (
    NO_VALUE,
    Check,
    conditions,
    equal,
    fits,
    joined,
    one_of,
    paths,
    pattern_text,
    text_in,
)
from kici.spec.events import Event
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

PR_DEFAULT_EVENTS = ("opened", "synchronize", "reopened", "closed")
# What a job that never came to its own end counts as in filters, besides its own name (OR-93).
_ALSO_FAILED = frozenset({"timed_out_stale", "drift_dropped"})


class Decision(Struct, frozen=True, kw_only=True):
    """`reason` is one sentence for people; `checks` has everything that was compared, in order."""

    matched: bool
    trigger_index: int | None
    reason: str
    checks: list[Check]


def trigger_type(trigger: Trigger) -> str:
    """The `_type` in the lock file, which registrations list."""
    return cast("str", type(trigger).__struct_config__.tag)


def event_type(trigger: Trigger) -> str:
    """The `Event.type` that this trigger waits for; `webhook` takes any (OR-55)."""
    kind = trigger_type(trigger)
    return "pull_request" if kind == "pr" else kind


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


def match_first(triggers: Sequence[Trigger], faces: Sequence[Event]) -> tuple[Decision, Event]:
    """One happening that is several events at once: a job that failed is `job_complete` and `lifecycle`
    (OR-93). The earliest trigger that takes any of them wins, and its event is what the run sees; without
    one, all that was compared, under the face that came nearest. `faces` is not empty."""
    best: tuple[Decision, Event] | None = None
    misses: list[tuple[Decision, Event]] = []
    for face in faces:
        found = match_workflow(triggers, face)
        if not found.matched:
            misses.append((found, face))
        elif best is None or cast("int", found.trigger_index) < cast("int", best[0].trigger_index):
            best = found, face
    if best is not None:
        return best
    kinds = {event_type(trigger) for trigger in triggers}
    decision, event = next((miss for miss in misses if miss[1].type in kinds), misses[0])
    checks = list(dict.fromkeys(check for miss, _ in misses for check in miss.checks))
    return replace(decision, checks=checks), event


def _checks(name: str, trigger: Trigger, event: Event) -> list[Check]:
    """The kind of event first; the filters only when that fits."""
    kind = _kind(name, trigger, event)
    return [kind, *_filters(name, trigger, event)] if kind.matched else [kind]


def _kind(name: str, trigger: Trigger, event: Event) -> Check:
    if isinstance(trigger, WebhookTrigger):
        # The provider's own name, so that events we have no word for can be named (OR-55, AU-80).
        names = [word for word in (event.raw_event, event.type) if word]
        return Check(
            check=f"{name}.event",
            expected=joined(trigger.events),
            actual=joined(list(dict.fromkeys(names))),
            matched=any(word in trigger.events for word in names),
        )
    wanted = event_type(trigger)
    return Check(check=f"{name}.event", expected=wanted, actual=event.type, matched=event.type == wanted)


def _filters(name: str, trigger: Trigger, event: Event) -> list[Check]:
    own = event.payload
    match trigger:
        case PushTrigger():
            return [
                *fits(f"{name}.branches", trigger.branches, event.target_branch),
                *paths(f"{name}.paths", trigger.paths, event.changed_files),
                *_repos(name, trigger, event),
            ]
        case TagTrigger():
            return [
                *fits(f"{name}.patterns", trigger.patterns, event.target_branch),
                *paths(f"{name}.paths", trigger.paths, event.changed_files),
                *_repos(name, trigger, event),
            ]
        case PrTrigger():
            return [
                *one_of(f"{name}.events", trigger.events or PR_DEFAULT_EVENTS, event.action),
                *fits(f"{name}.target", trigger.target, event.target_branch),
                *fits(f"{name}.source", trigger.source, event.source_branch),
                *paths(f"{name}.paths", trigger.paths, event.changed_files),
                *_repos(name, trigger, event),
            ]
        case GenericWebhookTrigger():
            return _generic(name, trigger, event)
        case CommentTrigger():
            return [
                *one_of(f"{name}.actions", trigger.actions, event.action),
                *one_of(f"{name}.source", trigger.source, _commented(own)),
                *text_in(f"{name}.body_match", trigger.body_match, _at(own, "comment", "body")),
                *_repos(name, trigger, event),
            ]
        case ReviewTrigger():
            return [
                *one_of(f"{name}.actions", trigger.actions, event.action),
                *one_of(f"{name}.states", trigger.states, _word(own, "review", "state")),
                *_repos(name, trigger, event),
            ]
        case WebhookTrigger() | ReviewCommentTrigger() | ReleaseTrigger() | StarTrigger() | WatchTrigger():
            return [
                *one_of(f"{name}.actions", trigger.actions, event.action),
                *_repos(name, trigger, event),
            ]
        case ForkTrigger():
            return _repos(name, trigger, event)
        case DispatchTrigger():
            return [*one_of(f"{name}.types", trigger.types, event.action), *_repos(name, trigger, event)]
        case CreateTrigger() | DeleteTrigger():
            return [
                *one_of(f"{name}.ref_types", trigger.ref_types, _word(own, "ref_type")),
                *fits(f"{name}.patterns", trigger.patterns, event.target_branch),
                *_repos(name, trigger, event),
            ]
        case StatusTrigger():
            return [
                *fits(f"{name}.contexts", trigger.contexts, _text(own, "context")),
                *one_of(f"{name}.states", trigger.states, _word(own, "state")),
                *_repos(name, trigger, event),
            ]
        case WorkflowRunTrigger():
            return [
                *one_of(f"{name}.actions", trigger.actions, event.action),
                *one_of(f"{name}.workflows", trigger.workflows, _text(own, "workflow_run", "name")),
                *one_of(
                    f"{name}.conclusions", trigger.conclusions, _word(own, "workflow_run", "conclusion")
                ),
                *_repos(name, trigger, event),
            ]
        case KiciEventTrigger():
            return [
                *one_of(f"{name}.name", [trigger.name], _text(own, "eventName")),
                *fits(f"{name}.source", trigger.source, event.source_repo),
                *conditions(name, trigger.match, trigger.not_, own.get("payload")),
            ]
        case WorkflowCompleteTrigger():
            return [
                *equal(f"{name}.name", trigger.name, _text(own, "workflowName")),
                *_status(name, trigger.status, own),
                *fits(f"{name}.source", trigger.source, event.source_repo),
            ]
        case JobCompleteTrigger():
            return [
                *equal(f"{name}.workflow", trigger.workflow, _text(own, "workflowName")),
                *equal(f"{name}.job", trigger.job, _text(own, "jobName")),
                *_status(name, trigger.status, own),
                *fits(f"{name}.source", trigger.source, event.source_repo),
            ]
        case ScheduleTrigger():
            # A fire names its schedule; one made by hand may leave that out.
            return [
                *(
                    equal(f"{name}.cron", trigger.cron, cron)
                    if (cron := _text(own, "cronExpression"))
                    else ()
                ),
                *(
                    equal(f"{name}.timezone", trigger.timezone, zone)
                    if (zone := _text(own, "timezone"))
                    else ()
                ),
            ]
        case LifecycleTrigger():
            return [
                *one_of(f"{name}.events", trigger.events, _text(own, "lifecycleEvent")),
                *fits(f"{name}.sources", trigger.sources, event.source_repo),
            ]


def _repos(name: str, trigger: Any, event: Event) -> list[Check]:
    return fits(f"{name}.repos", cast("list[Pattern]", trigger.repos), event.source_repo)


def _generic(name: str, trigger: GenericWebhookTrigger, event: Event) -> list[Check]:
    checks = [
        *one_of(f"{name}.source", [trigger.source], event.source),
        *one_of(f"{name}.events", trigger.events, event.action),
        *conditions(name, trigger.match, trigger.not_, event.payload),
    ]
    if trigger.auth is not None:
        wanted = f"{trigger.auth.kind}:{trigger.auth.header}"
        checks += one_of(f"{name}.auth", [wanted], event.verified_by)
    if wanted := trigger.path.strip("/"):
        checks += one_of(f"{name}.path", [f"/{wanted}"], event.path or "/")
    return checks


def _status(name: str, wanted: Sequence[str], payload: dict[str, Any]) -> list[Check]:
    status = _text(payload, "status")
    if status in _ALSO_FAILED and status not in wanted:
        return [
            replace(check, actual=f"failed ({status})")
            for check in one_of(f"{name}.status", wanted, "failed")
        ]
    return one_of(f"{name}.status", wanted, status)


def _at(payload: object, *keys: str) -> object:
    value = payload
    for key in keys:
        value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return value


def _text(payload: object, *keys: str) -> str | None:
    value = _at(payload, *keys)
    return value if isinstance(value, str) and value else None


def _word(payload: object, *keys: str) -> str | None:
    """GitHub writes some of its own words in capitals now and then."""
    found = _text(payload, *keys)
    return None if found is None else found.lower()


def _commented(payload: dict[str, Any]) -> str:
    """A comment on a pull request is one on an issue that has `pull_request` (AU §5)."""
    return "pr" if _at(payload, "issue", "pull_request") is not None else "issue"


def _matching(patterns: Sequence[Pattern]) -> str:
    return f" matches {pattern_text(patterns)}" if patterns else ""


def _why(trigger: Trigger, event: Event) -> str:
    own, action = event.payload, event.action
    where = event.target_branch or NO_VALUE
    match trigger:
        case PushTrigger():
            return f"Push to {where}{_matching(trigger.branches)}"
        case TagTrigger():
            return f"Tag {where}{_matching(trigger.patterns)}"
        case PrTrigger():
            into = f" into {event.target_branch}" if event.target_branch else ""
            return f"Pull request {action or 'changed'}{into}{_matching(trigger.target)}"
        case GenericWebhookTrigger():
            what = f"{action} " if action else ""
            return f"Webhook {what}from {event.source or NO_VALUE}"
        case WebhookTrigger():
            return f"Webhook {event.raw_event or event.type}"
        case CommentTrigger():
            on = "a pull request" if _commented(own) == "pr" else "an issue"
            return f"Comment {action or 'made'} on {on}"
        case ReviewTrigger():
            return f"Review {action or 'changed'}{_in_brackets(_word(own, 'review', 'state'))}"
        case ReviewCommentTrigger():
            return f"Review comment {action or 'made'}"
        case ReleaseTrigger():
            return " ".join(filter(None, ("Release", _text(own, "release", "tag_name"), action)))
        case DispatchTrigger():
            return f"Dispatch {action}" if action else "Dispatch"
        case CreateTrigger():
            return f"{(_word(own, 'ref_type') or 'ref').capitalize()} {where} created"
        case DeleteTrigger():
            return f"{(_word(own, 'ref_type') or 'ref').capitalize()} {where} deleted"
        case StatusTrigger():
            return f"Status {_text(own, 'context') or NO_VALUE}{_in_brackets(_word(own, 'state'))}"
        case WorkflowRunTrigger():
            ended = _in_brackets(_word(own, "workflow_run", "conclusion"))
            return f"Workflow run {_text(own, 'workflow_run', 'name') or NO_VALUE} {action or 'changed'}{ended}"
        case ForkTrigger():
            return f"Forked to {_text(own, 'forkee', 'full_name') or NO_VALUE}"
        case StarTrigger():
            return f"Star {action or 'changed'}"
        case WatchTrigger():
            return f"Watch {action or 'changed'}"
        case KiciEventTrigger():
            return f"Event {trigger.name} from {event.source_repo or NO_VALUE}"
        case WorkflowCompleteTrigger():
            return f"Workflow {_text(own, 'workflowName') or NO_VALUE} ended: {_text(own, 'status') or NO_VALUE}"
        case JobCompleteTrigger():
            job = f"{_text(own, 'jobName') or NO_VALUE} of {_text(own, 'workflowName') or NO_VALUE}"
            return f"Job {job} ended: {_text(own, 'status') or NO_VALUE}"
        case ScheduleTrigger():
            return f"Schedule {trigger.cron} ({trigger.timezone})"
        case LifecycleTrigger():
            return (
                f"Lifecycle {_text(own, 'lifecycleEvent') or NO_VALUE} in {event.source_repo or NO_VALUE}"
            )


def _in_brackets(word: str | None) -> str:
    return f" ({word})" if word else ""


def _why_not(triggers: Sequence[Trigger], event: Event, nearest: Check | None) -> str:
    if nearest is not None:
        return f"{nearest.check}: wanted {nearest.expected}, got {nearest.actual}"
    kinds = ", ".join(dict.fromkeys(trigger_type(trigger) for trigger in triggers))
    return f"No trigger for {event.raw_event or event.type} events (it has {kinds})"
