"""Constructors of rules: whether a workflow, a job or a step runs (AU-34, AU-35)."""

from collections.abc import Callable
from typing import Any, cast, overload

from kici.sdk.context import RuleContext
from kici.sdk.definitions import Rule, RuleFunction
from kici.sdk.options import check_name
from kici.sdk.problems import report
from kici.sdk.source import SourceLocation, caller


class PendingRule:
    """What `rule("label")` without a check returns: it waits for the function it decorates."""

    def __init__(self, label: str, source: SourceLocation) -> None:
        self.label = label
        self.source = source

    def __call__(self, fn: RuleFunction, /) -> Rule:
        return _make(self.label, fn, self.source, negate=False)


@overload
def rule(label: str, /) -> Callable[[RuleFunction], Rule]: ...
@overload
def rule(label: str, check: RuleFunction, /) -> Rule: ...
def rule(label: str, check: RuleFunction | None = None, /) -> Any:
    """It runs when the check says True. A check that raises fails it. The first False ends the row.

    >>> on_main = rule("main only", lambda ctx: ctx.event.target_branch == "main")
    >>> @rule("touches docs")
    ... def touches_docs(ctx: RuleContext) -> bool:
    ...     return ctx.changed_files is None or "docs" in ctx.changed_files
    """
    source = caller()
    label = check_name(label, "rule", source)
    return PendingRule(label, source) if check is None else _make(label, check, source, negate=False)


def skip(label: str, check: RuleFunction, /) -> Rule:
    """The opposite of `rule`: skipped when the check says True.

    >>> no_bots = skip("bots", lambda ctx: ctx.event.sender_username == "renovate[bot]")
    """
    source = caller()
    return _make(check_name(label, "rule", source), check, source, negate=True)


def only_on_first_host() -> Rule:
    """Only the first child of a fan-out does it, in order of agent id or of the matrix.

    >>> @step(rules=[only_on_first_host()])
    ... async def migrate(ctx: Context) -> None:
    ...     await ctx.sh("./migrate.sh")
    """

    def is_first(ctx: RuleContext) -> bool:
        return ctx.fanout.index == 0

    return Rule(label="only on the first host", check=is_first, source=caller())


def only_on_last_host() -> Rule:
    """Only the last child of a fan-out does it.

    >>> @step(rules=[only_on_last_host()])
    ... async def tell_everybody(ctx: Context) -> None:
    ...     await ctx.sh("./announce.sh")
    """

    def is_last(ctx: RuleContext) -> bool:
        return ctx.fanout.index == ctx.fanout.total - 1

    return Rule(label="only on the last host", check=is_last, source=caller())


def only_on_fanout_index(n: int, /) -> Rule:
    """Only child `n` of a fan-out does it, counted from 0.

    >>> @step(rules=[only_on_fanout_index(1)])
    ... async def second(ctx: Context) -> None: ...
    """
    source = caller()
    if isinstance(cast("object", n), bool) or not isinstance(cast("object", n), int) or n < 0:
        report("E119", f"only_on_fanout_index() counts from 0, not {n!r}", "pass 0, 1, …", source=source)
        n = 0

    def is_it(ctx: RuleContext) -> bool:
        return ctx.fanout.index == n

    return Rule(label=f"only on fan-out index {n}", check=is_it, source=source)


def _make(label: str, check: object, source: SourceLocation, *, negate: bool) -> Rule:
    if not callable(check):
        report(
            "E119",
            f"rule {label!r}: the check is a function, not {type(check).__name__}",
            "pass a function of ctx that returns True or False",
            source=source,
        )
        check = _always
    return Rule(label=label, check=cast("Callable[..., Any]", check), source=source, negate=negate)


def _always(_ctx: RuleContext) -> bool:
    return True
