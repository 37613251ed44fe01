"""Mistakes of authors inside steps: each is a sentence that says what is wanted (AU-70)."""

from typing import Any

import pytest

from kici.runner.host import Zygote
from kici.spec.ids import INIT_STEPS
from kici.spec.states import JobStatus
from tests.process.runner.builders import Recorder, Repo, run

pytestmark = pytest.mark.process

MISTAKES = {
    'ctx.set_env("A", 1)': "TypeError: variable 'A' is text, not int: write str(1)",
    'ctx.set_env("bad name", "1")': "ValueError: 'bad name' cannot be the name of an environment variable: "
    "letters, digits and _, no digit first",
    'await ctx.run("echo", 5)': "TypeError: ctx.run takes text and paths, not int: write str(5)",
    'await ctx.sh("true", env={"A": 1})': "TypeError: variable 'A' is text, not int: write str(1)",
    'await ctx.sh("true", env={"A=B": "1"})': "ValueError: 'A=B' cannot be the name",
    'await ctx.sh("true", env=["A"])': "TypeError: `env` is a mapping of names to text, not list",
    'ctx.outputs_of("lam")': "OutputError: ctx.outputs_of takes a step, not 'lam'",
    'await ctx.sh("true", files=["x"] * 400_000)': "LimitExceededError: the 400,000 entries of 'files' together",
    'await ctx.run("true", "x" * 200_000)': "LimitExceededError: the arguments and variables of true xxx",
    'await ctx.run("nosuchprogram")': "FileNotFoundError: [Errno 2] there is no such program: 'nosuchprogram'",
    'await ctx.run("true", cwd="nowhere")': "FileNotFoundError: [Errno 2] there is no such working directory",
    'await ctx.cache.save({"key": "", "paths": ["x"]})': "DefinitionError: error[E307]: ctx.cache: `cache`: the key is empty",
    'await ctx.cache.restore("x")': "DefinitionError: error[E119]: ctx.cache: `cache` is a Cache or a mapping, not str",
    'await ctx.emit("e", {"n": 2**70})': "EventRejectedError: the payload of event 'e', field 'n': an integer may",
    "return {'big': [2**70]}": "OutputError: the output of step 's', field 'big[0]': an integer may have 64 bits",
}


async def test_each_is_told_in_a_sentence(repo: Repo) -> None:
    """AU-25, AU-26, AU-55, AU-65, AU-70."""
    bodies = "\n".join(
        f"""
@step("s")
async def s{number}(ctx: Context):
    {body}
jobs.append(job("j{number}", runs_on=LINUX, steps=[s{number}]))
"""
        for number, body in enumerate(MISTAKES)
    )
    repo.write(f"jobs = []\n{bodies}")
    told: list[Any] = []
    async with Zygote.start() as zygote:
        for number in range(len(MISTAKES)):
            result = await zygote.run(repo.execute(f"j{number}"), Recorder())
            assert result.status == JobStatus.FAILED, number
            told.append(str(result.error_message).removeprefix("step 's' failed: "))
    for found, wanted in zip(told, MISTAKES.values(), strict=True):
        assert found.startswith(wanted)


async def test_a_shell_that_is_not_there_is_told_without_our_frames(repo: Repo) -> None:
    """AU-57, AU-70."""
    repo.write("""
    @step
    async def one(ctx: Context) -> None: ...
    jobs = [job("j", runs_on=LINUX, steps=[one], init=Init(run="true", shell="nosuchshell"))]
    """)
    result, seen = await run(repo, "j")
    assert "there is no such program: 'nosuchshell'" in str(result.error_message)
    assert "subprocess" not in seen.text(INIT_STEPS)
