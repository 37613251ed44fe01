"""What the workflows share: a Python that has the project's tools."""

import sys

from kici import Context

_TOOLS = "import ruff, pytest, msgspec"


async def python(ctx: Context) -> str:
    """The interpreter that runs this, when it is a developer's with the tools in it; else the checkout's own,
    set up first."""
    here = await ctx.run(sys.executable, "-c", _TOOLS, check=False, quiet=True)
    if here.ok:
        return sys.executable
    await ctx.sh("sh scripts/setup.sh")
    return str(ctx.workspace / ".venv" / "bin" / "python")
