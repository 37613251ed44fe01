"""A fake context stands in for every context that author code is given (AU-6, AU-122)."""

import re
from typing import assert_type

from kici import Completed, Context, GenerateContext, HookContext, PushEvent, RuleContext, job, step
from kici.testing import Command, FakeContext, FakeRuleContext


@step
async def build(ctx: Context) -> str:
    return (await ctx.sh("git describe")).text


one = job("one", runs_on="linux", steps=[build])
fake = FakeContext(event=PushEvent(target_branch="main"), secrets={"A": "b"}, strict=True)
as_context: Context = fake
as_hook: HookContext = fake
as_generate: GenerateContext = fake
as_rule: RuleContext = FakeRuleContext()


def answer(command: Command) -> Completed:
    return Completed(returncode=0, stdout=command.text, stderr="", duration=0)


fake.answer("git *", "v1\n")
fake.answer(re.compile("^git"), 1)
fake.answer("git describe", answer)
fake.give_output(build, "v1")
fake.give_job(one, {build: "v1"}, status="failed")


async def try_it() -> None:
    assert_type(await build(fake), str)
    assert_type(fake.job_outputs(one).of(build), str)
    assert_type(fake.commands, list[Command])
