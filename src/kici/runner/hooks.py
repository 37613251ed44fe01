"""Hooks of steps, jobs and workflows: who is called when, and what their failure means (AG-53…57, AU-33)."""

import time

from msgspec import structs

from kici.protocol.runner_v1 import RunOutcome
from kici.runner import synccontext
from kici.runner.context import HookStepContext
from kici.runner.results import SUCCESS, Result
from kici.runner.rows import Rows
from kici.sdk.definitions import Hook, JobSettings, StepSettings, Workflow
from kici.sdk.results import Outcome
from kici.spec.states import JobStatus, StepStatus

_IN_CHECK_MODE = frozenset({"beforeStep", "afterStep", "cleanup"})


class Hooks:
    """Those of one job, or of one workflow. `failures` say which failed; they fail the job."""

    def __init__(self, rows: Rows) -> None:
        self.failures: list[str] = []
        self.failed_step: str | None = None
        self._rows = rows
        self._started_at = time.monotonic()

    async def before_step(self, settings: JobSettings, step: str, group_id: str | None) -> None:
        await self._observe("beforeStep", settings.before_step, step, group_id, SUCCESS)

    async def after_step(
        self, settings: JobSettings, step: str, group_id: str | None, result: Result
    ) -> None:
        await self._observe("afterStep", settings.after_step, step, group_id, result)

    async def step_ended(
        self,
        settings: StepSettings,
        step: str,
        group_id: str | None,
        result: Result,
        *,
        cancelled: bool,
    ) -> None:
        """The step's own: `on_cancel` when it was, `cleanup` in any case."""
        if cancelled:
            await self._run("onCancel", settings.on_cancel, step, group_id, result, to_its_end=True)
        await self._run("cleanup", settings.cleanup, step, group_id, result, to_its_end=True)

    async def job_succeeded(self, settings: JobSettings | Workflow, result: Result) -> None:
        await self._run("onSuccess", settings.on_success, None, None, result)

    async def job_failed(
        self, settings: JobSettings | Workflow, result: Result, *, to_its_end: bool = False
    ) -> None:
        await self._run("onFailure", settings.on_failure, None, None, result, to_its_end=to_its_end)

    async def job_cancelled(self, settings: JobSettings | Workflow, result: Result) -> None:
        await self._run("onCancel", settings.on_cancel, None, None, result, to_its_end=True)

    async def clean_up(self, settings: JobSettings | Workflow, result: Result) -> None:
        """Also after another hook failed; never after a forced stop."""
        await self._run("cleanup", settings.cleanup, None, None, result, to_its_end=True)

    async def _observe(
        self, kind: str, hook: Hook | None, step: str, group_id: str | None, result: Result
    ) -> None:
        """Their failure is only logged (AG-55)."""
        if hook is not None and self._rows.stop is None:
            await self._call(kind, hook, step, group_id, result, to_its_end=False)

    async def _run(
        self,
        kind: str,
        hook: Hook | None,
        step: str | None,
        group_id: str | None,
        result: Result,
        *,
        to_its_end: bool = False,
    ) -> None:
        if hook is None or self._rows.forced:
            return
        if self._rows.facts.checks_only and kind not in _IN_CHECK_MODE:
            return
        ended = await self._call(kind, hook, step, group_id, result, to_its_end=to_its_end)
        if ended.status == StepStatus.FAILED:
            self.failures.append(f"hook {_label(kind, step)} failed: {ended.error_message}")

    async def _call(
        self,
        kind: str,
        hook: Hook,
        step: str | None,
        group_id: str | None,
        result: Result,
        *,
        to_its_end: bool,
    ) -> Result:
        """`to_its_end`: a graceful stop does not reach the hook, its own time limit bounds it."""
        rows = self._rows
        index = rows.next_hook
        rows.next_hook += 1
        activity = rows.open(
            index, _label(kind, step), f"hook:{kind}", group_id=group_id, to_its_end=to_its_end
        )
        outcome = self._outcome(result)
        if step is None:
            outcome = self._with_failures(outcome)
        context = synccontext.adapted(hook.fn, activity, HookStepContext(activity, rows.facts, outcome))
        ended = await rows.attempt(activity, hook.fn, context, timeout_ms=hook.timeout_ms)
        rows.close(activity, ended)
        return ended

    def _with_failures(self, outcome: Outcome) -> Outcome:
        """What a job or workflow has come to when hooks before this one failed it."""
        if not self.failures or outcome.status not in {JobStatus.SUCCESS, JobStatus.FAILED}:
            return outcome
        reason = "; ".join([*filter(None, [outcome.reason]), *self.failures])
        return structs.replace(outcome, status=str(JobStatus.FAILED), reason=reason)

    def _outcome(self, result: Result) -> Outcome:
        run = self._rows.facts.execute.run_outcome
        if run is not None:
            return of_run(run)
        return Outcome(
            status=str(result.status),
            reason=result.error_message,
            failed_step=self.failed_step,
            step_outputs=dict(self._rows.facts.outputs),
            duration=time.monotonic() - self._started_at,
        )


def of_run(outcome: RunOutcome) -> Outcome:
    return Outcome(
        status=outcome.status,
        reason=outcome.reason,
        failed_job=outcome.failed_job,
        duration=outcome.duration_ms / 1_000,
        job_statuses=outcome.job_statuses,
    )


def _label(kind: str, step: str | None) -> str:
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind)
    return name if step is None else f"{name} ({step})"
