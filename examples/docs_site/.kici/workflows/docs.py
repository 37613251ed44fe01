"""Builds the site when a page changes, and looks every night whether its links still lead somewhere."""

from typing import Literal

from site_tools import broken_links, build_site

from kici import Concurrency, Context, Inputs, dispatch, job, parallel, pr, push, schedule, step, workflow


class LinkCheck(Inputs):
    depth: Literal["pages", "pages-and-site"] = "pages-and-site"


@step
async def links(ctx: Context) -> int:
    broken = broken_links(ctx.workspace / "docs")
    for page, line, target in broken:
        ctx.annotate("error", f"{target} does not exist", file=f"docs/{page}", line=line)
    if broken:
        raise ValueError(f"{len(broken)} links lead nowhere")
    return len(broken)


@step
async def spelling(ctx: Context) -> None:
    """No word twice in a row."""
    await ctx.sh(r"! grep -nEiw '([a-z]+) \1' docs/*.md")


@step
async def build(ctx: Context) -> int:
    pages = build_site(ctx.workspace / "docs", ctx.workspace / "site")
    ctx.summary(f"{pages} pages\n")
    return pages


@step
async def served(ctx: Context) -> None:
    """Every page that links to another has it."""
    await ctx.sh("test -s site/index.html && grep -q 'href=\"start.html\"' site/index.html")


site_job = job(
    "site", runs_on="kici:os:linux", steps=[parallel(links, spelling, name="checks"), build, served]
)


@job(runs_on="kici:os:linux")
async def nightly_links(ctx: Context) -> str:
    asked = ctx.inputs(LinkCheck)
    broken = broken_links(ctx.workspace / "docs")
    if broken:
        raise ValueError(f"broken: {broken}")
    if asked.depth == "pages-and-site":
        build_site(ctx.workspace / "docs", ctx.tmp / "site")
    return asked.depth


site = workflow(
    "site",
    on=[push(branches="main", paths=["docs/**", ".kici/**"]), pr(target="main", paths="docs/**")],
    jobs=[site_job],
    concurrency=Concurrency(group=lambda c: f"site-{c.ref}"),
)
nightly = workflow(
    "nightly",
    on=[
        schedule(cron="0 4 * * *", timezone="Europe/Berlin", inputs=LinkCheck),
        dispatch(types="links", inputs=LinkCheck),
    ],
    jobs=[nightly_links],
)
