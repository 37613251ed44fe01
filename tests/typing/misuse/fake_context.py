"""Each marked line must be refused by both checkers; no other line may be."""

from kici import Context, RuleContext, step
from kici.testing import FakeContext


@step
async def build(ctx: Context) -> str:
    return ""


fake = FakeContext(secret={})  # error: pyright=reportCallIssue mypy=call-arg
fake.answer(5)  # error: pyright=reportArgumentType mypy=arg-type
as_rule: RuleContext = FakeContext()  # error: pyright=reportAssignmentType mypy=assignment
