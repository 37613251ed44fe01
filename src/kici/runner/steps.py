"""One step, from its rules to its last hook: attempts, check mode, outputs, caches (AG-42, AU-30, AU-48)."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, structs

from kici.protocol.runner_v1 import RuleResult
from kici.runner import approvals, cacherows, drift, rules, synccontext, tracebacks
from kici.runner.activity import Activity
from kici.runner.context import StepContext
from kici.runner.hooks import Hooks
from kici.runner.invoke import ExitedError
from kici.runner.results import SUCCESS, Result, Stop, StoppedError, stopped
from kici.runner.rows import Rows
from kici.runner.values import LIMIT_BYTES, encode_output
from kici.sdk.calls import NotAwaitedError
from kici.sdk.definitions import FlatStep, JobSettings, Step
from kici.sdk.errors import (
    CapabilityMissingError,
    LimitExceededError,
    NotAvailableLocallyError,
    OutputError,
)
from kici.spec.durations import in_words
from kici.spec.states import StepStatus


class Siblings(Struct, kw_only=True):
    """Steps side by side: what runs of them now, and why the others must not begin any more."""

    running: set[Activity]
    abort: Stop | None = None

    def end(self, stop: Stop) -> None:
        self.abort = stop
        for activity in list(self.running):
            activity.stop(stop)


class Steps:
    """Runs steps of one job. `drifted` names those that would change something."""

    def __init__(self, rows: Rows, hooks: Hooks, settings: JobSettings) -> None:
        self.drifted: list[str] = []
        self._rows = rows
        self._hooks = hooks
        self._settings = settings
        self._output_bytes = 0

    async def run(
        self,
        flat: FlatStep,
        *,
        env: Mapping[str, str] | None = None,
        siblings: Siblings | None = None,
    ) -> Result:
        """`siblings`: of its parallel group, whose failure may end this step."""
        rows, step, settings = self._rows, flat.step, flat.step.settings
        name = step.name
        group_id = flat.group.name if flat.group else None
        judged: list[RuleResult] = []
        refused: str | None = None
        if settings.rules:
            try:
                verdict = await self._judge(flat, env, group_id)
            except StoppedError as error:
                result = stopped(error.stop)
                rows.skip(flat.index, name, StepStatus.CANCELLED)
                return result
            judged, refused = verdict.results, verdict.error
            if refused is None and not verdict.passed:
                rows.skip(flat.index, name, rules=judged)
                return Result(status=StepStatus.SKIPPED)
        if rows.facts.checks_only and settings.check is None and refused is None:
            rows.skip(flat.index, name, rules=judged, check_outcome="no_check")
            return Result(status=StepStatus.SKIPPED)
        if self._settings.before_step is not None:
            await self._hooks.before_step(self._settings, name, group_id)
        to_save = (
            await cacherows.restore(rows, settings.cache, env=env, group_id=group_id)
            if settings.cache
            else []
        )
        if siblings is not None and siblings.abort is not None:
            rows.skip(flat.index, name, StepStatus.CANCELLED, rules=judged)
            return stopped(siblings.abort)
        activity = rows.open(flat.index, name, "step", env=env, group_id=group_id)
        if siblings is not None:
            siblings.running.add(activity)
        if refused is None:
            result = await self._attempts(activity, step)
        else:
            activity.print(f"\033[31m{refused}\033[0m")
            result = Result(status=StepStatus.FAILED, error_message=refused)
        if siblings is not None:
            siblings.running.discard(activity)
        rows.close(activity, structs.replace(result, rules=judged) if judged else result)
        rows.facts.statuses[name] = result.status
        if result.has_output:
            rows.facts.outputs[name] = result.output
        if result.check_outcome == "would_change":
            self.drifted.append(name)
        if to_save and result.status == StepStatus.SUCCESS:
            await cacherows.save(rows, to_save, env=env, group_id=group_id)
        cancelled = result.stop is not None and result.stop.kind == "cancel"
        await self._hooks.step_ended(settings, name, group_id, result, cancelled=cancelled)
        if self._settings.after_step is not None:
            await self._hooks.after_step(self._settings, name, group_id, result)
        return result

    async def _judge(
        self, flat: FlatStep, env: Mapping[str, str] | None, group_id: str | None
    ) -> rules.Verdict:
        activity = self._rows.open_outside(f"rules of {flat.step.name}", env=env, group_id=group_id)
        try:
            return await rules.judge(flat.step.settings.rules, activity, self._rows.facts)
        finally:
            self._rows.close_outside(activity)

    async def _attempts(self, activity: Activity, step: Step[Any]) -> Result:
        retry = step.settings.retry
        attempt = 1
        while True:
            result, error = await self._attempt(activity, step)
            if (
                error is None
                or retry is None
                or attempt >= retry.attempts
                or self._rows.stop is not None
                or not self._may_retry(activity, retry.wants, error)
            ):
                return result
            wait_ms = retry.wait_ms(attempt)
            activity.print(
                f"Attempt {attempt} of {retry.attempts} failed: {result.error_message}. "
                f"The next one starts in {in_words(wait_ms)}."
            )
            stop = await activity.stopped_within(wait_ms / 1_000)
            if stop is not None:
                return stopped(stop)
            attempt += 1
            activity.retry(attempt)

    def _may_retry(self, activity: Activity, wants: Callable[[Exception], bool], error: Exception) -> bool:
        try:
            return wants(error)
        except Exception as broken:
            workspace = self._rows.services.execute.workspace
            activity.print(f"retry_if raised:\n{tracebacks.long_form(broken, workspace)}")
            return False

    async def _attempt(self, activity: Activity, step: Step[Any]) -> tuple[Result, Exception | None]:
        """The result, and the error when another attempt may be made because of it."""
        rows = self._rows
        try:
            return await self._perform(activity, step), None
        except StoppedError as error:
            result = rows.was_stopped(activity, error.stop)
            retriable = error.stop.kind == "step_timeout"
            return result, TimeoutError(error.stop.reason) if retriable else None
        except (NotAwaitedError, ExitedError, OutputError, LimitExceededError) as error:
            result = rows.failed(activity, error)
            return result, None if isinstance(error, NotAwaitedError) else error
        except approvals.NotApprovedError as error:
            return rows.failed(activity, error), None
        except Exception as error:
            return rows.failed(activity, error), error
        except BaseException as error:
            return rows.failed(activity, error), None

    async def _perform(self, activity: Activity, step: Step[Any]) -> Result:
        settings, facts = step.settings, self._rows.facts
        timeout_ms = settings.timeout_ms or facts.execute.default_step_timeout_ms
        named = self._parameters(step)
        approval = settings.approval
        if approval is not None and approval.when == "always" and not facts.checks_only:
            await activity.call(
                approvals.request, activity, approval, None, timeout_ms=approvals.wait_ms(approval)
            )
        if settings.check is not None:
            looked = await drift.run(step, settings.check, activity, facts, named, timeout_ms)
            return self._checked(step, looked)
        if settings.wait is not None:
            value = await drift.wait(step, settings.wait, activity, facts, named, timeout_ms)
        elif settings.restarts_host:
            raise _no_restart(is_local=facts.execute.is_local)
        else:
            context = synccontext.adapted(step.fn, activity, StepContext(activity, facts))
            value = await activity.call(step.fn, context, timeout_ms=timeout_ms, **named)
        return self._succeeded(step, value)

    def _parameters(self, step: Step[Any]) -> dict[str, Any]:
        """Bound values, then matrix values for keyword parameters of that name (AU-15)."""
        matrix = self._rows.services.execute.matrix
        named = dict(step.params)
        if matrix:
            for parameter in list(inspect.signature(step.fn).parameters.values())[1:]:
                if parameter.name in matrix and parameter.name not in named:
                    named[parameter.name] = matrix[parameter.name]
        return named

    def _checked(self, step: Step[Any], looked: drift.Looked) -> Result:
        """A step in sync did nothing: it is skipped, though it may have an output."""
        has_value = looked.outcome == "applied" or looked.value is not None
        result = self._succeeded(step, looked.value) if has_value else SUCCESS
        status = StepStatus.SKIPPED if looked.outcome == "in_sync" else StepStatus.SUCCESS
        return structs.replace(
            result, status=status, check_outcome=looked.outcome, drift_summary=looked.summary
        )

    def _succeeded(self, step: Step[Any], value: object) -> Result:
        try:
            annotation = step.returns
        except NameError as error:
            raise OutputError(
                f"the return type of step {step.name!r} cannot be resolved: {error}"
            ) from None
        if value is None and annotation is None:
            return SUCCESS
        output, size = encode_output(value, annotation, step=step.name)
        if value is None:
            return SUCCESS
        if self._output_bytes + size > LIMIT_BYTES:
            raise LimitExceededError(
                f"the output of step {step.name!r} is {size} bytes; all outputs of a job together may have "
                f"{LIMIT_BYTES}, and {self._output_bytes} are used. Put large results into files"
            )
        self._output_bytes += size
        return Result(status=StepStatus.SUCCESS, exit_code=0, output=output, has_output=True)


def _no_restart(*, is_local: bool) -> Exception:
    if is_local:
        return NotAvailableLocallyError("restart_host() is not available in a local run")
    return CapabilityMissingError("restart_host() is not available: this kici cannot restart hosts yet")
