"""A row of `kici_events`, and what it looks like to triggers. Pure."""

from datetime import datetime
from typing import Any, cast

from msgspec import Struct

from kici.spec.events import Event

WORKFLOW_COMPLETE = "__workflow_complete"
JOB_COMPLETE = "__job_complete"
SCHEDULE_FIRE = "__schedule_fire"
REGISTRATION_UPDATED = "registration.updated"
MANUAL_SCHEDULE = "workflow.manual_schedule"
RERUN = "workflow.rerun"
SYSTEM_NAMES = frozenset(
    {
        WORKFLOW_COMPLETE,
        JOB_COMPLETE,
        SCHEDULE_FIRE,
        REGISTRATION_UPDATED,
        MANUAL_SCHEDULE,
        RERUN,
    }
)
# Trigger types that can be started by an internal event.
INTERNAL_TYPES = ("kici_event", "workflow_complete", "job_complete", "lifecycle")

_JOB_FAILED = frozenset({"failed", "timed_out_stale", "drift_dropped"})  # OR-93


class StoredEvent(Struct, frozen=True, kw_only=True):
    """`claimed_by` and `attempts` of the row fence every write about it (OR-94)."""

    id: str
    org_id: str
    event_name: str
    origin: str  # system | job | operator
    payload: Any
    source_repo: str | None
    source_routing_key: str | None
    source_run_id: str | None
    target_repos: list[str] | None
    chain_depth: int
    attempts: int
    created_at: datetime


def faces(stored: StoredEvent) -> list[Event]:
    """What triggers see: a completion is itself and `lifecycle`, with the fields of the underlying event
    (OR-93, AU §5). Empty: nothing can wait for it."""
    payload = cast("dict[str, Any]", stored.payload) if isinstance(stored.payload, dict) else {}
    if stored.origin != "system":
        emitted = {
            "eventName": stored.event_name,
            "payload": stored.payload,
            "sourceRepo": stored.source_repo,
            "sourceRoutingKey": stored.source_routing_key,
        }
        return [_event("kici_event", stored, emitted)]
    match stored.event_name:
        case "__workflow_complete":
            return [
                _event("workflow_complete", stored, payload),
                _lifecycle("workflow_complete", stored, payload),
            ]
        case "__job_complete":
            found = [_event("job_complete", stored, payload), _lifecycle("job_complete", stored, payload)]
            if payload.get("status") in _JOB_FAILED:
                found.append(_lifecycle("job_failed", stored, payload))
            return found
        case "registration.updated":
            return [_lifecycle("registration_updated", stored, payload)]
        case "__schedule_fire":
            return [_event("schedule", stored, payload)]
        case _:
            return []


def _lifecycle(name: str, stored: StoredEvent, payload: dict[str, Any]) -> Event:
    return _event("lifecycle", stored, {"lifecycleEvent": name, **payload})


def _event(kind: str, stored: StoredEvent, payload: dict[str, Any]) -> Event:
    return Event(
        type=kind,
        source_repo=stored.source_repo,
        provider="kici",
        raw_event=stored.event_name,
        payload=payload,
    )
