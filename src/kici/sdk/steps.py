"""Constructors of steps, parallel groups and hooks."""

from collections.abc import Awaitable, Callable, Mapping
from typing import (
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

from kici.sdk.context import Context
from kici.sdk.definitions import (
    Hook,
    HookFunction,
    ParallelGroup,
    Retry,
    RetryPolicy,
    Step,
    StepSettings,
)
from kici.sdk.options import DEFAULT_HOOK_TIMEOUT_MS, Options, check_name, make_hook, name_of_function
from kici.sdk.problems import report
from kici.sdk.source import SourceLocation, caller, of_function
from kici.sdk.values import Duration, Maybe

P = ParamSpec("P")
R = TypeVar("R")

StepFunction: TypeAlias = Callable[[Context], Maybe[Any]]
StepLike: TypeAlias = Step[Any] | StepFunction | ParallelGroup
HookLike: TypeAlias = HookFunction | Hook

_CO_GENERATOR = 0x20 | 0x200  # plain and async, as in the inspect module
_MAX_ATTEMPTS = 100


class StepOptions(TypedDict, total=False):
    timeout: Duration
    retry: int | Retry | Mapping[str, Any]
    continue_on_error: bool
    on_cancel: HookLike
    cleanup: HookLike


class StepDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Step[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> Step[R]: ...


@overload
def step(fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Step[R]: ...
@overload
def step(fn: Callable[Concatenate[Context, P], R], /) -> Step[R]: ...
@overload
def step(name: str | None = None, /, **options: Unpack[StepOptions]) -> StepDecorator: ...
def step(name: Any = None, /, **options: Any) -> Any:
    """A function that a job runs, with or without options.

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
    given = Options(f"step {final!r}" if final else "step", options, StepOptions.__annotations__, source)
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
        ),
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
    attempts = wanted.attempts
    if not isinstance(cast("object", attempts), int) or not 1 <= attempts <= _MAX_ATTEMPTS:
        given.report("E309", f"`retry` allows 1 to {_MAX_ATTEMPTS} attempts, not {attempts!r}")
        return None
    if wanted.backoff not in {"exponential", "fixed"}:
        given.report("E119", f"`retry`: unknown backoff {wanted.backoff!r}", "exponential or fixed")
        return None
    delay_ms = given.as_duration("retry.delay", wanted.delay)
    max_delay_ms = given.as_duration("retry.max_delay", wanted.max_delay)
    if delay_ms is None or max_delay_ms is None:
        return None
    return RetryPolicy(
        attempts=attempts,
        delay_ms=delay_ms,
        max_delay_ms=max_delay_ms,
        backoff=wanted.backoff,
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
