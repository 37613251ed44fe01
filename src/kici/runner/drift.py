"""Steps that look before they change anything (AU-48), and those that only wait (AU-50).

| mode | drift found | in sync | step without `check` |
|---|---|---|---|
| apply | `applied` | `in_sync`, skipped | runs |
| check, check-fail-on-drift | `would_change` | `in_sync`, skipped | `no_check`, skipped |
"""

from typing import Any

from msgspec import Struct

from kici.runner import approvals, synccontext
from kici.runner.activity import Activity
from kici.runner.context import StepContext
from kici.runner.facts import JobFacts
from kici.runner.invoke import invoke
from kici.runner.scrubbing import DRIFT_BYTES, cut
from kici.sdk import mode
from kici.sdk.definitions import CheckFacet, Step, WaitFacet
from kici.sdk.errors import WaitForTimeoutError
from kici.sdk.waits import poll


class Checked(Struct, frozen=True, kw_only=True):
    """What a look came to: `drift` is what the author's function said, None in sync."""

    drift: Any
    summary: str | None


async def run(
    step: Step[Any], facet: CheckFacet, activity: Activity, facts: JobFacts, named: dict[str, Any], ms: int
) -> tuple[Any, str, str | None]:
    """(the step's value, its check outcome, its drift summary). Each of its parts has the time limit `ms`."""
    context = StepContext(activity, facts)
    found = await activity.call(_look, facet, activity, context, timeout_ms=ms)
    if found.drift is None:
        activity.print("In sync")
        value = None
        if facet.when_in_sync is not None:
            fn = facet.when_in_sync
            value = await activity.call(fn, synccontext.adapted(fn, activity, context), timeout_ms=ms)
        return value, "in_sync", None
    if facts.checks_only:
        activity.print(f"Would change:\n{found.summary}")
        return None, "would_change", found.summary
    approval = step.settings.approval
    if approval is not None and approval.when == "drift":
        await activity.call(
            approvals.request, activity, approval, found.summary, timeout_ms=approvals.wait_ms(approval)
        )
    activity.print(f"Changing:\n{found.summary}")
    context = synccontext.adapted(step.fn, activity, context)
    value = await activity.call(step.fn, context, found.drift, timeout_ms=ms, **named)
    return value, "applied", found.summary


async def _look(facet: CheckFacet, activity: Activity, context: StepContext) -> Checked:
    drift = await invoke(facet.check, synccontext.adapted(facet.check, activity, context))
    if drift is None:
        return Checked(drift=None, summary=None)
    summary = await invoke(facet.summarize, drift)
    return Checked(drift=drift, summary=cut(str(summary), DRIFT_BYTES))


async def wait(
    step: Step[Any], facet: WaitFacet, activity: Activity, facts: JobFacts, named: dict[str, Any], ms: int
) -> Any:
    """The first value that the step's function gives; a check that hangs is cancelled at the deadline."""
    context = synccontext.adapted(step.fn, activity, StepContext(activity, facts))

    async def body() -> Any:
        try:
            return await poll(lambda: invoke(step.fn, context, **named), step.name, facet)
        except WaitForTimeoutError as late:
            if facet.on_timeout is None:
                raise
            return await invoke(facet.on_timeout, late)

    ms = max(ms, facet.initial_delay_ms + facet.timeout_ms + ms)
    return await activity.call(body, timeout_ms=ms)


def note_mode(facts: JobFacts) -> None:
    """For `kici.sdk.waits.idempotent` inside of steps; contexts of activities inherit it."""
    if facts.checks_only:
        mode.current.set(facts.execute.check_mode)  # pyright: ignore[reportArgumentType]
