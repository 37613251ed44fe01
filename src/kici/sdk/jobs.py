"""Constructors of jobs and of the edges between them."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Union,
    Unpack,
    cast,
    overload,
)

from msgspec import structs

from kici.sdk import readers
from kici.sdk.context import Context
from kici.sdk.definitions import (
    Job,
    JobSettings,
    MultiJob,
    ParallelGroup,
    Rule,
    Step,
)
from kici.sdk.edges import NeedLike, read_needs
from kici.sdk.options import Options, Pending, check_name, name_of_function
from kici.sdk.problems import report
from kici.sdk.readers import ApprovalLike, CacheLike, ContainerLike, InitLike, ResourcesLike
from kici.sdk.selection import RunsOn, RunsOnAll, runner_and_hosts
from kici.sdk.source import SourceLocation, caller
from kici.sdk.steps import HookLike, StepLike, as_step, make_step
from kici.sdk.values import Duration, Maybe, Scalar
from kici.sdk.variants import Matrix, read_matrix, read_selections

if TYPE_CHECKING:
    from kici.sdk.events import Event
    from kici.sdk.sync_context import SyncContext

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

# A value, or a function of the event.
Dynamic: TypeAlias = Union[T, Callable[["Event"], Maybe[T]]]  # noqa: UP007 - as in values.Maybe
_UNREACHABLE = ("hold", "skip", "fail")


class JobOptions(TypedDict, total=False):
    runs_on: RunsOn
    runs_on_all: RunsOnAll
    on_unreachable: Literal["hold", "skip", "fail"]
    include_uninitialized: bool
    needs: Sequence[NeedLike]
    rules: Sequence[Rule]
    description: str
    matrix: Matrix
    include: Sequence[Mapping[str, Scalar]]
    exclude: Sequence[Mapping[str, Scalar]]
    max_parallel: int
    fail_fast: bool
    checkout: bool
    container: ContainerLike
    environment: Dynamic[str] | Sequence[Dynamic[str]]
    env: Dynamic[Mapping[str, str]]
    concurrency_group: Dynamic[str]
    resources: ResourcesLike
    init: InitLike
    cache: CacheLike
    approval: ApprovalLike
    timeout: Duration
    grace_period: Duration
    on_cancel: HookLike
    cleanup: HookLike
    on_success: HookLike
    on_failure: HookLike
    before_step: HookLike
    after_step: HookLike


class JobDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Job[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> Job[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate["SyncContext", P], R], /) -> Job[R]: ...


class PendingJob(Pending):
    """What `job(...)` without `steps` returns: it waits for the function it decorates."""

    def __init__(self, name: str | None, options: Mapping[str, Any], source: SourceLocation) -> None:
        self.name = name
        self.options = options
        self.source = source

    def __call__(self, fn: object, /) -> Job[Any]:
        only = cast("Step[Any]", fn) if isinstance(fn, Step) else make_step(fn, None, {}, self.source)
        name = check_name(self.name, "job", self.source) if self.name is not None else only.name
        steps = (only if only.name else structs.replace(only, name="step-1"),)
        return Job(
            name=name,
            steps=steps,
            options=_settings(name, self.options, self.source),
            source=self.source,
        )


@overload
def job(name: str, /, *, steps: Sequence[StepLike], **options: Unpack[JobOptions]) -> MultiJob: ...
@overload
def job(name: str | None = None, /, **options: Unpack[JobOptions]) -> JobDecorator: ...
def job(name: Any = None, /, *, steps: Any = None, **options: Any) -> Any:
    """A unit of work that one agent takes: many steps by call, or one function by decorator.

    >>> package = job("package", runs_on="kici:os:linux", steps=[build])
    >>> @job(runs_on="kici:os:linux", needs=[package])
    ... async def deploy(ctx: Context) -> None:
    ...     await ctx.sh('./deploy.sh "$v"', v=ctx.job_outputs(package).of(build))
    """
    source = caller()
    if callable(name):
        report("E201", "@job is used without options", 'write @job(runs_on="kici:os:linux")', source=source)
        return PendingJob(None, {"runs_on": "kici:os:linux"}, source)(name)
    if steps is None:
        return PendingJob(name, options, source)
    final = check_name(name, "job", source)
    given = Options(f"job {final!r}", {}, (), source)
    entries = given.sequence("steps", steps)
    if isinstance(steps, Sequence) and not steps:
        given.report("E115", "no steps", "list at least one step, or decorate a function with @job(...)")
    named = _named(entries, given)
    return MultiJob(
        name=final,
        steps=named,
        options=_settings(final, options, source),
        source=source,
    )


def _named(entries: Sequence[object], given: Options) -> tuple[Step[Any] | ParallelGroup, ...]:
    """Fill in `step-N` and `parallel-N`; step names are unique, they key outputs (AU-10, AU-11)."""
    unnamed = groups = 0
    seen: set[str] = set()

    def name_step(entry: object) -> Step[Any]:
        nonlocal unnamed
        found = as_step(entry, given)
        if not found.name:
            unnamed += 1
            found = structs.replace(found, name=f"step-{unnamed}")
        if found.name in seen:
            bound = (
                f"{name_of_function(found.fn).replace('-', '_') or 'step'}.bind(…)" if found.params else ""
            )
            given.report(
                "E108",
                f"two steps are named {found.name!r}",
                f"name them apart: {bound}.named('{found.name}-2')"
                if bound
                else "give one another name: @step('other-name'), or the step.named('other-name')",
            )
        seen.add(found.name)
        return found

    named: list[Step[Any] | ParallelGroup] = []
    for entry in entries:
        if isinstance(entry, ParallelGroup):
            groups += not entry.name
            children = tuple(name_step(child) for child in entry.steps)
            named.append(structs.replace(entry, name=entry.name or f"parallel-{groups}", steps=children))
        elif isinstance(entry, Job | MultiJob | PendingJob):
            given.report("E119", "a job stands among the steps", "list jobs in workflow(jobs=[...])")
        else:
            named.append(name_step(entry))
    return tuple(named)


def _settings(
    name: str,
    options: Mapping[str, Any],
    source: SourceLocation,
) -> JobSettings:
    given = Options(f"job {name!r}", options, JobOptions.__annotations__, source)
    runner, hosts = runner_and_hosts(given)
    matrix, matrix_function = read_matrix(given)
    dynamic = matrix_function is not None
    init, init_off = readers.init(given)
    env = given.given.get("env", {})
    return JobSettings(
        runs_on=runner,
        runs_on_all=hosts,
        on_unreachable=given.choice("on_unreachable", _UNREACHABLE, "hold"),
        include_uninitialized=given.flag("include_uninitialized", default=False),
        needs=read_needs(given, name),
        rules=readers.rules(given),
        matrix=matrix,
        matrix_function=matrix_function,
        include=read_selections(given, "include", matrix, dynamic=dynamic),
        exclude=read_selections(given, "exclude", matrix, dynamic=dynamic),
        max_parallel=given.at_least_one("max_parallel"),
        fail_fast=given.flag("fail_fast", default=False),
        checkout=given.flag("checkout", default=True),
        container=readers.container(given),
        resources=readers.resources(given),
        init=init,
        init_off=init_off,
        cache=readers.caches(given),
        approval=readers.approval(given),
        environments=_environments(given),
        env={} if callable(env) else readers.variables(given, "env", env),
        env_function=cast("Callable[..., Any]", env) if callable(env) else None,
        concurrency_group=_concurrency_group(given),
        timeout_ms=given.duration("timeout"),
        grace_period_ms=given.duration("grace_period"),
        description=given.text("description"),
        on_cancel=given.hook("on_cancel"),
        cleanup=given.hook("cleanup"),
        on_success=given.hook("on_success"),
        on_failure=given.hook("on_failure"),
        before_step=given.hook("before_step"),
        after_step=given.hook("after_step"),
    )


def _environments(given: Options) -> tuple[str | Callable[..., Any], ...]:
    value = given.given.get("environment")
    if value is None:
        return ()
    entries = (
        (value,) if isinstance(value, str) or callable(value) else given.sequence("environment", value)
    )
    kept: list[str | Callable[..., Any]] = []
    for entry in entries:
        if isinstance(entry, str) and entry.strip():
            if entry in kept:
                given.report("E119", f"`environment` lists {entry!r} twice", "list each one once")
            else:
                kept.append(entry)
        elif callable(entry):
            kept.append(cast("Callable[..., Any]", entry))
        else:
            given.wrong_type("environment", "a name, a function of the event, or a list of them", entry)
    return tuple(kept)


def _concurrency_group(given: Options) -> str | Callable[..., Any] | None:
    value = given.given.get("concurrency_group")
    if value is None or (isinstance(value, str) and value) or callable(value):
        return cast("str | Callable[..., Any] | None", value)
    given.wrong_type("concurrency_group", "a name or a function of the event", value)
    return None
