"""A first workflow: looks at the pushed commit in one job, and tells about it in the next."""

from dataclasses import dataclass

from kici import Context, job, push, step, workflow


@dataclass
class Commit:
    sha: str
    author: str
    subject: str
    files: int


@step
async def look(ctx: Context) -> Commit:
    """What a step returns is its output; other jobs read it, with its type."""
    shown = await ctx.sh("git log -1 --format=%h%n%an%n%s")
    sha, author, subject = shown.stdout.split("\n")[:3]
    tracked = await ctx.run("git", "ls-files", quiet=True)
    return Commit(sha=sha, author=author, subject=subject, files=len(tracked.lines))


inspect = job("inspect", runs_on="kici:os:linux", steps=[look])


@job(runs_on="kici:os:linux", needs=[inspect])
async def greet(ctx: Context) -> None:
    commit = ctx.job_outputs(inspect).of(look)
    ctx.log.info("Hello, %s! Your repository has %d files.", commit.author, commit.files)
    # Keyword arguments become shell variables: no quoting, no injection.
    await ctx.sh('git show --stat --format="%h %s" "$sha"', sha=commit.sha)


hello_world = workflow("hello-world", on=push(branches="main"), jobs=[inspect, greet])
