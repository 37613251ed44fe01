"""A Python package: tests on the versions it supports, a build, and an upload when a version is tagged."""

from kici import Cache, Context, RuleContext, cache_key, job, pr, push, rule, step, tag, workflow

VERSIONS = ["3.11", "3.12", "3.13"]
LINUX = "kici:os:linux"


@step(timeout="10m")
async def run_tests(ctx: Context, *, python: str) -> None:
    """`python` is the matrix value. A version that this agent lacks is told and left out."""
    interpreter = f"python{python}"
    found = await ctx.sh('"$interpreter" --version', interpreter=interpreter, check=False, quiet=True)
    if not found.ok:
        ctx.log.warning("%s is not installed on this agent", interpreter)
        return
    await ctx.sh(
        """
        "$interpreter" -m venv "$venv"
        . "$venv/bin/activate"
        if [ -f pyproject.toml ]; then
            pip install --quiet . pytest
            pytest -q
        else
            python -m unittest discover -v || [ $? -eq 5 ]  # 5: there are no tests yet
        fi
        """,
        interpreter=interpreter,
        venv=ctx.tmp / "venv",
    )


@step
async def build(ctx: Context) -> list[str]:
    """The files of the release, by name."""
    if not (ctx.workspace / "pyproject.toml").exists():
        ctx.log.warning("No pyproject.toml: nothing to build")
        return []
    await ctx.sh(
        'python3 -m pip wheel --quiet --no-deps --wheel-dir "$dist" .', dist=ctx.workspace / "dist"
    )
    return sorted(path.name for path in (ctx.workspace / "dist").iterdir())


@rule("a version tag")
def is_tag(ctx: RuleContext) -> bool:
    return ctx.event.type == "tag"


test = job(
    "test",
    runs_on=LINUX,
    matrix={"python": VERSIONS},
    fail_fast=False,
    steps=[run_tests],
    cache=Cache(
        key=cache_key("pip", files=["pyproject.toml"]), paths=["~/.cache/pip"], restore_keys=["pip-"]
    ),
)
package = job("package", runs_on=LINUX, needs=[test], steps=[build])


@job(runs_on=LINUX, needs=[package], rules=[is_tag])
async def upload(ctx: Context) -> None:
    files = ctx.job_outputs(package).of(build)
    ctx.log.info("Put your upload here, for example twine, for: %s", ", ".join(files) or "nothing")


python_package = workflow(
    "python-package",
    on=[push(branches="main"), tag(patterns="v*"), pr(target="main")],
    jobs=[test, package, upload],
)
