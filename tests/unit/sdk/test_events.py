"""Typed events and their payloads (section 5 of the requirements), and custom events (AU-86)."""

import json
import pickle
from typing import Any

import pytest

from kici import (
    Event,
    EventPayload,
    GenericWebhookEvent,
    Payload,
    PullRequestEvent,
    PushEvent,
    UnknownEvent,
)
from kici.sdk import events, payloads
from kici.sdk.events import typed_event
from kici.sdk.inputs import event_name
from kici.spec import events as wire

TYPES = [
    "pull_request",
    "push",
    "tag",
    "comment",
    "review",
    "review_comment",
    "release",
    "dispatch",
    "create",
    "delete",
    "status",
    "workflow_run",
    "fork",
    "star",
    "watch",
    "webhook",
    "kici_event",
    "workflow_complete",
    "job_complete",
    "generic_webhook",
    "schedule",
    "lifecycle",
    "rerun",
    "manual_schedule",
    "unknown",
]
PULL_REQUEST = {
    "action": "opened",
    "number": 7,
    "pull_request": {
        "number": 7,
        "draft": True,
        "head": {"ref": "feature", "repo": {"full_name": "fork/r"}},
        "labels": [{"name": "bug", "color": "red"}],
    },
    "installation": {"id": 5},
}


def test_each_type_of_the_requirements_has_its_class() -> None:
    """Section 5: one class per type, for `match` statements."""
    classes = [type(typed_event(wire.Event(type=name))) for name in TYPES]

    assert [found.wire_type for found in classes] == TYPES
    assert len(set(classes)) == len(TYPES)
    assert {found.__name__ for found in classes} <= set(vars(events))
    assert type(typed_event(wire.Event(type="new_in_a_later_version"))) is UnknownEvent


def test_match_statements_choose_by_class_and_field() -> None:
    """Section 5"""

    def chosen(event: Event) -> str:
        match event:
            case PushEvent(target_branch="main"):
                return "main"
            case PushEvent():
                return "push"
            case PullRequestEvent(action="opened"):
                return f"#{event.payload.number}"
            case _:
                return "other"

    assert [
        chosen(typed_event(found))
        for found in (
            wire.Event(type="push", target_branch="main"),
            wire.Event(type="push", target_branch="x"),
            wire.Event(type="pull_request", action="opened", payload=PULL_REQUEST),
            wire.Event(type="pull_request", action="closed"),
        )
    ] == ["main", "push", "#7", "other"]


def test_common_fields_are_those_of_the_wire() -> None:
    """Section 5: absent is None; the expression trees of AU-41 see the same names."""
    texts: dict[str, Any] = {name: f"a-{name}" for name in TEXTS}
    received = wire.Event(type="push", **texts, changed_files=["x"], is_fork_pr=False)
    event = typed_event(received)

    fields = set(wire.Event.__struct_fields__) - {"payload"}
    assert {name: getattr(event, name) for name in fields} == {
        name: getattr(received, name) for name in fields
    }
    empty = typed_event(wire.Event(type="push"))
    assert [getattr(empty, name) for name in TEXTS] == [None] * len(TEXTS)
    assert (empty.changed_files, empty.payload.raw) == (None, {})


TEXTS = (
    "action",
    "target_branch",
    "source_branch",
    "base_branch",
    "provider",
    "sender_username",
    "sender_user_id",
    "source_repo",
    "source",
    "raw_event",
    "verified_by",
    "path",
)


def test_payloads_are_read_by_attribute_key_and_get() -> None:
    """Section 5: all three read the same, nothing that was received is lost."""
    event = typed_event(wire.Event(type="pull_request", payload=PULL_REQUEST))
    assert isinstance(event, PullRequestEvent)
    payload = event.payload

    assert payload.pull_request.draft is True
    assert payload["pull_request"]["draft"] is True
    assert payload.get("pull_request", {})["draft"] is True
    assert isinstance(payload.pull_request.head, payloads.Ref)
    assert payload.pull_request.head.repo is not None
    assert payload.pull_request.head.repo.full_name == "fork/r"
    labels = payload.pull_request.labels
    assert labels is not None
    assert [label.name for label in labels] == ["bug"]
    assert labels[0]["color"] == "red"
    assert payload["installation"]["id"] == 5
    assert payload.raw is PULL_REQUEST
    assert dict(payload) == PULL_REQUEST
    assert json.dumps(payload["installation"].raw) == '{"id": 5}'


def test_what_is_absent_from_a_payload() -> None:
    """Decision of AU-41's scopes: an absent attribute is None, an absent key raises."""
    payload = Payload({"a": None})
    untyped: Any = payload

    assert untyped.missing is None
    assert payload.get("missing", 5) == 5
    with pytest.raises(KeyError):
        payload["missing"]
    assert ("a" in payload, "b" in payload, len(payload), list(payload)) == (True, False, 1, ["a"])
    with pytest.raises(AttributeError):
        untyped.__nothing__  # noqa: B018


def test_events_and_payloads_are_frozen_compare_and_travel() -> None:
    event = PushEvent(target_branch="main", payload={"ref": "x"})

    with pytest.raises(AttributeError, match="frozen"):
        event.wire = wire.Event(type="tag")
    with pytest.raises(AttributeError, match="frozen"):
        event.payload.ref = "y"
    assert event == typed_event(wire.Event(type="push", target_branch="main", payload={"ref": "x"}))
    assert event != PushEvent(target_branch="main")
    assert len({event, PushEvent(target_branch="main", payload={"ref": "x"})}) == 1
    assert event.payload == {"ref": "x"}
    assert pickle.loads(pickle.dumps(event)) == event
    assert pickle.loads(pickle.dumps(event.payload)) == event.payload
    assert "PushEvent" in repr(event)


def test_tests_make_events_with_their_fields() -> None:
    """AU-122"""
    event = GenericWebhookEvent(source="grafana", action="alert", payload={"status": "firing"})

    assert (event.type, event.source, event.action, event.payload["status"]) == (
        "generic_webhook",
        "grafana",
        "alert",
        "firing",
    )


def test_custom_events_carry_their_name() -> None:
    """AU-86"""

    class Done(EventPayload, event="deploy-complete"):
        versions: list[str] = []
        env: str

    assert (event_name(Done), event_name(Done(env="prod")), event_name(int), event_name("x")) == (
        "deploy-complete",
        "deploy-complete",
        "",
        "",
    )
    with pytest.raises(AttributeError):
        Done(env="prod").env = "x"  # type: ignore[misc]
