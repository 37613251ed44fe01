"""Tests on every system and Python version, then one wheel; a tag must be the version it releases."""

import re

from wheels import Wheel, build_wheel, version_of

from kici import Context, Job, job, pr, push, rule, step, tag, workflow


def tests_on(system: str) -> Job[int]:
    """Labels choose the machine, so a system is a job; versions of Python are a matrix on it."""

    @job(
        f"test-{system}",
        runs_on=f"kici:os:{system}",
        matrix={"python": ["3.11", "3.12", "3.13"], "hashing": ["fixed", "random"]},
        exclude=[{"python": "3.12", "hashing": "random"}],
        max_parallel=3,
        timeout="10m",
    )
    async def run_tests(ctx: Context, *, python: str, hashing: str) -> int:
        wanted = f"python{python}"
        found = await ctx.sh(
            '"$wanted" -c pass 2>/dev/null && echo "$wanted" || echo python3', wanted=wanted
        )
        if found.text != wanted:
            ctx.log.warning("there is no %s here; python3 takes its place", wanted)
        seed = "0" if hashing == "fixed" else "random"
        done = await ctx.run(found.text, "-m", "unittest", "-v", env={"PYTHONHASHSEED": seed})
        ran = re.search(r"Ran (\d+) tests? in", done.stderr)
        return int(ran[1]) if ran else 0

    return run_tests


linux = tests_on("linux")
macos = tests_on("macos")


@job(runs_on="kici:os:linux", needs=[linux])
async def package(ctx: Context) -> Wheel:
    """Built once, imported from where nothing else can be found."""
    wheel = build_wheel(ctx.workspace / "slugline", ctx.workspace / "dist")
    check = "import sys; sys.path[:0] = [sys.argv[1]]; from slugline import slug; print(slug('It Works!'))"
    said = await ctx.run("python3", "-I", "-c", check, str(ctx.workspace / "dist" / wheel.file))
    if said.text != "it-works":
        raise ValueError(f"the wheel says {said.text!r}")
    return wheel


@step
async def compare_tag(ctx: Context) -> str:
    version = version_of(ctx.workspace / "slugline")
    if ctx.event.target_branch != f"v{version}":
        raise ValueError(f"tag {ctx.event.target_branch} releases version {version}")
    return version


@step
async def notes(ctx: Context) -> None:
    """What changed since the tag before this one."""
    log = await ctx.sh("git log --format='* %s' | head -20", quiet=True)
    ctx.summary(f"## {ctx.outputs_of(compare_tag)}\n\n{log.text}\n")


announce = job(
    "announce",
    runs_on="kici:os:linux",
    needs=[package],
    rules=[rule("a tag", lambda ctx: ctx.event.type == "tag")],
    steps=[compare_tag, notes],
)

ci = workflow("ci", on=[push(branches="main"), pr(target="main")], jobs=[linux, macos, package])
release = workflow("release", on=tag(patterns="v*"), jobs=[linux, package, announce])
