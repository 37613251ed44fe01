"""Changing only what differs, waiting for what takes its time, and steps called like functions (AU-48…50)."""

import asyncio
from typing import Any

import pytest

from kici import (
    Applied,
    Context,
    InSync,
    WaitForTimeoutError,
    idempotent,
    step,
    wait_for,
    wait_for_host_alive,
    wait_for_step,
)
from kici.sdk import mode
from kici.testing import FakeContext

NEVER = 3_600


class Tries:
    """Gives its answers one after the other; an exception is raised, `hang` waits for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.cancelled = False

    async def __call__(self, *_: object) -> Any:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer == "hang":
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_the_first_value_that_is_not_none_is_it() -> None:
    """AU-50: False counts."""
    tries = Tries(None, OSError("not yet"), False)

    assert await wait_for(tries, interval=0) is False
    assert tries.asked == 3


async def test_a_hanging_check_is_cancelled_at_the_deadline() -> None:
    """AU-50: ≠ the original, which waited for it."""
    tries = Tries(None, "hang")

    with pytest.raises(WaitForTimeoutError) as late:
        await wait_for(tries, name="api", interval=0, timeout="50ms")

    assert tries.cancelled
    assert (late.value.name, late.value.attempts) == ("api", 2)
    assert late.value.elapsed >= 0.05


async def test_the_last_exception_is_told() -> None:
    """AU-50"""
    with pytest.raises(WaitForTimeoutError, match="the last check raised OSError: refused"):
        await wait_for(Tries(OSError("refused")), interval=NEVER, timeout="20ms")


async def test_exceptions_pass_when_they_should() -> None:
    """AU-50: also a TimeoutError of the check's own."""
    for error in (ValueError("x"), TimeoutError("own")):
        with pytest.raises(type(error), match=str(error)):
            await wait_for(Tries(error), interval=0, swallow_errors=False)


async def test_the_initial_delay_counts_towards_the_deadline() -> None:
    """AU-50"""
    tries = Tries(True)

    with pytest.raises(WaitForTimeoutError):
        await wait_for(tries, initial_delay=NEVER, timeout="10ms")
    assert tries.asked == 0


async def test_a_cancelled_wait_is_cancelled() -> None:
    """AU-68"""
    tries = Tries("hang")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.02):
            await wait_for(tries)
    assert tries.cancelled


async def test_idempotent_applies_what_differs(capsys: pytest.CaptureFixture[str]) -> None:
    """AU-48"""
    applied: list[str] = []

    async def apply(drift: str) -> int:
        applied.append(drift)
        return len(drift)

    assert await idempotent("motd", check=Tries("new"), apply=apply, summarize=str.upper) == Applied(
        drift="new", result=3
    )
    assert await idempotent(check=Tries(None), apply=apply, when_in_sync=Tries("same")) == InSync(
        result="same"
    )
    assert await idempotent(check=Tries(None), apply=apply) == InSync(result=None)
    assert applied == ["new"]
    assert capsys.readouterr().out == ("motd: applying: NEW\nidempotent: in sync\nidempotent: in sync\n")


@pytest.mark.parametrize("check_mode", ["check", "check-fail-on-drift"])
async def test_idempotent_changes_nothing_in_check_mode(
    check_mode: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """AU-49: no apply function runs."""
    apply = Tries(1)
    before = mode.current.set(check_mode)
    try:
        outcome = await idempotent("motd", check=Tries("new"), apply=apply, summarize=str.upper)
    finally:
        mode.current.reset(before)

    assert outcome == Applied(drift="new", result=None, applied=False)
    assert apply.asked == 0
    assert capsys.readouterr().out == "motd: would change: NEW\n"


async def test_a_step_with_a_check_is_called_like_a_function() -> None:
    """AU-6, AU-48: it applies the drift, gives what `when_in_sync` gives, and changes nothing in check mode."""
    drift = Tries(["a"], None, ["a"])

    @step(check=drift, summarize=", ".join, when_in_sync=Tries(0))
    async def install(ctx: Context, drift: list[str], *, factor: int = 1) -> int:
        await ctx.sh("install")
        return len(drift) * factor

    ctx = FakeContext()
    assert await install(ctx, factor=5) == 5
    assert await install(ctx) == 0
    assert len(ctx.commands) == 1
    checking = FakeContext(check_mode="check")
    assert await install(checking) is None
    assert checking.commands == []
    assert mode.current.get() == "apply"


async def test_a_waiting_step_is_called_like_a_function() -> None:
    """AU-6, AU-50"""

    async def instead(late: WaitForTimeoutError) -> str:
        return f"after {late.attempts}"

    up = wait_for_step("up", Tries(None, "yes"), interval=0)
    late = wait_for_step("late", Tries(None), interval=NEVER, timeout="10ms", on_timeout=instead)
    never = wait_for_step("never", Tries(None), interval=NEVER, timeout="10ms")

    assert await up(FakeContext()) == "yes"
    assert await late(FakeContext()) == "after 1"
    with pytest.raises(WaitForTimeoutError, match="never"):
        await never(FakeContext())


async def test_a_host_is_alive_when_the_probe_neither_raises_nor_gives_false() -> None:
    """AU-51"""
    probe = Tries(OSError("down"), False, None)

    await wait_for_host_alive(probe, interval=0)(FakeContext())
    assert probe.asked == 3
