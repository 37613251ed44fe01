"""What a workflow may start on, as the lock file says it: one struct for each `_type` (AU-75…82).

An empty filter lets everything pass.
"""

from typing import Any, Literal, get_args

from msgspec import Struct, field


class Pattern(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A branch, tag, path or repository pattern. A leading `!` in `pattern` excludes."""

    type: Literal["glob", "regex"]
    pattern: str
    flags: str = ""


class InputField(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One typed dispatch or schedule input (AU-83). `required` False with `default` None: absent is None."""

    name: str
    type: Literal["string", "integer", "number", "boolean"]
    required: bool = False
    default: str | int | float | bool | None = None
    choices: list[str | int | float | bool] = []
    ge: float | None = None
    le: float | None = None
    min_length: int | None = None
    max_length: int | None = None
    pattern: str | None = None
    description: str = ""


class WebhookAuth(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the source must have verified a delivery by, beyond being valid: `secret` is a name (OR-55)."""

    kind: Literal["hmac", "api_key"]
    secret: str
    header: str  # lower case


class PushTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="push"
):
    branches: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class TagTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="tag"
):
    patterns: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class PrTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="pr"
):
    events: list[str] = []
    target: list[Pattern] = []
    source: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class GenericWebhookTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="generic_webhook",
):
    source: str
    events: list[str] = []
    match: dict[str, Any] = {}
    not_: dict[str, Any] = field(default_factory=dict, name="not")
    path: str = ""
    auth: WebhookAuth | None = None
    description: str = ""


class WebhookTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="webhook",
):
    events: list[str]
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class CommentTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="comment"
):
    actions: list[str] = []
    source: list[str] = []  # issue | pr
    body_match: str = ""  # substring, or /re/flags
    repos: list[Pattern] = []
    description: str = ""


class ReviewTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="review"
):
    actions: list[str] = []
    states: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class ReviewCommentTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="review_comment",
):
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class ReleaseTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="release"
):
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class DispatchTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="dispatch"
):
    types: list[str] = []
    inputs: list["InputField"] = []
    repos: list[Pattern] = []
    description: str = ""


class CreateTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="create"
):
    ref_types: list[str] = []
    patterns: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class DeleteTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="delete"
):
    ref_types: list[str] = []
    patterns: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class StatusTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="status"
):
    contexts: list[Pattern] = []
    states: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class WorkflowRunTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="workflow_run",
):
    actions: list[str] = []
    workflows: list[str] = []
    conclusions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class ForkTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="fork"
):
    repos: list[Pattern] = []
    description: str = ""


class StarTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="star"
):
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class WatchTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="watch"
):
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


class KiciEventTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="kici_event",
):
    name: str
    match: dict[str, Any] = {}
    not_: dict[str, Any] = field(default_factory=dict, name="not")
    source: list[Pattern] = []  # repositories that may send it
    description: str = ""


class WorkflowCompleteTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="workflow_complete",
):
    name: str = ""  # of the workflow; empty: any
    status: list[str] = []
    source: list[Pattern] = []
    description: str = ""


class JobCompleteTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="job_complete",
):
    workflow: str = ""
    job: str = ""
    status: list[str] = []
    source: list[Pattern] = []
    description: str = ""


class ScheduleTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="schedule"
):
    cron: str
    timezone: str = "UTC"
    inputs: list["InputField"] = []
    description: str = ""


class LifecycleTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="lifecycle",
):
    events: list[str]
    sources: list[Pattern] = []
    description: str = ""


Trigger = (
    PushTrigger
    | TagTrigger
    | PrTrigger
    | GenericWebhookTrigger
    | WebhookTrigger
    | CommentTrigger
    | ReviewTrigger
    | ReviewCommentTrigger
    | ReleaseTrigger
    | DispatchTrigger
    | CreateTrigger
    | DeleteTrigger
    | StatusTrigger
    | WorkflowRunTrigger
    | ForkTrigger
    | StarTrigger
    | WatchTrigger
    | KiciEventTrigger
    | WorkflowCompleteTrigger
    | JobCompleteTrigger
    | ScheduleTrigger
    | LifecycleTrigger
)


def trigger_types() -> list[str]:
    """Each `_type` that there is."""
    return [str(kind.__struct_config__.tag) for kind in get_args(Trigger)]
