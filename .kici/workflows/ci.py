"""The default branch and pull requests: all checks, all tests, and the wheel that would be released."""

from dataclasses import dataclass

from kici import Cache, Concurrency, Context, cache_key, job, pr, push, step, workflow

LINUX = "kici:os:linux"

tools = Cache(
    key=cache_key("tools", files=["requirements.lock", "dashboard/package-lock.json"]),
    paths=["dashboard/node_modules"],
)


@dataclass
class Wheel:
    name: str
    size: int


@step(timeout="20m")
async def check(ctx: Context) -> None:
    await ctx.run("make", "check")


@step(timeout="40m")
async def test(ctx: Context) -> None:
    await ctx.run("make", "test", env={"KICI_TEST_NO_SKIP": "1"})


@step(timeout="10m")
async def build_wheel(ctx: Context) -> Wheel:
    await ctx.sh("sh scripts/setup.sh && .venv/bin/python -m hatchling build -t wheel")
    wheel = max((ctx.workspace / "dist").glob("*.whl"), key=lambda path: path.stat().st_mtime)
    ctx.summary(f"Built `{wheel.name}`, {wheel.stat().st_size / 1e6:.1f} MB\n")
    return Wheel(name=wheel.name, size=wheel.stat().st_size)


checks = job("check", runs_on=LINUX, cache=tools, steps=[check])
tests = job("test", runs_on=LINUX, cache=tools, steps=[test])
wheel = job("wheel", runs_on=LINUX, needs=[checks], cache=tools, steps=[build_wheel])

ci = workflow(
    "ci",
    on=[push(branches="main", paths=["!docs/**", "!**/*.md"]), pr(target="main")],
    jobs=[checks, tests, wheel],
    concurrency=Concurrency(group="ci"),
    timeout="60m",
)
