"""Checks for pull requests: lint first, then test. Replace the commands by your own."""

from kici import Context, job, parallel, pr, step, workflow


@step
async def conflict_markers(ctx: Context) -> None:
    found = await ctx.run("git", "grep", "-nE", "^(<<<<<<<|>>>>>>>) ", check=False)
    if found.ok:
        raise ValueError(f"{len(found.lines)} lines hold merge conflict markers")


@step
async def shell_syntax(ctx: Context) -> None:
    scripts = (await ctx.run("git", "ls-files", "*.sh", quiet=True)).lines
    await ctx.sh('for script in "${scripts[@]}"; do bash -n "$script"; done', scripts=scripts)


@step(timeout="10m")
async def run_tests(ctx: Context) -> int:
    """pytest, go test ./..., npm test, make check: whatever tests this repository."""
    tests = (await ctx.run("git", "ls-files", "test_*.py", "*/test_*.py", quiet=True)).lines
    if tests:
        await ctx.sh('python3 -m unittest -v "${tests[@]}"', tests=tests)
    else:
        ctx.log.warning("No test_*.py in this repository yet: put your own test command here")
    return len(tests)


lint = job("lint", runs_on="kici:os:linux", steps=[parallel(conflict_markers, shell_syntax)])
test = job("test", runs_on="kici:os:linux", needs=[lint], steps=[run_tests])

pr_checks = workflow(
    "pr-checks",
    on=pr(
        events=["opened", "synchronize", "reopened", "ready_for_review"],
        target="main",
        paths=["!docs/**", "!**/*.md"],
    ),
    jobs=[lint, test],
)
