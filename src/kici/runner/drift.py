"""Steps that look before they change anything (AU-48), and those that only wait (AU-50).

| mode | drift found | in sync | step without `check` |
|---|---|---|---|
| apply | `applied` | `in_sync`, skipped | runs |
| check, check-fail-on-drift | `would_change` | `in_sync`, skipped | `no_check`, skipped |
"""

from typing import Any

from msgspec import Struct, structs

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


class Looked(Struct, frozen=True, kw_only=True):
    """What a check run came to: `outcome` and `summary` as `StepEnded` has them. `drift` is left to apply."""

    outcome: str
    value: Any = None
    summary: str | None = None
    drift: Any = None


async def run(
    step: Step[Any], facet: CheckFacet, activity: Activity, facts: JobFacts, named: dict[str, Any], ms: int
) -> Looked:
    """Look, and change what differs unless this is a check run, within `ms`. People who must approve the drift
    are waited for in between; then each half has the time limit to itself."""
    context = StepContext(activity, facts)
    approval = step.settings.approval
    needs_approval = approval is not None and approval.when == "drift" and not facts.checks_only

    async def apply(found: Looked) -> Looked:
        activity.print(f"Changing:\n{found.summary}")
        value = await invoke(step.fn, synccontext.adapted(step.fn, activity, context), found.drift, **named)
        return structs.replace(found, outcome="applied", value=value)

    async def body() -> Looked:
        found = await _look(facet, activity, context)
        if found.outcome == "in_sync" or needs_approval:
            return found
        if facts.checks_only:
            activity.print(f"Would change:\n{found.summary}")
            return found
        return await apply(found)

    found: Looked = await activity.call(body, timeout_ms=ms)
    if approval is not None and needs_approval and found.outcome == "would_change":
        limit_ms = approvals.wait_ms(approval)
        await activity.call(approvals.request, activity, approval, found.summary, timeout_ms=limit_ms)
        found = await activity.call(apply, found, timeout_ms=ms)
    return found


async def _look(facet: CheckFacet, activity: Activity, context: StepContext) -> Looked:
    drift = await invoke(facet.check, synccontext.adapted(facet.check, activity, context))
    if drift is None:
        activity.print("In sync")
        fn = facet.when_in_sync
        value = None if fn is None else await invoke(fn, synccontext.adapted(fn, activity, context))
        return Looked(outcome="in_sync", value=value)
    summary = await invoke(facet.summarize, drift)
    return Looked(outcome="would_change", drift=drift, summary=cut(str(summary), DRIFT_BYTES))


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
