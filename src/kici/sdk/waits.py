"""Change only what differs, and wait for what takes its time (AU-48, AU-50, AU-51).

`idempotent` and `wait_for` are called inside a step; the others make steps.
"""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar, cast, overload

from msgspec import Struct

from kici.sdk import mode
from kici.sdk.context import Context
from kici.sdk.definitions import Step, StepSettings, WaitFacet
from kici.sdk.errors import WaitForTimeoutError
from kici.sdk.options import Options, check_name
from kici.sdk.source import caller
from kici.sdk.values import Duration, duration_ms

T = TypeVar("T")
D = TypeVar("D")
A = TypeVar("A")
I = TypeVar("I")  # noqa: E741 - the names of the requirement

_DURATIONS = ("interval", "timeout", "initial_delay")


class Applied(Struct, Generic[D, A], frozen=True, kw_only=True):
    """Something differed. In check mode nothing was applied: `applied` is False and `result` None.

    >>> async def ensure(ctx: Context) -> None:
    ...     outcome = await idempotent(check=read_drift, apply=write_file)
    ...     if isinstance(outcome, Applied):
    ...         ctx.log.info("was %s", outcome.drift)
    """

    drift: D
    result: A | None = None
    applied: bool = True


class InSync(Struct, Generic[I], frozen=True, kw_only=True):
    """Nothing differed; `result` is what `when_in_sync` gave.

    >>> async def ensure(ctx: Context) -> None:
    ...     outcome = await idempotent(check=read_drift, apply=write_file)
    ...     if isinstance(outcome, InSync):
    ...         ctx.log.info("nothing to do")
    """

    result: I | None = None


@overload
async def idempotent(
    name: str = "idempotent",
    /,
    *,
    check: Callable[[], Awaitable[D | None]],
    apply: Callable[[D], Awaitable[A]],
    when_in_sync: None = None,
    summarize: Callable[[D], str] | None = None,
) -> Applied[D, A] | InSync[None]: ...
@overload
async def idempotent(
    name: str = "idempotent",
    /,
    *,
    check: Callable[[], Awaitable[D | None]],
    apply: Callable[[D], Awaitable[A]],
    when_in_sync: Callable[[], Awaitable[I]],
    summarize: Callable[[D], str] | None = None,
) -> Applied[D, A] | InSync[I]: ...
async def idempotent(
    name: str = "idempotent",
    /,
    *,
    check: Callable[[], Awaitable[D | None]],
    apply: Callable[[D], Awaitable[A]],
    when_in_sync: Callable[[], Awaitable[I]] | None = None,
    summarize: Callable[[D], str] | None = None,
) -> Applied[D, A] | InSync[Any]:
    """Apply only what `check` found to differ; None means in sync. In check mode it only tells.

    >>> async def ensure(ctx: Context) -> None:
    ...     await idempotent("motd", check=read_drift, apply=write_file, summarize=lambda drift: drift)
    """
    drift = await check()
    if drift is None:
        print(f"{name}: in sync")
        return InSync(result=None if when_in_sync is None else await when_in_sync())
    shown = f": {summarize(drift)}" if summarize is not None else ""
    if mode.current.get() != "apply":
        print(f"{name}: would change{shown}")
        return Applied(drift=drift, applied=False)
    print(f"{name}: applying{shown}")
    return Applied(drift=drift, result=await apply(drift))


async def wait_for(
    check: Callable[[], Awaitable[T | None]],
    *,
    name: str = "wait_for",
    interval: Duration = 2,
    timeout: Duration = 60,  # noqa: ASYNC109 - the name of the requirement
    initial_delay: Duration = 0,
    swallow_errors: bool = True,
) -> T:
    """The first value of `check` that is not None; False counts. A check that hangs is cancelled.

    Raises WaitForTimeoutError. Exceptions of `check` mean "not yet", unless `swallow_errors=False`.

    >>> async def ready(ctx: Context) -> None:
    ...     status = await wait_for(lambda: probe("https://example.com/health"), timeout="2m")
    ...     ctx.log.info("answers %s", status)
    """
    facet = WaitFacet(
        interval_ms=duration_ms(interval),
        timeout_ms=duration_ms(timeout),
        initial_delay_ms=duration_ms(initial_delay),
        swallow_errors=swallow_errors,
    )
    return cast("T", await poll(check, name, facet))


async def poll(check: Callable[[], Any], name: str, facet: WaitFacet) -> Any:
    """Call `check` as the facet says until it gives a value; `on_timeout` of the facet is not called."""
    import asyncio  # only callers that already run a loop pay for it

    loop = asyncio.get_running_loop()
    begun = loop.time()
    attempts = 0
    last_error = ""
    limit = asyncio.timeout(facet.timeout_ms / 1_000)
    try:
        async with limit:
            await asyncio.sleep(facet.initial_delay_ms / 1_000)
            while not limit.expired():
                attempts += 1
                try:
                    found = check()
                    if hasattr(found, "__await__"):
                        found = await cast("Awaitable[Any]", found)
                    if found is not None:
                        return found
                    last_error = ""
                except Exception as error:
                    if not facet.swallow_errors:
                        raise
                    last_error = f"{type(error).__name__}: {error}"
                await asyncio.sleep(facet.interval_ms / 1_000)
    except TimeoutError:
        if not limit.expired():
            raise  # the check's own
    raise WaitForTimeoutError(name, loop.time() - begun, attempts, last_error)


def wait_for_step(
    name: str,
    check: Callable[[Context], Awaitable[T | None]],
    /,
    *,
    interval: Duration = 2,
    timeout: Duration = 60,
    initial_delay: Duration = 0,
    swallow_errors: bool = True,
    on_timeout: Callable[[WaitForTimeoutError], Awaitable[T]] | None = None,
) -> Step[T]:
    """A step that waits until `check` gives a value, which is its output.

    >>> async def answers(ctx: Context) -> str | None:
    ...     done = await ctx.run("curl", "-fsS", "localhost:8080/health", check=False, quiet=True)
    ...     return done.text if done.ok else None
    >>> up = wait_for_step("up", answers, timeout="2m")
    """
    source = caller()
    final = check_name(name, "step", source)
    durations = {"interval": interval, "timeout": timeout, "initial_delay": initial_delay}
    given = Options(f"step {final!r}", durations, _DURATIONS, source)
    if not callable(check):
        given.report(
            "E119", f"the check is a function, not {type(check).__name__}", "pass a function of ctx"
        )
    return Step(
        name=final,
        fn=check,
        source=source,
        settings=StepSettings(
            wait=WaitFacet(
                interval_ms=given.as_duration("interval", interval) or 0,
                timeout_ms=given.duration("timeout") or 60_000,
                initial_delay_ms=given.as_duration("initial_delay", initial_delay) or 0,
                swallow_errors=swallow_errors,
                on_timeout=on_timeout,
            )
        ),
    )


def restart_host(*, deadline: Duration | None = None) -> Step[None]:
    """Restarts the machine after the job; its last step. Jobs that need this one go on there.

    >>> patch = job("patch", runs_on="kici:host:web-1", steps=[build, restart_host(deadline="10m")])
    """
    source = caller()
    Options("restart_host()", {"deadline": deadline}, ("deadline",), source).duration("deadline")

    async def request_reboot(ctx: Context) -> None:
        await ctx.kici.host.request_reboot(deadline=deadline)

    return Step(
        name="restart-host", fn=request_reboot, source=source, settings=StepSettings(restarts_host=True)
    )


def wait_for_host_alive(
    probe: Callable[[], Awaitable[object]], *, interval: Duration = 3, timeout: Duration = "5m"
) -> Step[None]:
    """A step that waits until `probe` neither raises nor gives False.

    >>> back = wait_for_host_alive(lambda: probe("http://web-1/health"), timeout="10m")
    """

    async def is_alive(_ctx: Context) -> bool | None:
        return None if await probe() is False else True

    return cast(
        "Step[None]", wait_for_step("wait-for-host-alive", is_alive, interval=interval, timeout=timeout)
    )
