"""What authors test their steps with: a `ctx` that records commands and answers as told.

>>> ctx = FakeContext(secrets={"TOKEN": "t"})
>>> ctx.answer("git describe*", "v1.2\\n")
>>> asyncio.run(publish(ctx))
>>> assert ctx.commands[-1].text == "twine upload dist/*"

Loaded on first use: every pytest in an environment with kici imports this package for its plug-in.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kici.sdk.calls import NotAwaitedError
    from kici.testing.commands import Command, UnexpectedCommand
    from kici.testing.context import FakeContext, FakeRuleContext
    from kici.testing.parts import Annotation, Emitted, LogLine
else:
    _HOMES = {
        "Annotation": "testing.parts",
        "Command": "testing.commands",
        "Emitted": "testing.parts",
        "FakeContext": "testing.context",
        "FakeRuleContext": "testing.context",
        "LogLine": "testing.parts",
        "NotAwaitedError": "sdk.calls",
        "UnexpectedCommand": "testing.commands",
    }

    def __getattr__(name: str) -> object:
        if name in _HOMES:
            from importlib import import_module

            return getattr(import_module(f"kici.{_HOMES[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})


__all__ = [
    "Annotation",
    "Command",
    "Emitted",
    "FakeContext",
    "FakeRuleContext",
    "LogLine",
    "NotAwaitedError",
    "UnexpectedCommand",
]
