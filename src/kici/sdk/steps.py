"""Constructors of steps, parallel groups and hooks."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Concatenate,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import structs

from kici.sdk import readers
from kici.sdk.context import Context
from kici.sdk.definitions import (
    CheckFacet,
    Hook,
    HookFunction,
    ParallelGroup,
    Retry,
    RetryPolicy,
    Rule,
    Step,
    StepSettings,
)
from kici.sdk.options import DEFAULT_HOOK_TIMEOUT_MS, Options, check_name, make_hook, name_of_function
from kici.sdk.problems import report
from kici.sdk.readers import ApprovalLike, CacheLike
from kici.sdk.source import SourceLocation, caller, of_function
from kici.sdk.values import Duration, Maybe

if TYPE_CHECKING:
    from kici.sdk.sync_context import SyncContext

P = ParamSpec("P")
R = TypeVar("R")
D = TypeVar("D")
D_co = TypeVar("D_co", covariant=True)

StepFunction: TypeAlias = Callable[[Context], Maybe[Any]] | Callable[["SyncContext"], Any]
StepLike: TypeAlias = Step[Any] | StepFunction | ParallelGroup
HookLike: TypeAlias = HookFunction | Hook

_CO_GENERATOR = 0x20 | 0x200  # plain and async, as in the inspect module
_CO_VARARGS = 0x04
_MAX_ATTEMPTS = 100
_CHECK_OPTIONS = ("check", "summarize", "when_in_sync")


class StepOptions(TypedDict, total=False):
    timeout: Duration
    retry: int | Retry | Mapping[str, Any]
    continue_on_error: bool
    rules: Sequence[Rule]
    cache: CacheLike
    approval: ApprovalLike
    on_cancel: HookLike
    cleanup: HookLike


_KNOWN = (*StepOptions.__annotations__, *_CHECK_OPTIONS)


class StepDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate["SyncContext", P], R], /) -> Step[R]: ...


class CheckDecorator(Protocol[D_co]):
    """Wraps `(ctx, drift)`."""

    @overload
    def __call__(self, fn: Callable[Concatenate[Context, D_co, P], Awaitable[R]], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, D_co, P], R], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate["SyncContext", D_co, P], R], /) -> Step[R]: ...


@overload
def step(fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Step[R]: ...
@overload
def step(fn: Callable[Concatenate[Context, P], R], /) -> Step[R]: ...
@overload
def step(fn: Callable[Concatenate["SyncContext", P], R], /) -> Step[R]: ...
@overload
def step(
    name: str | None = None,
    /,
    *,
    check: Callable[[Context], Awaitable[D | None]],
    summarize: Callable[[D], str],
    when_in_sync: Callable[[Context], Maybe[Any]] | None = None,
    **options: Unpack[StepOptions],
) -> CheckDecorator[D]: ...
@overload
def step(name: str | None = None, /, **options: Unpack[StepOptions]) -> StepDecorator: ...
def step(name: Any = None, /, **options: Any) -> Any:
    """A function that a job runs, with or without options. `check` makes it idempotent: None is in sync,
    anything else is handed to the function as what to change.

    >>> @step(timeout="5m", retry=2)
    ... async def build(ctx: Context) -> str:
    ...     await ctx.sh("uv build")
    ...     return "1.4.0"
    """
    source = caller()
    if callable(name):
        return make_step(name, None, options, source)

    def decorate(fn: object) -> Step[Any]:
        return make_step(fn, name, options, source)

    return decorate


def make_step(
    fn: object, name: str | None, options: Mapping[str, Any], source: SourceLocation
) -> Step[Any]:
    """A step from a function; the name stays empty when neither author nor function gives one."""
    if isinstance(fn, Step):
        report("E119", "@step is applied twice", "keep one of the two decorators", source=source)
        return cast("Step[Any]", fn)
    if not callable(fn):
        report("E119", f"a step is a function, not {type(fn).__name__}", source=source)
    code = getattr(fn, "__code__", None)
    if code is not None and code.co_flags & _CO_GENERATOR:
        report(
            "E602",
            f"step function {code.co_name!r} is a generator",
            "return a value instead of yielding",
            source=source,
        )
    final = check_name(name, "step", source) if name is not None else name_of_function(fn)
    given = Options(f"step {final!r}" if final else "step", options, _KNOWN, source)
    facet = _check(given, fn)
    return Step(
        name=final,
        fn=cast("Callable[..., Any]", fn),
        source=source,
        settings=StepSettings(
            timeout_ms=given.duration("timeout"),
            retry=_retry(given),
            continue_on_error=given.flag("continue_on_error", default=False),
            on_cancel=given.hook("on_cancel"),
            cleanup=given.hook("cleanup"),
            rules=readers.rules(given),
            cache=readers.caches(given),
            approval=readers.approval(given, has_check=facet is not None),
            check=facet,
        ),
    )


def _check(given: Options, fn: object) -> CheckFacet | None:
    """E306: a check comes with a summary, and its function takes the drift."""
    check, summarize, in_sync = (given.given.get(name) for name in _CHECK_OPTIONS)
    if check is None:
        for name in ("summarize", "when_in_sync"):
            if given.given.get(name) is not None:
                given.report("E306", f"`{name}` without `check`", "add check=, which finds what differs")
        return None
    if not callable(check):
        given.wrong_type("check", "a function of ctx", check)
        return None
    if summarize is None:
        given.report("E306", "`check` without `summarize`", "add summarize=, which puts the drift in words")
    elif not callable(summarize):
        given.wrong_type("summarize", "a function of the drift", summarize)
    if in_sync is not None and not callable(in_sync):
        given.wrong_type("when_in_sync", "a function of ctx", in_sync)
        in_sync = None
    code = getattr(fn, "__code__", None)
    is_method = getattr(fn, "__self__", None) is not None
    if code is not None and code.co_argcount - is_method < 2 and not code.co_flags & _CO_VARARGS:
        given.report(
            "E306", "the function does not take the drift", "write `async def f(ctx: Context, drift: …)`"
        )
    return CheckFacet(
        check=cast("Callable[..., Any]", check),
        summarize=cast("Callable[[Any], str]", summarize) if callable(summarize) else str,
        when_in_sync=cast("Callable[..., Any] | None", in_sync),
    )


def _retry(given: Options) -> RetryPolicy | None:
    value = given.given.get("retry")
    if value is None:
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = Retry(attempts=value)
    wanted = given.struct("retry", Retry, value)
    if wanted is None:
        return None
    attempts, backoff = wanted.attempts, wanted.backoff
    if not isinstance(cast("object", attempts), int) or not 1 <= attempts <= _MAX_ATTEMPTS:
        given.report("E309", f"`retry` allows 1 to {_MAX_ATTEMPTS} attempts, not {attempts!r}")
        attempts = 1
    if backoff not in {"exponential", "fixed"}:
        given.report("E119", f"`retry`: unknown backoff {backoff!r}", "exponential or fixed")
        backoff = "exponential"
    delay_ms = given.as_duration("retry.delay", wanted.delay)
    max_delay_ms = given.as_duration("retry.max_delay", wanted.max_delay)
    if delay_ms is None or max_delay_ms is None:
        return None
    return RetryPolicy(
        attempts=attempts,
        delay_ms=delay_ms,
        max_delay_ms=max_delay_ms,
        backoff=backoff,
        retry_if=wanted.retry_if,
    )


def parallel(
    *steps: StepLike, fail_fast: bool = True, max_parallel: int | None = None, name: str | None = None
) -> ParallelGroup:
    """Steps of one job that run side by side; the job goes on when all have ended.

    >>> job("checks", runs_on="kici:os:linux", steps=[parallel(lint, test, name="checks")])
    """
    source = caller()
    given = Options(
        f"parallel group {name!r}" if name else "parallel group",
        {"fail_fast": fail_fast, "max_parallel": max_parallel},
        ("fail_fast", "max_parallel"),
        source,
    )
    if not steps:
        given.report("E109", "no steps", "pass steps to parallel(...), or remove it")
    children: list[Step[Any]] = []
    for entry in steps:
        if isinstance(entry, ParallelGroup):
            given.report("E110", "holds another parallel group", "list all steps in one group")
            children.extend(entry.steps)
        else:
            children.append(as_step(entry, given))
    return ParallelGroup(
        name=check_name(name, "parallel group", source) if name is not None else "",
        steps=tuple(children),
        source=source,
        fail_fast=given.flag("fail_fast", default=True),
        max_parallel=given.at_least_one("max_parallel"),
    )


def as_step(entry: object, given: Options) -> Step[Any]:
    """An entry of `steps`: bare functions get their number as name later (AU-10)."""
    if isinstance(entry, Step):
        return cast("Step[Any]", entry)
    found = make_step(entry, None, {}, of_function(entry) or given.source)
    return structs.replace(found, name="")


def hook(fn: HookFunction, /, *, timeout: Duration = "5m") -> Hook:
    """A hook with its own time limit.

    >>> job("deploy", runs_on="web", steps=[ship], cleanup=hook(remove_lock, timeout="30s"))
    """
    source = caller()
    given = Options("hook", {"timeout": timeout}, ("timeout",), source)
    timeout_ms = given.duration("timeout") or DEFAULT_HOOK_TIMEOUT_MS
    return make_hook(fn, timeout_ms, source) or Hook(
        name="hook", fn=fn, timeout_ms=timeout_ms, source=source
    )
