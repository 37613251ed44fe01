"""What prepares a job after the clone and before its steps: scripts and toolchains (AU-57, AG-48).

Each is a row `init:<n>`. What it exports is seen by the next and by all steps.
"""

from kici.runner import cacherows
from kici.runner.activity import Activity
from kici.runner.context import StepContext
from kici.runner.presets import Plan, plan_of
from kici.runner.results import Result, StoppedError
from kici.runner.rows import Rows
from kici.sdk.definitions import Cache, Init, Preset
from kici.sdk.values import duration_ms
from kici.spec.ids import INIT_STEPS
from kici.spec.states import StepStatus


def name(number: int) -> str:
    return f"init:{number}"


async def run(rows: Rows, number: int, entry: Init | Preset) -> Result:
    """One entry: its cache restored, its commands, its cache saved. Anything but success ends the job."""
    environment = {**rows.env, **entry.env}
    plan = plan_of(entry, environment, rows.services.execute.workspace, rows.services.execute.uv)
    caches = [plan.cache] if isinstance(plan.cache, Cache) else []
    to_save = await cacherows.restore(rows, caches, env=environment) if caches else []
    activity = rows.open(INIT_STEPS + number, name(number), "init", env=environment)
    try:
        await activity.call(_commands, plan, activity, rows, timeout_ms=duration_ms(entry.timeout))
        result = Result(status=StepStatus.SUCCESS, exit_code=0)
    except StoppedError as error:
        result = rows.was_stopped(activity, error.stop)
    except BaseException as error:
        result = rows.failed(activity, error)
    rows.close(activity, result)
    if to_save and result.status == StepStatus.SUCCESS:
        await cacherows.save(rows, to_save, env=environment)
    return result


async def _commands(plan: Plan, activity: Activity, rows: Rows) -> None:
    context = StepContext(activity, rows.facts)
    for line in plan.notes:
        activity.print(line)
    for argv in plan.commands:
        await context.run(*argv)
    for key, value in plan.exports.items():
        context.set_env(key, value)
    for directory in plan.paths:
        context.add_path(directory)
