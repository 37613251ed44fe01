"""A repository on disk with workflows in it, and what the compiler says about them."""

from pathlib import Path
from textwrap import dedent

import msgspec

from kici.compiler.pipeline import Compiled, compile_repository
from kici.spec.lock import CompilerInfo, LockFile, LockJob

BUILD = CompilerInfo(sdk_version="0.1.0", sdk_bundle_hash="0" * 64, requires_python="")

PRELUDE = """\
import re
from kici import *

@step
async def build(ctx: Context) -> str:
    return "built"

@step
async def scan(ctx: Context, *, target: str) -> int:
    return len(target)

"""
EPILOGUE = """
ci = workflow("ci", on=push(), jobs=[value for value in list(globals().values()) if isinstance(value, (Job, MultiJob))])
"""


class Repository:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.kici_dir = root / ".kici"

    def write(self, files: dict[str, str]) -> "Repository":
        """Paths below `.kici`, or below the root when they start with `/`."""
        for name, text in files.items():
            path = self.root / name[1:] if name.startswith("/") else self.kici_dir / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(dedent(text), "utf-8")
        return self

    def workflow(self, body: str, name: str = "ci") -> "Repository":
        """A file with imports and two steps before `body`, and a workflow of all its jobs if it has none."""
        body = dedent(body)
        return self.write(
            {f"workflows/{name}.py": PRELUDE + body + ("" if "workflow(" in body else EPILOGUE)}
        )

    def compile(self, *, import_limit_s: float = 30) -> Compiled:
        return compile_repository(self.kici_dir, compiler=BUILD, import_limit_s=import_limit_s)

    def lock(self) -> LockFile:
        """The document of a compilation without errors, as a reader decodes it."""
        compiled = self.compile()
        assert compiled.data is not None, [problem.text() for problem in compiled.errors]
        return msgspec.json.decode(compiled.data, type=LockFile)

    def jobs(self) -> dict[str, LockJob]:
        """Jobs of the only workflow."""
        (workflow,) = self.lock().workflows
        return {job.name: job for job in workflow.jobs}

    def codes(self) -> list[str]:
        return [problem.code for problem in self.compile().problems]
