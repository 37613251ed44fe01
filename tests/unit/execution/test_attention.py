"""When this process could hear its agents, and when not (OR-160)."""

import asyncio

from kici.orchestrator.runs.attention import BREAK_MS, Attention


class Clock:
    def __init__(self) -> None:
        self.ms = 5_000_000

    def now_ms(self) -> int:
        return self.ms


def _listened(clock: Clock, attention: Attention, *, seconds: int) -> None:
    for _ in range(seconds):
        clock.ms += 1000
        attention.tick()


def test_it_grows_while_ticks_come() -> None:
    clock = Clock()
    attention = Attention(clock)
    assert attention.for_ms() == 0
    _listened(clock, attention, seconds=30)
    clock.ms += BREAK_MS
    assert attention.for_ms() == 30_000 + BREAK_MS


def test_a_break_is_noticed_before_the_next_tick_and_begins_anew_after_it() -> None:
    clock = Clock()
    attention = Attention(clock)
    _listened(clock, attention, seconds=30)
    clock.ms += BREAK_MS + 1
    assert attention.for_ms() == 0
    clock.ms += 100
    assert attention.for_ms() == 0  # it lasts
    attention.tick()
    clock.ms += 100
    assert attention.for_ms() == 100


def test_a_clock_that_was_set_is_a_break() -> None:
    for jump_ms in (3_600_000, -3_600_000):
        clock = Clock()
        attention = Attention(clock)
        _listened(clock, attention, seconds=30)
        clock.ms += jump_ms
        assert attention.for_ms() == 0


async def test_reports_that_cannot_be_applied_are_a_break() -> None:
    clock = Clock()
    attention = Attention(clock)
    asked, away = asyncio.Event(), asyncio.Event()

    async def applied() -> None:
        asked.set()
        await away.wait()

    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(attention.listen(applied))
        await asked.wait()
        clock.ms += 60_000
        assert attention.for_ms() == 0
        clock.ms += 60_000
        away.set()
        while attention.for_ms() == 0:  # until they are applied
            clock.ms += 1
            await asyncio.sleep(0)
        listening.cancel()
