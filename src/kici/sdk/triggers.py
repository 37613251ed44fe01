"""Factories of triggers for what happens in a repository (AU-75…81), and how filters are read.

Filters AND, values inside a filter OR, an absent filter is any. `repos` makes a workflow global.
"""

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

from kici.sdk import filters
from kici.sdk.definitions import Trigger
from kici.sdk.filters import begin, inputs_of, patterns, words
from kici.sdk.inputs import Inputs
from kici.sdk.values import Patterns
from kici.spec import triggers

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
CommentAction: TypeAlias = Literal["created", "edited", "deleted"]
CommentSource: TypeAlias = Literal["issue", "pr"]
ReviewAction: TypeAlias = Literal["submitted", "edited", "dismissed"]
ReviewState: TypeAlias = Literal["approved", "changes_requested", "commented", "dismissed"]
ReleaseAction: TypeAlias = Literal[
    "published", "unpublished", "created", "edited", "deleted", "prereleased", "released"
]
RefType: TypeAlias = Literal["branch", "tag"]
CommitState: TypeAlias = Literal["error", "failure", "pending", "success"]
WorkflowRunAction: TypeAlias = Literal["requested", "completed", "in_progress"]
StarAction: TypeAlias = Literal["created", "deleted"]
WatchAction: TypeAlias = Literal["started"]


def push(
    *,
    branches: Patterns = (),
    tags: Patterns = (),
    paths: Patterns = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A push of commits or tags. With `tags` alone, branch pushes do not match (AU-77).

    >>> push(branches=["main", "release/*"], paths=["src/**", "!**/*.md"])
    """
    given = begin("push", description)
    branch_patterns = patterns(given, "branches", branches)
    tag_patterns = patterns(given, "tags", tags)
    path_patterns = patterns(given, "paths", paths)
    repo_patterns = patterns(given, "repos", repos)
    text = given.text("description")
    halves: list[triggers.Trigger] = []
    if branch_patterns or not tag_patterns:
        halves.append(
            triggers.PushTrigger(
                branches=branch_patterns, paths=path_patterns, repos=repo_patterns, description=text
            )
        )
    if tag_patterns:
        halves.append(
            triggers.TagTrigger(
                patterns=tag_patterns, paths=path_patterns, repos=repo_patterns, description=text
            )
        )
    return Trigger(locked=tuple(halves), source=given.source)


def pr(
    *,
    events: PrEvent | Sequence[PrEvent] = ("opened", "synchronize", "reopened", "closed"),
    target: Patterns = (),
    source: Patterns = (),
    paths: Patterns = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A pull request: `target` is the branch it goes into, `source` the one it comes from.

    >>> pr(target="main", paths="src/**")
    """
    given = begin("pr", description)
    locked = triggers.PrTrigger(
        events=words(given, "events", events, get_args(PrEvent)),
        target=patterns(given, "target", target),
        source=patterns(given, "source", source),
        paths=patterns(given, "paths", paths),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def tag(*, patterns: Patterns = (), repos: Patterns = (), description: str = "") -> Trigger:
    """A pushed tag.

    >>> tag(patterns="v*")
    """
    given = begin("tag", description)
    locked = triggers.TagTrigger(
        patterns=filters.patterns(given, "patterns", patterns),
        repos=filters.patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def comment(
    *,
    actions: CommentAction | Sequence[CommentAction] = (),
    source: CommentSource | Sequence[CommentSource] = (),
    body_match: str = "",
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A comment on an issue or a pull request. `body_match` is a part of its text, or `/regex/flags`.

    >>> comment(actions="created", source="pr", body_match="/^!deploy/")
    """
    given = begin("comment", description)
    locked = triggers.CommentTrigger(
        actions=words(given, "actions", actions, get_args(CommentAction)),
        source=words(given, "source", source, get_args(CommentSource)),
        body_match=filters.body_match(given, "body_match", body_match),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def review(
    *,
    actions: ReviewAction | Sequence[ReviewAction] = (),
    states: ReviewState | Sequence[ReviewState] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A review of a pull request.

    >>> review(actions="submitted", states="approved")
    """
    given = begin("review", description)
    locked = triggers.ReviewTrigger(
        actions=words(given, "actions", actions, get_args(ReviewAction)),
        states=words(given, "states", states, get_args(ReviewState)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def review_comment(
    *,
    actions: CommentAction | Sequence[CommentAction] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A comment on a line of a pull request.

    >>> review_comment(actions=["created", "edited"])
    """
    given = begin("review_comment", description)
    locked = triggers.ReviewCommentTrigger(
        actions=words(given, "actions", actions, get_args(CommentAction)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def release(
    *,
    actions: ReleaseAction | Sequence[ReleaseAction] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A release of the provider.

    >>> release(actions="published")
    """
    given = begin("release", description)
    locked = triggers.ReleaseTrigger(
        actions=words(given, "actions", actions, get_args(ReleaseAction)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def dispatch(
    *,
    types: str | Sequence[str] = (),
    inputs: type[Inputs] | None = None,
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """Started by hand or by an API, with typed inputs for `ctx.inputs`.

    >>> dispatch(types="deploy")
    """
    given = begin("dispatch", description)
    locked = triggers.DispatchTrigger(
        types=words(given, "types", types),
        inputs=inputs_of(given, inputs),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def create(
    *,
    ref_types: RefType | Sequence[RefType] = (),
    patterns: Patterns = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A new branch or tag.

    >>> create(ref_types="branch", patterns="release/*")
    """
    given = begin("create", description)
    locked = triggers.CreateTrigger(
        ref_types=words(given, "ref_types", ref_types, get_args(RefType)),
        patterns=filters.patterns(given, "patterns", patterns),
        repos=filters.patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def delete(
    *,
    ref_types: RefType | Sequence[RefType] = (),
    patterns: Patterns = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A branch or tag is gone.

    >>> delete(ref_types="branch", patterns="preview/*")
    """
    given = begin("delete", description)
    locked = triggers.DeleteTrigger(
        ref_types=words(given, "ref_types", ref_types, get_args(RefType)),
        patterns=filters.patterns(given, "patterns", patterns),
        repos=filters.patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def status(
    *,
    contexts: Patterns = (),
    states: CommitState | Sequence[CommitState] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A status that somebody set on a commit; `contexts` are globs.

    >>> status(contexts="deploy/*", states="success")
    """
    given = begin("status", description)
    locked = triggers.StatusTrigger(
        contexts=patterns(given, "contexts", contexts),
        states=words(given, "states", states, get_args(CommitState)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def workflow_run(
    *,
    actions: WorkflowRunAction | Sequence[WorkflowRunAction] = (),
    workflows: str | Sequence[str] = (),
    conclusions: str | Sequence[str] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A workflow run of the provider.

    >>> workflow_run(actions="completed", workflows="build", conclusions="success")
    """
    given = begin("workflow_run", description)
    locked = triggers.WorkflowRunTrigger(
        actions=words(given, "actions", actions, get_args(WorkflowRunAction)),
        workflows=words(given, "workflows", workflows),
        conclusions=words(given, "conclusions", conclusions),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def fork(*, repos: Patterns = (), description: str = "") -> Trigger:
    """Somebody forked the repository.

    >>> fork()
    """
    given = begin("fork", description)
    locked = triggers.ForkTrigger(
        repos=patterns(given, "repos", repos), description=given.text("description")
    )
    return Trigger(locked=(locked,), source=given.source)


def star(
    *, actions: StarAction | Sequence[StarAction] = (), repos: Patterns = (), description: str = ""
) -> Trigger:
    """Somebody starred the repository, or took the star back.

    >>> star(actions="created")
    """
    given = begin("star", description)
    locked = triggers.StarTrigger(
        actions=words(given, "actions", actions, get_args(StarAction)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def watch(
    *, actions: WatchAction | Sequence[WatchAction] = (), repos: Patterns = (), description: str = ""
) -> Trigger:
    """Somebody watches the repository.

    >>> watch()
    """
    given = begin("watch", description)
    locked = triggers.WatchTrigger(
        actions=words(given, "actions", actions, get_args(WatchAction)),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    return Trigger(locked=(locked,), source=given.source)


def webhook(
    *,
    events: str | Sequence[str],
    actions: str | Sequence[str] = (),
    repos: Patterns = (),
    description: str = "",
) -> Trigger:
    """A provider's event by its raw name, of the repository's own source.

    >>> webhook(events="deployment", actions="created")
    """
    given = begin("webhook", description)
    locked = triggers.WebhookTrigger(
        events=words(given, "events", events),
        actions=words(given, "actions", actions),
        repos=patterns(given, "repos", repos),
        description=given.text("description"),
    )
    if not locked.events:
        given.report("E405", "`events` is empty", "name the provider's events")
    return Trigger(locked=(locked,), source=given.source)
