"""What happened, one class per type of event: `match ctx.event: case PushEvent(): …`.

A class speaks of one wire event (`kici.spec.events.Event`) and holds nothing else, so that no field can
differ between the two.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from kici.sdk import payloads as p
from kici.spec import events as wire

_TYPES: dict[str, type["Event"]] = {}


class Event:
    """What all events have in common. Absent is None; `changed_files` None means unknown.

    Tests make one with its fields: `PushEvent(target_branch="main", payload={"ref": "refs/heads/main"})`.

    >>> match ctx.event:
    ...     case PushEvent(target_branch="main"):
    ...         await ctx.sh("make publish")
    ...     case PullRequestEvent() as change:
    ...         ctx.log.info("#%d", change.payload.number)
    ...     case _:
    ...         pass
    """

    __slots__ = ("wire",)
    wire_type: ClassVar[str] = "unknown"

    wire: wire.Event

    def __init__(
        self,
        *,
        action: str | None = None,
        target_branch: str | None = None,
        source_branch: str | None = None,
        base_branch: str | None = None,
        provider: str | None = None,
        is_fork_pr: bool | None = None,
        sender_username: str | None = None,
        source_repo: str | None = None,
        source: str | None = None,
        changed_files: list[str] | None = None,
        payload: Mapping[str, Any] | None = None,
    ) -> None:
        received = wire.Event(
            type=self.wire_type,
            action=action,
            target_branch=target_branch,
            source_branch=source_branch,
            base_branch=base_branch,
            provider=provider,
            is_fork_pr=is_fork_pr,
            sender_username=sender_username,
            source_repo=source_repo,
            source=source,
            changed_files=changed_files,
            payload=dict(payload or {}),
        )
        object.__setattr__(self, "wire", received)

    def __init_subclass__(cls, *, type: str) -> None:
        cls.wire_type = type
        _TYPES[type] = cls

    @property
    def payload(self) -> p.Payload:
        return p.Payload(self.wire.payload)

    @property
    def type(self) -> str:
        return self.wire.type

    @property
    def action(self) -> str | None:
        return self.wire.action

    @property
    def target_branch(self) -> str | None:
        """For tags the tag's name."""
        return self.wire.target_branch

    @property
    def source_branch(self) -> str | None:
        return self.wire.source_branch

    @property
    def base_branch(self) -> str | None:
        return self.wire.base_branch

    @property
    def provider(self) -> str | None:
        return self.wire.provider

    @property
    def is_fork_pr(self) -> bool | None:
        return self.wire.is_fork_pr

    @property
    def sender_username(self) -> str | None:
        return self.wire.sender_username

    @property
    def sender_user_id(self) -> str | None:
        return self.wire.sender_user_id

    @property
    def raw_event(self) -> str | None:
        """The provider's own name of the event."""
        return self.wire.raw_event

    @property
    def verified_by(self) -> str | None:
        """How a generic source verified it: `hmac:<header>` or `api_key:<header>`."""
        return self.wire.verified_by

    @property
    def path(self) -> str | None:
        """What was called behind the address of a generic source: `/staging`."""
        return self.wire.path

    @property
    def source_repo(self) -> str | None:
        return self.wire.source_repo

    @property
    def source(self) -> str | None:
        """The generic source it came through."""
        return self.wire.source

    @property
    def changed_files(self) -> list[str] | None:
        return self.wire.changed_files

    if not TYPE_CHECKING:

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{type(self).__name__} is frozen")

        def __reduce__(self) -> Any:
            return typed_event, (self.wire,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and self.wire == other.wire

    def __hash__(self) -> int:
        return hash((self.wire.type, self.wire.action, self.wire.target_branch))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.wire!r})"


class PullRequestEvent(Event, type="pull_request"):
    """A pull request changed. `target_branch` is what it goes into.

    >>> if isinstance(ctx.event, PullRequestEvent) and ctx.event.payload.pull_request.draft:
    ...     ctx.log.info("a draft")
    """

    @property
    def payload(self) -> p.PullRequestPayload:
        return p.PullRequestPayload(self.wire.payload)


class PushEvent(Event, type="push"):
    """Commits were pushed to `target_branch`.

    >>> if isinstance(ctx.event, PushEvent) and ctx.event.payload.forced:
    ...     ctx.log.warning("forced")
    """

    @property
    def payload(self) -> p.PushPayload:
        return p.PushPayload(self.wire.payload)


class TagEvent(Event, type="tag"):
    """A tag was pushed; `target_branch` is its name.

    >>> if isinstance(ctx.event, TagEvent):
    ...     await ctx.sh('make release v="$v"', v=ctx.event.target_branch)
    """

    @property
    def payload(self) -> p.TagPayload:
        return p.TagPayload(self.wire.payload)


class CommentEvent(Event, type="comment"):
    """Somebody commented on an issue or a pull request.

    >>> if isinstance(ctx.event, CommentEvent):
    ...     ctx.log.info("%s", ctx.event.payload.comment.body)
    """

    @property
    def payload(self) -> p.CommentPayload:
        return p.CommentPayload(self.wire.payload)


class ReviewEvent(Event, type="review"):
    """A pull request was reviewed.

    >>> if isinstance(ctx.event, ReviewEvent):
    ...     ctx.log.info("%s", ctx.event.payload.review.state)
    """

    @property
    def payload(self) -> p.ReviewPayload:
        return p.ReviewPayload(self.wire.payload)


class ReviewCommentEvent(Event, type="review_comment"):
    """Somebody commented on a line of a pull request.

    >>> if isinstance(ctx.event, ReviewCommentEvent):
    ...     ctx.log.info("%s", ctx.event.payload.comment.body)
    """

    @property
    def payload(self) -> p.ReviewCommentPayload:
        return p.ReviewCommentPayload(self.wire.payload)


class ReleaseEvent(Event, type="release"):
    """A release changed.

    >>> if isinstance(ctx.event, ReleaseEvent):
    ...     ctx.log.info("%s", ctx.event.payload.release.tag_name)
    """

    @property
    def payload(self) -> p.ReleasePayload:
        return p.ReleasePayload(self.wire.payload)


class DispatchEvent(Event, type="dispatch"):
    """Somebody started the workflow with a type, which is `action`. See `ctx.inputs`.

    >>> if isinstance(ctx.event, DispatchEvent):
    ...     ctx.log.info("%s by %s", ctx.event.action, ctx.event.sender_username)
    """

    @property
    def payload(self) -> p.DispatchPayload:
        return p.DispatchPayload(self.wire.payload)


class CreateEvent(Event, type="create"):
    """A branch or tag was created.

    >>> if isinstance(ctx.event, CreateEvent):
    ...     ctx.log.info("new %s", ctx.event.payload.ref_type)
    """

    @property
    def payload(self) -> p.RefPayload:
        return p.RefPayload(self.wire.payload)


class DeleteEvent(Event, type="delete"):
    """A branch or tag was deleted.

    >>> if isinstance(ctx.event, DeleteEvent):
    ...     ctx.log.info("%s is gone", ctx.event.payload.ref)
    """

    @property
    def payload(self) -> p.RefPayload:
        return p.RefPayload(self.wire.payload)


class StatusEvent(Event, type="status"):
    """A commit's status changed.

    >>> if isinstance(ctx.event, StatusEvent):
    ...     ctx.log.info("%s: %s", ctx.event.payload.context, ctx.event.payload.state)
    """

    @property
    def payload(self) -> p.StatusPayload:
        return p.StatusPayload(self.wire.payload)


class WorkflowRunEvent(Event, type="workflow_run"):
    """A workflow run of the provider changed.

    >>> if isinstance(ctx.event, WorkflowRunEvent):
    ...     ctx.log.info("%s", ctx.event.payload.workflow_run.conclusion)
    """

    @property
    def payload(self) -> p.WorkflowRunPayload:
        return p.WorkflowRunPayload(self.wire.payload)


class ForkEvent(Event, type="fork"):
    """The repository was forked.

    >>> if isinstance(ctx.event, ForkEvent):
    ...     ctx.log.info("%s", ctx.event.payload.forkee.full_name)
    """

    @property
    def payload(self) -> p.ForkPayload:
        return p.ForkPayload(self.wire.payload)


class StarEvent(Event, type="star"):
    """Somebody starred the repository, or took the star back.

    >>> if isinstance(ctx.event, StarEvent):
    ...     ctx.log.info("%s by %s", ctx.event.action, ctx.event.payload.sender.login)
    """

    @property
    def payload(self) -> p.ActionPayload:
        return p.ActionPayload(self.wire.payload)


class WatchEvent(Event, type="watch"):
    """Somebody watches the repository.

    >>> if isinstance(ctx.event, WatchEvent):
    ...     ctx.log.info("%s", ctx.event.payload.sender.login)
    """

    @property
    def payload(self) -> p.ActionPayload:
        return p.ActionPayload(self.wire.payload)


class WebhookEvent(Event, type="webhook"):
    """An event of the provider that has no class of its own; the payload is its body.

    >>> if isinstance(ctx.event, WebhookEvent):
    ...     ctx.log.info("%s", ctx.event.payload.get("action"))
    """


class KiciEvent(Event, type="kici_event"):
    """Another workflow emitted an event.

    >>> if isinstance(ctx.event, KiciEvent):
    ...     ctx.log.info("%s", ctx.event.payload.eventName)
    """

    @property
    def payload(self) -> p.KiciEventPayload:
        return p.KiciEventPayload(self.wire.payload)


class WorkflowCompleteEvent(Event, type="workflow_complete"):
    """A workflow ended. `duration` is in milliseconds.

    >>> if isinstance(ctx.event, WorkflowCompleteEvent):
    ...     ctx.log.info("%s", ctx.event.payload.status)
    """

    @property
    def payload(self) -> p.WorkflowCompletePayload:
        return p.WorkflowCompletePayload(self.wire.payload)


class JobCompleteEvent(Event, type="job_complete"):
    """A job ended. `duration` is in milliseconds.

    >>> if isinstance(ctx.event, JobCompleteEvent):
    ...     ctx.log.info("%s", ctx.event.payload.jobName)
    """

    @property
    def payload(self) -> p.JobCompletePayload:
        return p.JobCompletePayload(self.wire.payload)


class GenericWebhookEvent(Event, type="generic_webhook"):
    """A delivery of a generic source, whose name is `source`; the payload is its body.

    >>> if isinstance(ctx.event, GenericWebhookEvent):
    ...     ctx.log.info("%s", ctx.event.payload["status"])
    """


class ScheduleEvent(Event, type="schedule"):
    """A schedule came due.

    >>> if isinstance(ctx.event, ScheduleEvent):
    ...     ctx.log.info("due at %s", ctx.event.payload.scheduledAt)
    """

    @property
    def payload(self) -> p.SchedulePayload:
        return p.SchedulePayload(self.wire.payload)


class LifecycleEvent(Event, type="lifecycle"):
    """Something happened inside kici.

    >>> if isinstance(ctx.event, LifecycleEvent):
    ...     ctx.log.info("%s", ctx.event.payload.lifecycleEvent)
    """

    @property
    def payload(self) -> p.LifecyclePayload:
        return p.LifecyclePayload(self.wire.payload)


class RerunEvent(Event, type="rerun"):
    """A run was started again.

    >>> if isinstance(ctx.event, RerunEvent):
    ...     ctx.log.info("once more")
    """


class ManualScheduleEvent(Event, type="manual_schedule"):
    """A schedule was started by hand.

    >>> if isinstance(ctx.event, ManualScheduleEvent):
    ...     ctx.log.info("by %s", ctx.event.sender_username)
    """


class UnknownEvent(Event, type="unknown"):
    """An event of a type that this version does not know; see `event.type`.

    >>> if isinstance(ctx.event, UnknownEvent):
    ...     ctx.log.info("%s", ctx.event.type)
    """


def typed_event(received: wire.Event) -> Event:
    """The event's own class, by its type."""
    event = object.__new__(_TYPES.get(received.type, UnknownEvent))
    object.__setattr__(event, "wire", received)
    return event
