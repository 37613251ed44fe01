"""What rules come to that can be decided without author code (AU-34, AU-41). Pure."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from kici.engine.expressions import ExpressionError, Fields, evaluate
from kici.spec.lock import Rule

Verdict = Literal["run", "skip", "fail"]


class RuleDecision(Struct, frozen=True, kw_only=True, rename="camel"):
    """One rule, as it is stored and shown. Deciding takes no time worth telling."""

    label: str
    passed: bool
    duration_ms: int = 0
    error: str | None = None


class Decision(Struct, frozen=True, kw_only=True):
    """`undecided`: index of the first rule that only author code can tell; the number of rules when there is
    none, or when it no longer matters. `message`: why not, for people."""

    verdict: Verdict
    results: tuple[RuleDecision, ...] = ()
    undecided: int = 0
    message: str | None = None


UNRULED = Decision(verdict="run")


def decide(rules: Sequence[Rule], scope: Fields) -> Decision:
    """The leading pure rules, in order, up to the first that says no, fails, or is not pure."""
    results: list[RuleDecision] = []
    for index, rule in enumerate(rules):
        if rule.inline is None:
            return Decision(verdict="run", results=tuple(results), undecided=index)
        try:
            passed = bool(evaluate(rule.inline.expression, scope)) is not rule.negate
        except ExpressionError as error:
            results.append(RuleDecision(label=rule.label, passed=False, error=str(error)))
            return Decision(
                verdict="fail",
                results=tuple(results),
                undecided=len(rules),
                message=f"rule '{rule.label}' failed: {error}",
            )
        results.append(RuleDecision(label=rule.label, passed=passed))
        if not passed:
            return Decision(
                verdict="skip",
                results=tuple(results),
                undecided=len(rules),
                message=f"rule '{rule.label}' said no",
            )
    return Decision(verdict="run", results=tuple(results), undecided=len(rules))
