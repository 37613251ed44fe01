"""Bodies of events: dotted access with types, and nothing of what was received is lost.

`payload.pull_request.draft`, `payload["pull_request"]["draft"]` and `payload.get("pull_request")` read the
same. An attribute that is absent is None, a key that is absent raises KeyError. `.raw` is what was received.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast


class Payload(Mapping[str, Any]):
    """A body, or an object in it. Attributes and keys are the same; `.raw` is the plain mapping.

    >>> if ctx.event.payload.get("forced"):
    ...     ctx.log.warning("history of %s was rewritten", ctx.event.payload["ref"])
    """

    __slots__ = ("raw",)
    _kinds: ClassVar[Mapping[str, type["Payload"]]] = {}  # of nested objects, and of the objects in lists

    raw: Mapping[str, Any]

    def __init__(self, raw: Mapping[str, Any], /) -> None:
        object.__setattr__(self, "raw", raw.raw if isinstance(raw, Payload) else raw)

    def __init_subclass__(cls) -> None:
        cls._kinds = {
            name: kind
            for name, annotation in cls.__annotations__.items()
            for kind in _payloads_in(annotation)
        }

    def __getitem__(self, key: str, /) -> Any:
        return _wrapped(self.raw[key], self._kinds.get(key, Payload))

    def __iter__(self) -> Iterator[str]:
        return iter(self.raw)

    def __len__(self) -> int:
        return len(self.raw)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.raw!r})"

    if not TYPE_CHECKING:
        # Hidden from type checkers: for them the declared attributes are all there are.

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            return self[name] if name in self.raw else None

        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(f"{type(self).__name__} is frozen")

        def __reduce__(self) -> Any:
            return type(self), (self.raw,)


def _payloads_in(annotation: Any) -> list[type[Payload]]:
    """The payload class that an annotation such as `list[Label] | None` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, Payload):
        return [annotation]
    return [kind for part in getattr(annotation, "__args__", ()) for kind in _payloads_in(part)]


def _wrapped(value: Any, kind: type[Payload]) -> Any:
    if isinstance(value, Mapping):
        return kind(cast("Mapping[str, Any]", value))
    if isinstance(value, list | tuple):
        return [_wrapped(entry, kind) for entry in cast("list[Any]", value)]
    return value


class User(Payload):
    login: str
    id: int | None


class Named(Payload):
    name: str


class Repository(Payload):
    full_name: str
    default_branch: str
    name: str | None
    owner: User | None
    private: bool | None


class RefRepository(Payload):
    full_name: str


class Ref(Payload):
    ref: str
    sha: str | None
    repo: RefRepository | None


class PullRequest(Payload):
    number: int
    head: Ref
    base: Ref
    draft: bool | None
    title: str | None
    body: str | None
    state: str | None
    merged: bool | None
    user: User | None
    labels: list[Named] | None


class Author(Payload):
    name: str | None
    email: str | None
    username: str | None


class Commit(Payload):
    id: str
    message: str
    author: Author | None
    timestamp: str | None
    added: list[str] | None
    removed: list[str] | None
    modified: list[str] | None


class Comment(Payload):
    id: int
    body: str
    user: User


class Issue(Payload):
    number: int
    title: str | None
    pull_request: Payload | None


class Review(Payload):
    id: int
    state: str
    user: User
    body: str | None


class Release(Payload):
    id: int
    tag_name: str
    name: str | None
    body: str | None
    draft: bool | None
    prerelease: bool | None
    target_commitish: str | None


class WorkflowRun(Payload):
    head_branch: str
    name: str
    conclusion: str | None
    status: str | None


class Result(Payload):
    name: str
    status: str


class Forkee(Payload):
    full_name: str


class PullRequestPayload(Payload):
    action: str
    number: int
    pull_request: PullRequest
    repository: Repository
    sender: User


class PushPayload(Payload):
    ref: str
    before: str
    after: str
    head_commit: Commit | None
    commits: list[Commit] | None
    repository: Repository
    sender: User | None
    forced: bool | None


class TagPayload(Payload):
    ref: str
    after: str
    repository: Repository
    sender: User | None


class CommentPayload(Payload):
    action: str
    comment: Comment
    issue: Issue | None
    repository: Repository
    sender: User


class ReviewPayload(Payload):
    action: str
    review: Review
    pull_request: PullRequest
    repository: Repository
    sender: User


class ReviewCommentPayload(Payload):
    action: str
    comment: Comment
    pull_request: PullRequest
    repository: Repository
    sender: User


class ReleasePayload(Payload):
    action: str
    release: Release
    repository: Repository
    sender: User


class DispatchPayload(Payload):
    action: str
    client_payload: Payload | None
    repository: Repository
    sender: User | None


class RefPayload(Payload):
    ref: str
    ref_type: str
    repository: Repository
    sender: User


class StatusPayload(Payload):
    state: str
    sha: str
    context: str
    description: str | None
    target_url: str | None
    branches: list[Named] | None
    repository: Repository
    sender: User


class WorkflowRunPayload(Payload):
    action: str
    workflow_run: WorkflowRun
    repository: Repository
    sender: User


class ForkPayload(Payload):
    forkee: Forkee
    repository: Repository
    sender: User


class ActionPayload(Payload):
    action: str
    repository: Repository
    sender: User


class KiciEventPayload(Payload):
    eventName: str  # noqa: N815 - as received
    payload: Payload
    sourceRepo: str  # noqa: N815
    sourceRoutingKey: str  # noqa: N815


class WorkflowCompletePayload(Payload):
    workflowName: str  # noqa: N815
    runId: str  # noqa: N815
    status: str
    conclusion: str
    duration: float
    jobResults: list[Result]  # noqa: N815
    sourceRepo: str  # noqa: N815
    sourceRoutingKey: str  # noqa: N815


class JobCompletePayload(Payload):
    workflowName: str  # noqa: N815
    jobName: str  # noqa: N815
    runId: str  # noqa: N815
    jobId: str  # noqa: N815
    status: str
    duration: float
    stepResults: list[Result]  # noqa: N815
    sourceRepo: str  # noqa: N815
    sourceRoutingKey: str  # noqa: N815


class SchedulePayload(Payload):
    cronExpression: str  # noqa: N815
    timezone: str
    scheduledAt: str  # noqa: N815
    workflowName: str  # noqa: N815
    registrationId: str  # noqa: N815
    repoIdentifier: str  # noqa: N815
    routingKey: str  # noqa: N815
    commitSha: str | None  # noqa: N815
    sourceFile: str | None  # noqa: N815


class LifecyclePayload(Payload):
    lifecycleEvent: str  # noqa: N815
