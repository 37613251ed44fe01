"""The frozen values that workflow files are made of, as compiler and runner read them.

Authors get them from the constructors (`workflow`, `job`, `step`, …). Durations are integer
milliseconds here. Definitions compare by identity.
"""

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

from msgspec import Struct, structs

from kici.sdk.context import HookContext
from kici.sdk.source import SourceLocation
from kici.sdk.values import Duration, Maybe, Patterns, Scalar
from kici.spec import lock
from kici.spec.states import JobStatus

R_co = TypeVar("R_co", covariant=True)

HookFunction = Callable[[HookContext], Maybe[object]]
RetryIf = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]

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


class Runner(Struct, frozen=True, kw_only=True):
    """Which agents may take a job: all `labels`, none of `exclude` (AU-18).

    >>> Runner(labels=["kici:os:linux", "gpu-*"], exclude="!slow", pick="any")
    """

    labels: Patterns
    exclude: Patterns = ()
    pick: Literal["deterministic", "any"] = "deterministic"


class Retry(Struct, frozen=True, kw_only=True):
    """How often and when a failed step runs again (AU-30). `attempts` counts the first one.

    >>> Retry(attempts=3, delay="2s", retry_if=ConnectionError)
    """

    attempts: int
    delay: Duration = 1
    max_delay: Duration = 30
    backoff: Literal["exponential", "fixed"] = "exponential"
    retry_if: RetryIf | None = None


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """A `Retry` after validation."""

    attempts: int
    delay_ms: int = 1_000
    max_delay_ms: int = 30_000
    backoff: Literal["exponential", "fixed"] = "exponential"
    retry_if: RetryIf | None = None

    def wait_ms(self, attempt: int) -> int:
        """The pause after failed attempt `attempt`, counted from 1."""
        if self.backoff == "fixed":
            return min(self.delay_ms, self.max_delay_ms)
        return min(self.delay_ms << min(attempt - 1, 40), self.max_delay_ms)

    def wants(self, error: Exception) -> bool:
        """Whether this failure may be tried again."""
        match self.retry_if:
            case None:
                return True
            case type() | tuple() as kinds:
                return isinstance(error, kinds)
            case decide:
                return bool(decide(error))


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


class CacheKey(Struct, frozen=True, kw_only=True):
    """A cache key that is completed on the agent: prefix, parts and the digest of `files`."""

    prefix: str
    parts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Cache(Struct, frozen=True, kw_only=True):
    """Files kept between runs (AU-58). `paths` are relative to the repository, or begin with `~`.

    >>> Cache(key=cache_key("pip", files=["uv.lock"]), paths=["~/.cache/uv"], restore_keys=["pip-"])
    """

    key: str | CacheKey
    paths: Sequence[str]
    restore_keys: Sequence[str] = ()


class Container(Struct, frozen=True, kw_only=True):
    image: str
    env: Mapping[str, str] = {}


class Amount(Struct, frozen=True, kw_only=True):
    """`memory` as 512m, 4g, 2048k; `cpus` more than 0, at most 256."""

    memory: str | int | None = None
    cpus: float | None = None


class Resources(Struct, frozen=True, kw_only=True):
    requests: Amount | None = None
    limits: Amount | None = None


class Init(Struct, frozen=True, kw_only=True):
    """A script that prepares the job after the clone and before its steps (AU-57)."""

    run: str
    shell: str = "bash"
    cache: Cache | None = None
    timeout: Duration = "10m"
    env: Mapping[str, str] = {}


class Preset(Struct, frozen=True, kw_only=True):
    """A toolchain prepared by name. Made by `mise` and `uv`."""

    name: Literal["auto", "mise", "uv"]
    cache: Cache | bool = True
    timeout: Duration = "10m"
    env: Mapping[str, str] = {}
    shell: str = "bash"
    python: str | None = None
    groups: tuple[str, ...] = ()


class Concurrency(Struct, frozen=True, kw_only=True):
    """At most `max` runs of one group at a time (AU-59)."""

    group: str | Callable[..., Any]
    cancel_in_progress: bool = True
    max: int = 1


class Approver(Struct, frozen=True, kw_only=True):
    """Made by `team` and `user`."""

    team: str = ""
    user: str = ""


class Approval(Struct, frozen=True, kw_only=True):
    """People who must agree before it runs (AU-60). Clauses are joined by AND."""

    approvers: Sequence[Approver] = ()
    reason: str = ""
    timeout: Duration | None = None
    when: Literal["always", "drift"] = "always"


class Registry(Struct, frozen=True, kw_only=True):
    """A private Python index for the dependencies of `.kici` (AU-61)."""

    url: str
    token_secret: str
    name: str | None = None
    username: str = "__token__"


class Hosts(Struct, frozen=True, kw_only=True):
    """`runs_on_all`: an OR of AND groups of labels (AU-20)."""

    include: Sequence[Patterns]
    exclude: Patterns = ()


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

    async def __call__(self, ctx: Any, /, **params: Any) -> R_co:
        arguments = {**self.params, **params}
        if self.is_async:
            return cast("R_co", await self.fn(ctx, **arguments))
        import asyncio  # only callers that already run a loop pay for it

        result = await asyncio.to_thread(self.fn, ctx, **arguments)
        return cast(
            "R_co", await cast("Awaitable[Any]", result) if hasattr(result, "__await__") else result
        )

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

    group: str  # "" when the author gave none
    fn: Callable[..., Any]  # (GenerateContext) -> sequence of jobs
    source: SourceLocation
    needs: tuple[Need, ...] = ()


class Trigger(Struct, frozen=True, kw_only=True, eq=False):
    """One `push(...)`, `pr(...)`, …: what the lock file will say about it, and where it was written.

    >>> triggers: list[Trigger] = [push(branches="main"), tag(patterns="v*")]
    """

    locked: tuple[lock.Trigger, ...]
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
    """A named event to try workflows with (AU-121). Made by `fixture`."""

    id: str
    event: "Trigger | Callable[..., Any]"
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
