"""Factories of triggers for what happens in kici itself, for schedules, and for webhooks of other systems.

They act after the lock file reached the default branch (AU-81).
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from msgspec import Struct

from kici.sdk.definitions import Trigger
from kici.sdk.filters import (
    Expected,
    begin,
    conditions,
    inputs_of,
    patterns,
    required_text,
    text,
    words,
)
from kici.sdk.inputs import EventPayload, Inputs, event_name
from kici.sdk.options import Options
from kici.sdk.values import Patterns
from kici.spec import triggers

RunResult: TypeAlias = Literal["success", "failed", "cancelled"]
JobResult: TypeAlias = Literal["success", "failed", "cancelled", "skipped"]
LifecycleName: TypeAlias = Literal[
    "workflow_complete", "job_complete", "job_failed", "registration_updated"
]


class HmacAuth(Struct, frozen=True, kw_only=True):
    """The sender signs the body. `secret` names the secret of the source, never its value.

    >>> generic_webhook(source="stripe", auth=HmacAuth(secret="stripe", signature_header="stripe-signature"))
    """

    secret: str
    signature_header: str


class ApiKeyAuth(Struct, frozen=True, kw_only=True):
    """The sender shows a key in a header. `secret` names the secret of the source, never its value.

    >>> generic_webhook(source="grafana", auth=ApiKeyAuth(secret="grafana"))
    """

    secret: str
    header: str = "authorization"


Auth: TypeAlias = HmacAuth | ApiKeyAuth | None


def generic_webhook(
    *,
    source: str,
    events: str | Sequence[str] = (),
    match: Mapping[str, Expected] | None = None,
    not_: Mapping[str, Expected] | None = None,
    path: str = "",
    auth: Auth = None,
    description: str = "",
) -> Trigger:
    """A delivery of a generic webhook source. `match` and `not_` map JSONPaths to what they must (not) hold.

    >>> generic_webhook(source="grafana", events="alert", match={"$.status": "firing"})
    """
    given = begin("generic_webhook", description)
    locked = triggers.GenericWebhookTrigger(
        source=required_text(given, "source", source, "name the source that an operator has added"),
        events=words(given, "events", events),
        match=conditions(given, "match", match),
        not_=conditions(given, "not_", not_),
        path=text(given, "path", path),
        auth=_auth(given, auth),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def _auth(given: Options, auth: object) -> triggers.WebhookAuth | None:
    match auth:
        case None:
            return None
        case HmacAuth(secret=secret, signature_header=header):
            if not header:
                given.report(
                    "E407", "`auth`: HMAC without a header", "say which header holds the signature"
                )
            kind: Literal["hmac", "api_key"] = "hmac"
        case ApiKeyAuth(secret=secret, header=header):
            kind = "api_key"
        case _:
            given.wrong_type("auth", "HmacAuth(...) or ApiKeyAuth(...)", auth)
            return None
    return triggers.WebhookAuth(
        kind=kind,
        secret=required_text(given, "auth.secret", secret, "name the secret of the source"),
        header=header.lower(),
    )


def kici_event(
    name: str | type[EventPayload],
    *,
    match: Mapping[str, Expected] | None = None,
    not_: Mapping[str, Expected] | None = None,
    source: Patterns = (),
    description: str = "",
) -> Trigger:
    """An event that a step emitted; `source` are the repositories it may come from (AU-86).

    >>> kici_event("deploy-complete", match={"$.env": "prod"})
    """
    given = begin("kici_event", description)
    wanted: Any = name if isinstance(name, str) else event_name(name)
    locked = triggers.KiciEventTrigger(
        name=required_text(
            given,
            "name",
            wanted,
            "pass a name, or a class with one: class Done(EventPayload, event='done')",
        ),
        match=conditions(given, "match", match),
        not_=conditions(given, "not_", not_),
        source=patterns(given, "source", source),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def workflow_complete(
    *,
    name: str = "",
    status: RunResult | Sequence[RunResult] = (),
    source: Patterns = (),
    description: str = "",
) -> Trigger:
    """A workflow ended; without `name` any one did.

    >>> workflow_complete(name="build", status="success")
    """
    given = begin("workflow_complete", description)
    locked = triggers.WorkflowCompleteTrigger(
        name=text(given, "name", name),
        status=words(given, "status", status, get_args(RunResult)),
        source=patterns(given, "source", source),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def job_complete(
    *,
    workflow: str = "",
    job: str = "",
    status: JobResult | Sequence[JobResult] = (),
    source: Patterns = (),
    description: str = "",
) -> Trigger:
    """A job ended.

    >>> job_complete(workflow="build", job="package", status=["failed", "skipped"])
    """
    given = begin("job_complete", description)
    locked = triggers.JobCompleteTrigger(
        workflow=text(given, "workflow", workflow),
        job=text(given, "job", job),
        status=words(given, "status", status, get_args(JobResult)),
        source=patterns(given, "source", source),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def schedule(
    *,
    cron: str,
    timezone: str = "UTC",
    inputs: type[Inputs] | None = None,
    description: str = "",
) -> Trigger:
    """Five fields of cron in a time zone. Every input needs a default, or allows None.

    >>> schedule(cron="30 4 * * 1-5", timezone="Europe/Berlin")
    """
    given = begin("schedule", description)
    locked = triggers.ScheduleTrigger(
        cron=text(given, "cron", cron).strip(),
        timezone=text(given, "timezone", timezone) or "UTC",
        inputs=inputs_of(given, inputs),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def lifecycle(
    *,
    events: LifecycleName | Sequence[LifecycleName],
    sources: Patterns = (),
    description: str = "",
) -> Trigger:
    """Something happened inside kici; `sources` are the repositories it concerns.

    >>> lifecycle(events=["job_failed", "registration_updated"])
    """
    given = begin("lifecycle", description)
    locked = triggers.LifecycleTrigger(
        events=words(given, "events", events, get_args(LifecycleName)),
        sources=patterns(given, "sources", sources),
        description=given.text("description"),
    )
    if not locked.events and not given.sequence("events", (events,) if isinstance(events, str) else events):
        given.report("E405", "`events` is empty", "name what it waits for")
    return Trigger(locked=(locked,), source=given.source)
