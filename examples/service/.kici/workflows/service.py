"""Unit tests, a database brought up to date, and the whole service tried from outside."""

import asyncio

from running import running_shop

from kici import Context, HookContext, job, pr, push, step, workflow

DATABASE = "shop.db"
MISSING = "from shop.database import *; print(len(MIGRATIONS) - version(Path('shop.db')))"
MIGRATE = "from shop.database import *; print(migrate(Path('shop.db')))"
DUMP = "from shop.database import *; print(*connect(Path('shop.db')).iterdump(), sep='\\n')"


async def missing(ctx: Context) -> int | None:
    """How many migrations the database lacks; None when it is in order."""
    answer = await ctx.run("python3", "-c", MISSING, quiet=True)
    return int(answer.text) or None


def in_words(count: int) -> str:
    return f"{count} migrations are missing"


async def none_missing(_ctx: Context) -> int:
    return 0


@step(check=missing, summarize=in_words, when_in_sync=none_missing)
async def migrate(ctx: Context, drift: int) -> int:
    """`kici run local push --check` only says what it would do."""
    applied = await ctx.run("python3", "-c", MIGRATE)
    if int(applied.text) != drift:
        raise ValueError(f"{drift} were missing, {applied.text} were applied")
    return drift


@step(timeout="2m")
async def end_to_end(ctx: Context) -> dict[str, int]:
    """Two customers want the last 100 grams; one gets them."""
    order = {"tea": "assam", "grams": 100}
    async with running_shop(ctx, ctx.workspace / DATABASE) as shop:
        answers = await asyncio.gather(*(shop.ask("POST", "/orders", order) for _ in range(2)))
        if sorted(status for status, _ in answers) != [201, 409]:
            raise ValueError(f"the shop answered {answers}")
        _, left = await shop.ask("GET", "/teas")
    ctx.log.info("left: %s", left)
    return left


async def show_database(ctx: HookContext) -> None:
    """What the tests left, for people who want to know why they failed."""
    if ctx.outcome.status != "success":
        await ctx.run("python3", "-c", DUMP)


@job(runs_on="kici:os:linux")
async def unit(ctx: Context) -> None:
    await ctx.run("python3", "-m", "unittest", "-v")


tested = job(
    "end-to-end",
    runs_on="kici:os:linux",
    needs=[unit],
    steps=[migrate, end_to_end],
    cleanup=show_database,
    timeout="10m",
)

service = workflow("service", on=[push(), pr(target="main")], jobs=[unit, tested])
