"""A step is a function: another step or a unit test awaits it (AU-6)."""

from typing import assert_type

from kici import Context, step


@step
async def version(ctx: Context) -> str:
    return (await ctx.sh("git describe --tags")).text


@step
async def publish(ctx: Context, *, channel: str = "stable") -> str:
    return f"{await version(ctx)} to {channel}"


async def try_it(fake: Context) -> None:
    assert_type(await version(fake), str)
    assert_type(await publish(fake, channel="beta"), str)
