"""What authors test their steps with: a `ctx` that records commands and answers as told.

>>> ctx = FakeContext(secrets={"TOKEN": "t"})
>>> ctx.answer("git describe*", "v1.2\\n")
>>> asyncio.run(publish(ctx))
>>> assert ctx.commands[-1].text == "twine upload dist/*"
"""

from kici.testing.commands import Command, UnexpectedCommand
from kici.testing.context import FakeContext, FakeRuleContext
from kici.testing.parts import Annotation, Emitted, LogLine

__all__ = [
    "Annotation",
    "Command",
    "Emitted",
    "FakeContext",
    "FakeRuleContext",
    "LogLine",
    "UnexpectedCommand",
]
