"""Caches that a job, a step or an init declares: each restore and save is a row of its own (AG-78).

Its `check_outcome` is hit, miss, saved, skipped or error. An error is a warning and fails nothing.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from kici.runner.activity import Activity
from kici.runner.cacheaccess import caches_of
from kici.runner.caches import label
from kici.runner.results import Result, StoppedError, stopped
from kici.runner.rows import Rows
from kici.sdk.definitions import Cache
from kici.spec.states import StepStatus

_RESTORE, _SAVE = "cache:restore", "cache:save"
_TIMEOUT_MS = 600_000
_NAME_CHARACTERS = 80


async def restore(
    rows: Rows,
    caches: Sequence[Cache],
    *,
    env: Mapping[str, str] | None = None,
    group_id: str | None = None,
) -> list[Cache]:
    """Bring them back, and return those that had no exact hit and are to be saved later."""
    return [
        cache
        for cache in caches
        if rows.stop is None and await _row(rows, _RESTORE, _restored, cache, env, group_id) != "hit"
    ]


async def save(
    rows: Rows,
    caches: Sequence[Cache],
    *,
    env: Mapping[str, str] | None = None,
    group_id: str | None = None,
) -> None:
    """Keep them; nothing happens in check mode (AU-49) or while the job is being stopped."""
    for cache in caches:
        if rows.stop is None and not rows.facts.checks_only:
            await _row(rows, _SAVE, _saved, cache, env, group_id)


async def _restored(activity: Activity, cache: Cache) -> str:
    files = caches_of(activity)
    found = await files.restore(cache)
    if not found.hit:
        return "miss"
    return "hit" if found.matched_key == files.key(cache.key) else "partial"


async def _saved(activity: Activity, cache: Cache) -> str:
    return "saved" if await caches_of(activity).save(cache) else "skipped"


async def _row(
    rows: Rows,
    kind: str,
    action: Callable[[Activity, Cache], Awaitable[str]],
    cache: Cache,
    env: Mapping[str, str] | None,
    group_id: str | None,
) -> str:
    """One row; what came of it."""
    index = rows.next_cache
    rows.next_cache += 1
    name = f"{kind} ({label(cache)})"[:_NAME_CHARACTERS]
    activity = rows.open(index, name, kind, env=env, group_id=group_id)
    try:
        outcome: str = await activity.call(action, activity, cache, timeout_ms=_TIMEOUT_MS)
        shown = "hit" if outcome == "partial" else outcome
        status = StepStatus.SKIPPED if outcome == "skipped" else StepStatus.SUCCESS
        result = Result(status=status, check_outcome=shown)
    except StoppedError as error:
        outcome = "error"
        result = stopped(error.stop)
        if error.stop.kind == "step_timeout":
            result = _warned(activity, error.stop.reason)
    except BaseException as error:
        outcome = "error"
        result = _warned(activity, str(error) or type(error).__name__)
    rows.close(activity, result)
    return outcome


def _warned(activity: Activity, message: str) -> Result:
    activity.print(f"\033[33mwarning: {message}\033[0m")
    return Result(status=StepStatus.SKIPPED, error_message=message, check_outcome="error")
