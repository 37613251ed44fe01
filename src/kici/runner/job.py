"""One job from its rules to its last hook: order, failure policy, cancellation (AG-42, AG-53…57).

Every row ends with exactly one `StepEnded`; `run` returns the one `JobEnded`.
"""

import asyncio
from collections.abc import Sequence

from msgspec import Struct

from kici.protocol.runner_v1 import Interrupted, JobEnded, RuleResult
from kici.runner import cacherows, initialization, rules
from kici.runner.activity import Services
from kici.runner.facts import JobFacts
from kici.runner.hooks import Hooks
from kici.runner.results import SUCCESS, Result, Stop, StoppedError, stopped
from kici.runner.rows import Rows
from kici.runner.steps import Siblings, Steps
from kici.sdk.definitions import Cache, FlatStep, JobDefinition, ParallelGroup, flat_steps
from kici.spec.durations import in_words
from kici.spec.states import JobStatus, StepStatus


class _Failure(Struct, frozen=True, kw_only=True):
    """What failed the job: the row's result, and the whole sentence."""

    result: Result
    message: str | None


class JobRun:
    """Runs the steps of one job. `stop` may be called at any time on the event loop."""

    def __init__(self, services: Services, facts: JobFacts, job: JobDefinition) -> None:
        self._services = services
        self._facts = facts
        self._job = job
        self._settings = job.options
        self._rows = Rows(services, facts)
        self._hooks = Hooks(self._rows)
        self._steps = Steps(self._rows, self._hooks, self._settings)
        self._settled = False  # the outcome stands; what still runs is `cleanup`
        self._rules: list[RuleResult] = []
        self._skipped = False
        self._failure: _Failure | None = None

    def stop(self, stop: Stop) -> None:
        if stop.force or not self._settled:
            self._rows.end(stop)

    async def run(self) -> JobEnded:
        timer: asyncio.TimerHandle | None = None
        if self._settings.timeout_ms is not None:
            limit = Stop(
                kind="job_timeout", reason=f"the job timed out after {in_words(self._settings.timeout_ms)}"
            )
            timer = self._services.loop.call_later(self._settings.timeout_ms / 1_000, self.stop, limit)
        if self._services.execute.interrupted is not None:
            await self._take_over(self._services.execute.interrupted)
        else:
            await self._run_all()
        if not self._skipped:
            await self._run_job_hooks()
        if timer is not None:
            timer.cancel()
        return self._ended()

    async def _run_all(self) -> None:
        """Rules, init, caches, steps. What is not reached is skipped."""
        settings, to_save = self._settings, list[Cache]()
        if settings.rules[self._services.execute.rules_from :]:
            await self._judge()
        if settings.init and self._goes_on:
            await self._prepare()
        if settings.cache and self._goes_on:
            to_save = await cacherows.restore(self._rows, settings.cache)
        await self._run_steps()
        if self._steps.drifted and self._services.execute.check_mode == "check-fail-on-drift":
            self._found_drift()
        if to_save and self._goes_on:
            await cacherows.save(self._rows, to_save)

    @property
    def _goes_on(self) -> bool:
        return self._rows.stop is None and self._failure is None and not self._skipped

    # ── before the steps ────────────────────────────────────────────────────────────────────────

    async def _judge(self) -> None:
        """Those rules that were not decided before dispatch (AU-34)."""
        activity = self._rows.open_outside("rules")
        try:
            verdict = await rules.judge(
                self._settings.rules[self._services.execute.rules_from :], activity, self._facts
            )
        except StoppedError:
            return  # by the job's own stop, which tells the rest
        finally:
            self._rows.close_outside(activity)
        self._rules = verdict.results
        if verdict.error is not None:
            failed = Result(status=StepStatus.FAILED, error_message=verdict.error)
            self._failure = _Failure(result=failed, message=verdict.error)
        self._skipped = verdict.error is None and not verdict.passed

    async def _prepare(self) -> None:
        for number, entry in enumerate(self._settings.init):
            result = await initialization.run(self._rows, number, entry)
            if result.status == StepStatus.FAILED and self._failure is None:
                message = f"{initialization.name(number)} failed: {result.error_message}"
                self._failure = _Failure(result=result, message=message)
            if not self._goes_on:
                return

    def _found_drift(self) -> None:
        if self._goes_on:
            names = ", ".join(repr(name) for name in self._steps.drifted)
            message = f"drift found: {names} would change"
            result = Result(status=StepStatus.FAILED, error_message=message)
            self._failure = _Failure(result=result, message=message)

    # ── steps ───────────────────────────────────────────────────────────────────────────────────

    async def _run_steps(self) -> None:
        steps = list(flat_steps(self._job.steps))
        for entry in self._job.steps:
            flat = [step for step in steps if step.step is entry or step.group is entry]
            wanted = [step for step in flat if self._goes_on and self._is_asked_for(step)]
            for step in flat:
                if step not in wanted:
                    self._rows.skip(step.index, step.step.name)
            if wanted and isinstance(entry, ParallelGroup):
                await self._run_group(entry, wanted)
            elif wanted:
                self._judge_step(wanted[0], await self._steps.run(wanted[0]))

    def _is_asked_for(self, flat: FlatStep) -> bool:
        only = self._services.execute.only_steps
        return not only or flat.step.name in only

    def _judge_step(self, flat: FlatStep, result: Result) -> bool:
        """Whether it failed in a way that fails the job."""
        failed = result.status == StepStatus.FAILED and not flat.step.settings.continue_on_error
        if failed and self._failure is None:
            self._hooks.failed_step = flat.step.name
            message = f"step {flat.step.name!r} failed: {result.error_message}"
            self._failure = _Failure(result=result, message=message)
        return failed

    async def _take_over(self, left: Interrupted) -> None:
        """Steps as an earlier runner left them, with the hooks of those it died in."""
        self._rows.next_hook = left.next_hook
        self._facts.outputs.update(left.outputs)
        if left.cancelled:
            self._rows.stop = Stop(kind="cancel", reason=left.reason)
        else:
            failed = Result(status=StepStatus.FAILED, error_message=left.reason)
            self._failure = _Failure(result=failed, message=left.reason)
        for flat in flat_steps(self._job.steps):
            name = flat.step.name
            if flat.index not in left.steps:
                self._rows.skip(flat.index, name)
                continue
            self._facts.statuses[name] = left.steps[flat.index]
            if flat.index in left.running:
                if not left.cancelled:
                    self._hooks.failed_step = self._hooks.failed_step or name
                await self._hooks.step_ended(
                    flat.step.settings, name, None, self._result(), cancelled=left.cancelled
                )

    async def _run_group(self, group: ParallelGroup, steps: Sequence[FlatStep]) -> None:
        places = asyncio.Semaphore(group.max_parallel or len(steps))
        siblings = Siblings(running=set())
        env = dict(self._rows.env)

        async def child(flat: FlatStep) -> None:
            async with places:
                if siblings.abort is not None or self._rows.stop is not None:
                    self._rows.skip(flat.index, flat.step.name, StepStatus.CANCELLED)
                    return
                result = await self._steps.run(flat, env=env, siblings=siblings)
            if self._judge_step(flat, result) and group.fail_fast and siblings.abort is None:
                reason = f"step {flat.step.name!r} beside it failed"
                siblings.end(Stop(kind="fail_fast", reason=reason))

        stop_following = self._services.stdio.follow_scopes()
        try:
            async with asyncio.TaskGroup() as tasks:
                for flat in steps:
                    tasks.create_task(child(flat), name=flat.step.name)
        finally:
            stop_following()

    # ── the end ─────────────────────────────────────────────────────────────────────────────────

    async def _run_job_hooks(self) -> None:
        """AG-54. A hook that fails skips what is left of its level, but never `cleanup`."""
        settings, hooks, rows = self._settings, self._hooks, self._rows
        if rows.stop is None:
            if self._failure is not None or hooks.failures:
                await hooks.job_failed(settings, self._result())
            else:
                await hooks.job_succeeded(settings, self._result())
            self._settled = rows.stop is None
        elif rows.stop.kind == "job_timeout":
            await hooks.job_failed(settings, self._result(), to_its_end=True)
        if rows.stop is not None and rows.stop.kind == "cancel":
            await hooks.job_cancelled(settings, self._result())
        await hooks.clean_up(settings, self._result())

    def _result(self) -> Result:
        """How the job stands, as its hooks see it."""
        if self._rows.stop is not None:
            return stopped(self._rows.stop)
        return SUCCESS if self._failure is None else self._failure.result

    def _ended(self) -> JobEnded:
        stop, failure = self._rows.stop, self._failure
        if stop is not None and stop.kind == "job_timeout":
            status, message, timeout = JobStatus.FAILED, stop.reason, "job_timeout"
        elif stop is not None:
            status, message, timeout = JobStatus.CANCELLED, stop.reason, None
        elif failure is not None:
            status, message, timeout = JobStatus.FAILED, failure.message, failure.result.timeout_reason
        elif self._skipped:
            status, message, timeout = JobStatus.SKIPPED, None, None
        else:
            status, message, timeout = JobStatus.SUCCESS, None, None
        if self._hooks.failures and not self._rows.forced:
            status = JobStatus.FAILED
            message = "; ".join([*filter(None, [message]), *self._hooks.failures])
        return JobEnded(
            status=status,
            error_message=message,
            timeout_reason=timeout,
            rules=self._rules,
            drifted=bool(self._steps.drifted),
        )
