"""The frozen values that workflow files are made of, as compiler and runner read them.

Authors get them from the constructors (`workflow`, `job`, `step`, …). Durations are integer
milliseconds here. Definitions compare by identity.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from msgspec import Struct, structs

from kici.sdk.context import HookContext, RuleContext
from kici.sdk.settings import (
    Amount,
    Approval,
    Approver,
    Cache,
    CacheKey,
    Concurrency,
    Container,
    Hosts,
    Init,
    Preset,
    Registry,
    Resources,
    Retry,
    RetryIf,
    RetryPolicy,
    Runner,
)
from kici.sdk.source import SourceLocation
from kici.sdk.values import Maybe, Scalar
from kici.spec import triggers
from kici.spec.states import JobStatus

if TYPE_CHECKING:
    from kici.sdk.events import Event

__all__ = [
    "Amount",
    "Approval",
    "Approver",
    "Cache",
    "CacheKey",
    "CheckFacet",
    "Concurrency",
    "Container",
    "DynamicJobs",
    "Fixture",
    "FlatStep",
    "Hook",
    "HookFunction",
    "Hosts",
    "Init",
    "Job",
    "JobDefinition",
    "JobSettings",
    "MultiJob",
    "Need",
    "ParallelGroup",
    "Preset",
    "Registry",
    "Resources",
    "Retry",
    "RetryIf",
    "RetryPolicy",
    "Rule",
    "RuleFunction",
    "Runner",
    "Step",
    "StepSettings",
    "Trigger",
    "WaitFacet",
    "Workflow",
    "find_job",
    "find_workflow",
    "flat_steps",
    "is_coroutine_function",
    "return_annotation",
]

R_co = TypeVar("R_co", covariant=True)

HookFunction = Callable[[HookContext], Maybe[object]]
RuleFunction = Callable[[RuleContext], Maybe[object]]

_CO_COROUTINE = 0x80  # inspect.CO_COROUTINE, without importing inspect


def is_coroutine_function(fn: object) -> bool:
    """Whether a call runs on the event loop; anything else runs in a thread (AU-13)."""
    fn = getattr(fn, "func", fn)  # functools.partial
    code = getattr(fn, "__code__", None) or getattr(getattr(type(fn), "__call__", None), "__code__", None)  # noqa: B004
    return code is not None and bool(code.co_flags & _CO_COROUTINE)


def return_annotation(fn: object) -> Any:
    """The declared result type; None when absent or `-> None`. May raise NameError for a quoted type."""
    fn = getattr(fn, "func", fn)  # functools.partial
    annotation = getattr(fn, "__annotations__", {}).get("return")
    if isinstance(annotation, str):
        from typing import get_type_hints

        annotation = get_type_hints(fn, include_extras=True).get("return")
    return None if annotation is type(None) else annotation


class Hook(Struct, frozen=True, kw_only=True, eq=False):
    """A function that observes how a step or job went (AU-33). Made by `hook`, or from a function as it is.

    >>> unlock: Hook = hook(note, timeout="30s")
    """

    name: str
    fn: Callable[..., Any]
    timeout_ms: int
    source: SourceLocation

    @property
    def is_async(self) -> bool:
        return is_coroutine_function(self.fn)


class Rule(Struct, frozen=True, kw_only=True, eq=False):
    """Whether a workflow, job or step runs (AU-34). `negate`: True skips. Made by `rule` and `skip`.

    >>> guard: Rule = rule("main only", lambda ctx: ctx.event.target_branch == "main")
    """

    label: str
    check: Callable[..., Any]  # (RuleContext) -> bool, sync or async
    source: SourceLocation
    negate: bool = False


class CheckFacet(Struct, frozen=True, kw_only=True, eq=False):
    """What makes a step idempotent (AU-48): `fn` of the step is then called as `fn(ctx, drift, **params)`."""

    check: Callable[..., Any]  # (ctx) -> drift or None
    summarize: Callable[[Any], str]
    when_in_sync: Callable[..., Any] | None = None


class WaitFacet(Struct, frozen=True, kw_only=True, eq=False):
    """A step made by `wait_for_step`: `fn` is the check, polled by the runner (AU-50)."""

    interval_ms: int = 2_000
    timeout_ms: int = 60_000
    initial_delay_ms: int = 0
    swallow_errors: bool = True
    on_timeout: Callable[..., Any] | None = None


class StepSettings(Struct, frozen=True, kw_only=True, eq=False):
    timeout_ms: int | None = None  # None: the agent's default
    retry: RetryPolicy | None = None
    continue_on_error: bool = False
    on_cancel: Hook | None = None
    cleanup: Hook | None = None
    rules: tuple[Rule, ...] = ()
    cache: tuple[Cache, ...] = ()
    approval: Approval | None = None
    check: CheckFacet | None = None
    wait: WaitFacet | None = None
    restarts_host: bool = False


class Step(Struct, Generic[R_co], frozen=True, kw_only=True, eq=False):
    """One function of a job. Await it from another step or a test like a function.

    `params` are the keyword arguments fixed by `bind`; matrix values come on top (AU-15).

    >>> both: list[Step[None]] = [scan.bind(target="api"), scan.bind(target="web")]
    """

    name: str
    fn: Callable[..., Any]
    source: SourceLocation
    params: Mapping[str, Any] = {}
    settings: StepSettings = StepSettings()

    def bind(self, **params: Any) -> "Step[R_co]":
        """The same step with fixed keyword arguments."""
        return structs.replace(self, params={**self.params, **params})

    def named(self, name: str, /) -> "Step[R_co]":
        """The same step under another name: `scan.bind(target="api").named("scan-api")`."""
        from kici.sdk.options import check_name

        return structs.replace(self, name=check_name(name, "step", self.source))

    async def __call__(self, ctx: Any, /, **params: Any) -> R_co:
        from kici.sdk.calling import call_step  # only who calls a step pays for it

        return cast("R_co", await call_step(self, ctx, {**self.params, **params}))

    @property
    def is_async(self) -> bool:
        return is_coroutine_function(self.fn)

    @property
    def returns(self) -> Any:
        """The declared result type, or None: then nothing is checked. See `return_annotation`."""
        return return_annotation(self.fn)


class ParallelGroup(Struct, frozen=True, kw_only=True, eq=False):
    """Steps that run side by side (AU-32). Made by `parallel`.

    >>> checks: ParallelGroup = parallel(lint, test)
    """

    name: str
    steps: tuple[Step[Any], ...]
    source: SourceLocation
    fail_fast: bool = True
    max_parallel: int | None = None


class FlatStep(Struct, frozen=True, kw_only=True, eq=False):
    """A step with its index, which counts children of groups in order and groups themselves not."""

    index: int
    step: Step[Any]
    group: ParallelGroup | None


class Need(Struct, frozen=True, kw_only=True, eq=False):
    """An edge to an upstream job: satisfied by any status in `run_on` (AU-24). Made by `need`.

    >>> edge: Need = need(package, when="on-skip")
    """

    name: str
    run_on: frozenset[JobStatus]
    source: SourceLocation
    job: "Job[Any] | MultiJob | DynamicJobs | None" = None  # None when the author wrote a name
    group: str = ""  # a generator's group instead of a job; `name` is then empty


class JobSettings(Struct, frozen=True, kw_only=True, eq=False):
    """Everything about a job but its name and steps. A bare-list matrix has the one key `value`.

    Functions (`matrix`, `env`, `environments`, `concurrency_group`) stand here as written.
    """

    runs_on: Runner
    needs: tuple[Need, ...] = ()
    matrix: Mapping[str, tuple[Scalar, ...]] | None = None
    matrix_function: Callable[..., Any] | None = None  # (GenerateContext) -> list or mapping
    rules: tuple[Rule, ...] = ()
    runs_on_all: Hosts | None = None
    on_unreachable: Literal["hold", "skip", "fail"] = "hold"
    include_uninitialized: bool = False
    container: Container | None = None
    resources: Resources | None = None
    init: tuple[Init | Preset, ...] = ()
    init_off: bool = False
    cache: tuple[Cache, ...] = ()
    approval: Approval | None = None
    environments: tuple[str | Callable[..., Any], ...] = ()
    env_function: Callable[..., Any] | None = None  # (Event) -> mapping; `env` is then empty
    concurrency_group: str | Callable[..., Any] | None = None
    include: tuple[Mapping[str, Scalar], ...] = ()
    exclude: tuple[Mapping[str, Scalar], ...] = ()
    max_parallel: int | None = None
    fail_fast: bool = False
    checkout: bool = True
    env: Mapping[str, str] = {}
    timeout_ms: int | None = None
    grace_period_ms: int | None = None
    description: str = ""
    on_cancel: Hook | None = None
    cleanup: Hook | None = None
    on_success: Hook | None = None
    on_failure: Hook | None = None
    before_step: Hook | None = None
    after_step: Hook | None = None


class Job(Struct, Generic[R_co], frozen=True, kw_only=True, eq=False):
    """A job of one step, made by `@job(...)`; its output is the step's.

    >>> one: Job[None] = deploy
    """

    name: str
    steps: tuple[Step[R_co]]
    options: JobSettings
    source: SourceLocation


class MultiJob(Struct, frozen=True, kw_only=True, eq=False):
    """A job made by `job("name", steps=[...])`; each step may have an output.

    >>> many: MultiJob = job("checks", runs_on="kici:os:linux", steps=[lint, test])
    """

    name: str
    steps: tuple[Step[Any] | ParallelGroup, ...]
    options: JobSettings
    source: SourceLocation

    if not TYPE_CHECKING:

        def __call__(self, fn: object) -> "MultiJob":
            from kici.sdk.problems import report

            report(
                "E116",
                f"job {self.name!r} has both steps and a function",
                "drop `steps=`, or make the function a @step and list it there",
            )
            return self


JobDefinition = Job[Any] | MultiJob


class DynamicJobs(Struct, frozen=True, kw_only=True, eq=False):
    """A generator of jobs (AU-43). Made by `dynamic_jobs`; other jobs may need it as a group.

    >>> group: DynamicJobs = reports
    """

    group: str  # the function's name when the author gave none; "" for a lambda
    fn: Callable[..., Any]  # (GenerateContext) -> sequence of jobs
    source: SourceLocation
    needs: tuple[Need, ...] = ()


class Trigger(Struct, frozen=True, kw_only=True, eq=False):
    """One `push(...)`, `pr(...)`, …: what the lock file will say about it, and where it was written.

    >>> triggers: list[Trigger] = [push(branches="main"), tag(patterns="v*")]
    """

    locked: tuple[triggers.Trigger, ...]
    source: SourceLocation


class Workflow(Struct, frozen=True, kw_only=True, eq=False):
    """Jobs and the events that start them. Made by `workflow`.

    >>> nightly: Workflow = workflow("nightly", jobs=[package])
    """

    name: str
    jobs: tuple[JobDefinition, ...]
    source: SourceLocation
    on: tuple[Trigger, ...] = ()
    description: str = ""
    hash_files: tuple[str, ...] = ()
    timeout_ms: int | None = None
    generators: tuple[DynamicJobs, ...] = ()  # in the order written, apart from `jobs`
    rules: tuple[Rule, ...] = ()
    registries: tuple[Registry, ...] = ()
    install_env: tuple[str, ...] = ()
    concurrency: Concurrency | None = None
    approval: Approval | None = None
    on_cancel: Hook | None = None
    cleanup: Hook | None = None
    on_success: Hook | None = None
    on_failure: Hook | None = None


class Fixture(Struct, frozen=True, kw_only=True, eq=False):
    """A named event to try workflows with (AU-121). Made by `fixture`.

    >>> sample: Fixture = fixture("push-main", event=push(branches="main"))
    """

    id: str
    event: "Trigger | Event | Callable[..., Any]"  # a function: see `kici.sdk.fixtures.resolve`
    source: SourceLocation
    branch: str | None = None
    sha: str | None = None
    repo: str | None = None
    pr: int | None = None
    secrets: Mapping[str, str] = {}
    workflow: str | None = None
    inputs: Mapping[str, Any] = {}
    payload: Mapping[str, Any] | None = None


def flat_steps(steps: Sequence[Step[Any] | ParallelGroup]) -> Iterator[FlatStep]:
    """The steps of a job as they are numbered everywhere: in the lock file, in messages, in logs."""
    index = 0
    for entry in steps:
        group = entry if isinstance(entry, ParallelGroup) else None
        for step in entry.steps if isinstance(entry, ParallelGroup) else (entry,):
            yield FlatStep(index=index, step=step, group=group)
            index += 1


def find_job(workflow: Workflow, base_job_name: str) -> JobDefinition | None:
    """The job whose name the lock file holds; matrix children share their base's definition."""
    return next((job for job in workflow.jobs if job.name == base_job_name), None)


def find_workflow(namespace: Mapping[str, object], export: str, name: str) -> Workflow | None:
    """The workflow that `export` of a loaded module holds, itself or in a list."""
    match namespace.get(export.lstrip("#")):
        case Workflow() as found:
            return found
        case list() | tuple() as several:
            items = cast("Sequence[object]", several)
            return next((item for item in items if isinstance(item, Workflow) and item.name == name), None)
        case _:
            return None
