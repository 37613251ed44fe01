"""Several packages in one repository: each folder below `packages/` that a push touches is tested, no other."""

from pathlib import PurePosixPath

from kici import Context, GenerateContext, job, pr, push, step, workflow

LINUX = "kici:os:linux"
ROOT = "packages"


def touched(g: GenerateContext) -> dict[str, list[str]]:
    """A matrix made at run time: the packages with a changed file, or all when the changes are not known."""
    changed = g.event.changed_files
    if changed is None:
        return {"package": ["all"]}
    parts = [PurePosixPath(file).parts for file in changed]
    found = sorted({part[1] for part in parts if len(part) > 2 and part[0] == ROOT})
    return {"package": found or ["none"]}


@step(timeout="10m")
async def run_tests(ctx: Context, *, package: str) -> None:
    """`make test` where the package has a Makefile, else its unit tests."""
    if package == "none":
        ctx.log.info("No package was touched")
        return
    where = ROOT if package == "all" else f"{ROOT}/{package}"
    await ctx.sh(
        """
        [ -d "$where" ] || { echo "There is no folder $where yet"; exit 0; }
        cd "$where"
        if [ -f Makefile ]; then make test; else python3 -m unittest discover -v || [ $? -eq 5 ]; fi
        """,
        where=where,
    )


test = job("test", runs_on=LINUX, matrix=touched, max_parallel=4, steps=[run_tests])

monorepo = workflow(
    "monorepo", on=[push(branches="main", paths=f"{ROOT}/**"), pr(target="main")], jobs=[test]
)
