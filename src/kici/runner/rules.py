"""Rules: whether a workflow, a job or a step runs (AU-34). In order, up to the first that says no."""

import time
from collections.abc import Sequence

from msgspec import Struct

from kici.protocol.runner_v1 import RuleResult
from kici.runner import synccontext, tracebacks
from kici.runner.activity import Activity
from kici.runner.context import RuleStepContext
from kici.runner.facts import JobFacts
from kici.runner.results import StoppedError
from kici.sdk.definitions import Rule

RULE_MS = 60_000


class Verdict(Struct, frozen=True, kw_only=True):
    """`error` is set when a rule raised: then the element fails."""

    results: list[RuleResult]
    passed: bool
    error: str | None = None


async def judge(rules: Sequence[Rule], activity: Activity, facts: JobFacts) -> Verdict:
    """Evaluates inside `activity`, whose log has the traceback of a rule that raises.

    Raises StoppedError when the job is stopped meanwhile.
    """
    results: list[RuleResult] = []
    for rule in rules:
        started = time.monotonic()
        error: str | None = None
        passed = False
        context = synccontext.adapted(rule.check, activity, RuleStepContext(activity, facts))
        try:
            said = await activity.call(rule.check, context, timeout_ms=RULE_MS)
            passed = bool(said) is not rule.negate
        except StoppedError as stopped:
            if stopped.stop.kind != "step_timeout":
                raise
            error = stopped.stop.reason
        except BaseException as raised:
            workspace = facts.execute.workspace
            activity.print(
                f"\033[31mrule {rule.label!r} failed:\n"
                f"{tracebacks.long_form(raised, workspace).rstrip()}\033[0m"
            )
            error = tracebacks.short_form(raised, workspace)
        results.append(
            RuleResult(
                label=rule.label,
                passed=passed,
                duration_ms=round((time.monotonic() - started) * 1_000),
                error=error,
            )
        )
        if error is not None:
            return Verdict(results=results, passed=False, error=f"rule {rule.label!r} failed: {error}")
        if not passed:
            break
    return Verdict(results=results, passed=all(result.passed for result in results))
