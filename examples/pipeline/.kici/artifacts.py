"""A helper module: workflows import it, because `.kici` is on the path."""

from dataclasses import dataclass

from kici import Context


@dataclass
class Artifact:
    version: str
    sha256: str


async def build_artifact(ctx: Context) -> Artifact:
    await ctx.run("python3", "build.py")
    digest = await ctx.sh("sha256sum dist/greeter.pyz | cut -d' ' -f1", quiet=True)
    version = await ctx.sh('python3 -c "import greeter; print(greeter.__version__)"', quiet=True)
    return Artifact(version=version.text, sha256=digest.text)
