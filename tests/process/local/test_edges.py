"""`kici run local` where the machine, the tree or the terminal is not as usual."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.process.local.project import KICI, Project

pytestmark = pytest.mark.process

PLAIN = """
@job(runs_on=LINUX)
async def build(ctx: Context) -> list[str]:
    print("building")
    return sorted(name.encode("utf-8", "replace").decode() for name in os.listdir("."))

ci = workflow("ci", on=push(), jobs=[build])
"""
LATIN = os.fsdecode(b"caf\xe9")  # as older systems write it


@pytest.mark.parametrize("options", [[], ["--in-place"]])
def test_a_name_that_is_no_utf8_is_a_name(project: Project, options: list[str]) -> None:
    """AU-112, AU-113."""
    project.commit(PLAIN)
    project.git("commit", "-qm", "the second", "--allow-empty")  # nothing is known to change in a first one
    (project.root / LATIN).touch()
    run = project.only_run(*options)
    assert run.output("build") == [".git", ".kici", "caf?"]


def test_words_of_the_command_line_are_bytes(project: Project) -> None:
    """AU-112."""
    project.commit(
        """
class Where(Inputs):
    to: str = ""

@job(runs_on=LINUX)
async def build(ctx: Context) -> list[str]:
    to = ctx.inputs(Where).to if ctx.event.type == "dispatch" else ""
    return [*(ctx.event.changed_files or []), ctx.event.target_branch or "", to]

ci = workflow("ci", on=[push(), dispatch(inputs=Where)], jobs=[build])
"""
    )
    run = project.only_run("--files", LATIN, "--branch", LATIN)
    assert run.output("build") == ["caf\ufffd", "caf\ufffd", ""]
    run = project.only_run("--input", f"to={LATIN}", event="dispatch")
    assert run.output("build")[-1] == "caf\ufffd"
    done = project.run("--env", f"TOKEN={LATIN}")
    assert done.returncode == 2
    assert done.stderr == "error: --env TOKEN: the value is not UTF-8\n"
