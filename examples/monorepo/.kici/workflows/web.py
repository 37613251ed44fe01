"""Starts only for what the web service is made of: a path filter, no job to skip."""

from kici import Context, job, push, workflow

RENDER = "from services.web import page; print(page('green tea'))"


@job(runs_on="kici:os:linux")
async def preview(ctx: Context) -> str:
    rendered = await ctx.run("python3", "-c", RENDER)
    ctx.summary(f"```html\n{rendered.text}\n```\n")
    return rendered.text


web = workflow("web", on=push(paths=["services/web/**", "libs/**", "!**/test_*.py"]), jobs=[preview])
