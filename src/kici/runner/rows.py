"""The rows of one job: opened, closed and stopped in one place, so that each ends exactly once.

What a row exports, later rows see.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

from kici.protocol.runner_v1 import RuleResult, StepEnded
from kici.runner import envfiles, tracebacks
from kici.runner.activity import Activity, Services
from kici.runner.facts import JobFacts
from kici.runner.invoke import ExitedError
from kici.runner.results import SUCCESS, Result, Stop, StoppedError, stopped
from kici.sdk.errors import CommandError
from kici.spec.ids import CACHE_STEPS, HOOK_STEPS, PREPARE_STEP
from kici.spec.states import StepStatus

_KILLED = 128 + 9


class Rows:
    """`stop` is why the job must end, None while it need not."""

    def __init__(self, services: Services, facts: JobFacts) -> None:
        self.services = services
        self.facts = facts
        self.env = dict(services.execute.env)
        self.stop: Stop | None = None
        self.next_hook = HOOK_STEPS
        self.next_cache = CACHE_STEPS
        self._active: set[Activity] = set()

    @property
    def forced(self) -> bool:
        return self.stop is not None and self.stop.force

    def end(self, stop: Stop) -> None:
        """Stop what runs and refuse what would begin. A forced stop overtakes a graceful one."""
        if self.stop is None or stop.force:
            self.stop = stop
        for activity in list(self._active):
            if stop.force or not activity.runs_to_its_end:
                activity.stop(stop)

    def open(
        self,
        index: int,
        name: str,
        step_type: str,
        *,
        env: Mapping[str, str] | None = None,
        group_id: str | None = None,
        to_its_end: bool = False,
    ) -> Activity:
        """`to_its_end`: a graceful stop does not reach it, its own time limit bounds it."""
        activity = Activity(
            self.services,
            index=index,
            name=name,
            step_type=step_type,
            env=dict(self.env if env is None else env),
            group_id=group_id,
            runs_to_its_end=to_its_end,
        )
        activity.open()
        self._begin(activity)
        return activity

    def open_outside(
        self, name: str, *, env: Mapping[str, str] | None = None, group_id: str | None = None
    ) -> Activity:
        """Author code without a row; give it to `close_outside`."""
        activity = Activity(
            self.services,
            index=PREPARE_STEP,
            name=name,
            step_type="outside",
            env=dict(self.env if env is None else env),
            group_id=group_id,
        )
        activity.open_outside()
        self._begin(activity)
        return activity

    def _begin(self, activity: Activity) -> None:
        self._active.add(activity)
        if self.stop is not None and (self.stop.force or not activity.runs_to_its_end):
            activity.stop(self.stop)

    def close(self, activity: Activity, result: Result) -> None:
        self._active.discard(activity)
        self.env.update(activity.exports)
        if activity.added_paths:
            self.env["PATH"] = envfiles.with_path(self.env, activity.added_paths)
        activity.close(result)

    def close_outside(self, activity: Activity) -> None:
        self._active.discard(activity)
        activity.close_outside()

    def skip(
        self,
        index: int,
        name: str,
        status: StepStatus = StepStatus.SKIPPED,
        *,
        rules: list[RuleResult] | None = None,
        check_outcome: str | None = None,
    ) -> None:
        """A step that never began."""
        self.facts.statuses[name] = status
        self.services.link.send(
            StepEnded(
                step_index=index,
                step_name=name,
                step_type="step",
                status=status,
                timestamp_ms=time.time_ns() // 1_000_000,
                duration_ms=0,
                rules=rules or [],
                check_outcome=check_outcome,
            )
        )

    async def attempt(
        self, activity: Activity, fn: Callable[..., Any], *arguments: Any, timeout_ms: int
    ) -> Result:
        """One call whose value does not matter, with whatever it raises made a result."""
        try:
            await activity.call(fn, *arguments, timeout_ms=timeout_ms)
        except StoppedError as error:
            return self.was_stopped(activity, error.stop)
        except BaseException as error:
            return self.failed(activity, error)
        return SUCCESS

    def was_stopped(self, activity: Activity, stop: Stop) -> Result:
        """And says so in the row."""
        result = stopped(stop)
        activity.print(f"\033[31m{result.error_message}\033[0m")
        return result

    def failed(self, activity: Activity, error: BaseException) -> Result:
        """What the row shows of the error, and the result that it makes."""
        workspace = self.services.execute.workspace
        text = tracebacks.long_form(error, workspace)
        message = tracebacks.short_form(error, workspace)
        match error:
            case CommandError():
                text = text.replace("".join(f"\n  {line}" for line in error.stderr_tail), "", 1)  # is above
                code = error.returncode if error.returncode >= 0 else 128 - error.returncode
                want = self.services.oom_kills.since() if code == _KILLED else None
                if want is not None:
                    message = f"the kernel killed a command: {want}. {message}"
            case ExitedError():
                code = error.exit_code
            case _:
                code = 1
        activity.print(f"\033[31m{text.rstrip()}\033[0m")
        return Result(status=StepStatus.FAILED, exit_code=code, error_message=message)
