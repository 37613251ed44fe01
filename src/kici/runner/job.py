"""One job from its first step to its last hook: order, failure policy, cancellation (AG-42, AG-53…57).

Every step and hook ends with exactly one `StepEnded`; `run` returns the one `JobEnded`.
"""

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from kici.protocol.runner_v1 import Interrupted, JobEnded, StepEnded
from kici.runner import envfiles, tracebacks
from kici.runner.activity import Activity, ExitedError, NotAwaitedError, Services, Stop, StoppedError
from kici.runner.context import HookStepContext, JobFacts, StepContext
from kici.runner.values import LIMIT_BYTES, encode_output
from kici.sdk.context import Outcome
from kici.sdk.definitions import FlatStep, Hook, ParallelGroup, Step, flat_steps
from kici.sdk.errors import CommandError, LimitExceededError, OutputError
from kici.spec.ids import HOOK_STEPS
from kici.spec.states import JobStatus, StepStatus

_KILLED = 128 + 9


class _Result(Struct, frozen=True, kw_only=True):
    """How a step or hook went."""

    status: StepStatus
    exit_code: int | None = None
    error_message: str | None = None
    stop: Stop | None = None
    output: Any = None
    has_output: bool = False

    @property
    def timeout_reason(self) -> str | None:
        kind = self.stop.kind if self.stop else None
        return kind if kind in {"step_timeout", "job_timeout"} else None


_SUCCESS = _Result(status=StepStatus.SUCCESS, exit_code=0)


class JobRun:
    """Runs the steps of one job. `stop` may be called at any time on the event loop."""

    def __init__(self, services: Services, facts: JobFacts) -> None:
        self._services = services
        self._facts = facts
        self._settings = facts.job.options
        self._env = dict(services.execute.env)
        self._started_at = time.monotonic()
        self._stop: Stop | None = None
        self._active: set[Activity] = set()
        self._settled = False  # the outcome stands; what still runs is `cleanup`
        self._next_hook = HOOK_STEPS
        self._output_bytes = 0
        self._failed_step: str | None = None
        self._failure: _Result | None = None
        self._hook_failures: list[str] = []

    def stop(self, stop: Stop) -> None:
        if self._settled and not stop.force:
            return
        if self._stop is None or stop.force:
            self._stop = stop
        for activity in list(self._active):
            if stop.force or not activity.runs_to_its_end:
                activity.stop(stop)

    async def run(self) -> JobEnded:
        timer: asyncio.TimerHandle | None = None
        if self._settings.timeout_ms is not None:
            limit = Stop(
                kind="job_timeout", reason=f"the job timed out after {self._settings.timeout_ms / 1000:g} s"
            )
            timer = self._services.loop.call_later(self._settings.timeout_ms / 1_000, self.stop, limit)
        if self._services.execute.interrupted is None:
            await self._run_steps()
        else:
            await self._take_over(self._services.execute.interrupted)
        await self._run_job_hooks()
        if timer is not None:
            timer.cancel()
        return self._ended()

    # ── steps ───────────────────────────────────────────────────────────────────────────────────

    async def _run_steps(self) -> None:
        steps = list(flat_steps(self._facts.job.steps))
        for entry in self._facts.job.steps:
            flat = [step for step in steps if step.step is entry or step.group is entry]
            if self._stop is not None or self._failure is not None:
                for step in flat:
                    self._skip(step)
            elif isinstance(entry, ParallelGroup):
                await self._run_group(entry, flat)
            else:
                await self._run_step(flat[0])

    async def _take_over(self, left: Interrupted) -> None:
        """Steps as an earlier runner left them, with the hooks of those it died in."""
        self._next_hook = left.next_hook
        self._facts.outputs.update(left.outputs)
        if left.cancelled:
            self._stop = Stop(kind="cancel", reason=left.reason)
        else:
            self._failure = _Result(status=StepStatus.FAILED, error_message=left.reason)
        for flat in flat_steps(self._facts.job.steps):
            name, settings = flat.step.name, flat.step.settings
            if flat.index not in left.steps:
                self._skip(flat)
                continue
            self._facts.statuses[name] = left.steps[flat.index]
            if flat.index in left.running:
                result = self._job_result()
                if left.cancelled:
                    await self._run_hook(
                        "onCancel", settings.on_cancel, name, None, result, to_its_end=True
                    )
                else:
                    self._failed_step = self._failed_step or name
                await self._run_hook("cleanup", settings.cleanup, name, None, result, to_its_end=True)

    async def _run_group(self, group: ParallelGroup, steps: Sequence[FlatStep]) -> None:
        places = asyncio.Semaphore(group.max_parallel or len(steps))
        running: set[Activity] = set()
        abort: list[Stop] = []
        env = dict(self._env)

        async def child(flat: FlatStep) -> None:
            async with places:
                if abort or self._stop is not None:
                    self._skip(flat, StepStatus.CANCELLED)
                    return
                failed = await self._run_step(flat, env=env, siblings=running)
            if failed and group.fail_fast and not abort:
                abort.append(Stop(kind="fail_fast", reason=f"step {flat.step.name!r} beside it failed"))
                for activity in list(running):
                    activity.stop(abort[0])

        stop_following = self._services.stdio.follow_scopes()
        try:
            async with asyncio.TaskGroup() as tasks:
                for flat in steps:
                    tasks.create_task(child(flat), name=flat.step.name)
        finally:
            stop_following()

    async def _run_step(
        self,
        flat: FlatStep,
        *,
        env: Mapping[str, str] | None = None,
        siblings: set[Activity] | None = None,
    ) -> bool:
        """Whether it failed in a way that fails the job."""
        step, settings = flat.step, flat.step.settings
        group_id = flat.group.name if flat.group else None
        await self._observe("beforeStep", self._settings.before_step, step.name, group_id, _SUCCESS)
        activity = self._open(flat.index, step.name, "step", env=env, group_id=group_id)
        if siblings is not None:
            siblings.add(activity)
        result = await self._attempts(activity, step)
        if siblings is not None:
            siblings.discard(activity)
        self._close(activity, result)
        self._facts.statuses[step.name] = result.status
        if result.has_output:
            self._facts.outputs[step.name] = result.output
        if result.stop is not None and result.stop.kind == "cancel":
            await self._run_hook(
                "onCancel", settings.on_cancel, step.name, group_id, result, to_its_end=True
            )
        await self._run_hook("cleanup", settings.cleanup, step.name, group_id, result, to_its_end=True)
        await self._observe("afterStep", self._settings.after_step, step.name, group_id, result)
        failed = result.status == StepStatus.FAILED and not settings.continue_on_error
        if failed and self._failure is None:
            self._failed_step, self._failure = step.name, result
        return failed

    async def _attempts(self, activity: Activity, step: Step[Any]) -> _Result:
        retry = step.settings.retry
        attempt = 1
        while True:
            result, error = await self._attempt(activity, step)
            if (
                error is None
                or retry is None
                or attempt >= retry.attempts
                or self._stop is not None
                or not self._may_retry(activity, retry.wants, error)
            ):
                return result
            wait_ms = retry.wait_ms(attempt)
            activity.print(
                f"Attempt {attempt} of {retry.attempts} failed: {result.error_message}. "
                f"The next one starts in {wait_ms / 1_000:g} s."
            )
            stop = await activity.stopped_within(wait_ms / 1_000)
            if stop is not None:
                return _stopped(stop)
            attempt += 1
            activity.retry(attempt)

    def _may_retry(self, activity: Activity, wants: Callable[[Exception], bool], error: Exception) -> bool:
        try:
            return wants(error)
        except Exception as broken:
            activity.print(
                f"retry_if raised:\n{tracebacks.long_form(broken, self._services.execute.workspace)}"
            )
            return False

    async def _attempt(self, activity: Activity, step: Step[Any]) -> tuple[_Result, Exception | None]:
        """The result, and the error when another attempt may be made because of it."""
        timeout_ms = step.settings.timeout_ms or self._services.execute.default_step_timeout_ms
        try:
            named = self._parameters(step)
            value = await activity.call(
                step.fn, StepContext(activity, self._facts), timeout_ms=timeout_ms, **named
            )
            return self._succeeded(step, value), None
        except StoppedError as stopped:
            result = _stopped(stopped.stop)
            activity.print(f"\033[31m{result.error_message}\033[0m")
            retriable = stopped.stop.kind == "step_timeout"
            return result, TimeoutError(stopped.stop.reason) if retriable else None
        except (NotAwaitedError, ExitedError, OutputError, LimitExceededError) as error:
            result = self._failed(activity, error)
            return result, None if isinstance(error, NotAwaitedError) else error
        except Exception as error:
            return self._failed(activity, error), error
        except BaseException as error:
            return self._failed(activity, error), None

    def _parameters(self, step: Step[Any]) -> dict[str, Any]:
        """Bound values, then matrix values for keyword parameters of that name (AU-15)."""
        matrix = self._services.execute.matrix
        named = dict(step.params)
        if matrix:
            for parameter in list(inspect.signature(step.fn).parameters.values())[1:]:
                if parameter.name in matrix and parameter.name not in named:
                    named[parameter.name] = matrix[parameter.name]
        return named

    def _succeeded(self, step: Step[Any], value: object) -> _Result:
        try:
            annotation = step.returns
        except NameError as error:
            raise OutputError(
                f"the return type of step {step.name!r} cannot be resolved: {error}"
            ) from None
        if value is None and annotation is None:
            return _SUCCESS
        output, size = encode_output(value, annotation, step=step.name)
        if value is None:
            return _SUCCESS
        if self._output_bytes + size > LIMIT_BYTES:
            raise LimitExceededError(
                f"the output of step {step.name!r} is {size} bytes; all outputs of a job together may have "
                f"{LIMIT_BYTES}, and {self._output_bytes} are used. Put large results into files"
            )
        self._output_bytes += size
        return _Result(status=StepStatus.SUCCESS, exit_code=0, output=output, has_output=True)

    def _failed(self, activity: Activity, error: BaseException) -> _Result:
        workspace = self._services.execute.workspace
        text = tracebacks.long_form(error, workspace)
        message = tracebacks.short_form(error, workspace)
        match error:
            case CommandError():
                text = text.replace("".join(f"\n  {line}" for line in error.stderr_tail), "", 1)  # is above
                code = error.returncode if error.returncode >= 0 else 128 - error.returncode
                want = self._services.oom_kills.since() if code == _KILLED else None
                if want is not None:
                    message = f"the kernel killed a command: {want}. {message}"
            case ExitedError():
                code = error.exit_code
            case _:
                code = 1
        activity.print(f"\033[31m{text.rstrip()}\033[0m")
        return _Result(
            status=StepStatus.FAILED,
            exit_code=code,
            error_message=message,
        )

    def _skip(self, flat: FlatStep, status: StepStatus = StepStatus.SKIPPED) -> None:
        self._facts.statuses[flat.step.name] = status
        self._services.link.send(
            StepEnded(
                step_index=flat.index,
                step_name=flat.step.name,
                step_type="step",
                status=status,
                timestamp_ms=time.time_ns() // 1_000_000,
                duration_ms=0,
            )
        )

    # ── hooks ───────────────────────────────────────────────────────────────────────────────────

    async def _run_job_hooks(self) -> None:
        """AG-54. A hook that fails skips what is left of its level, but never `cleanup`."""
        settings = self._settings
        if self._stop is None:
            kind, hook = (
                ("onFailure", settings.on_failure) if self._failure else ("onSuccess", settings.on_success)
            )
            await self._run_hook(kind, hook, None, None, self._job_result())
            self._settled = self._stop is None
        elif self._stop.kind == "job_timeout":
            await self._run_hook(
                "onFailure", settings.on_failure, None, None, self._job_result(), to_its_end=True
            )
        if self._stop is not None and self._stop.kind == "cancel":
            await self._run_hook(
                "onCancel", settings.on_cancel, None, None, self._job_result(), to_its_end=True
            )
        await self._run_hook("cleanup", settings.cleanup, None, None, self._job_result(), to_its_end=True)

    def _job_result(self) -> _Result:
        return _stopped(self._stop) if self._stop else self._failure or _SUCCESS

    async def _observe(
        self, kind: str, hook: Hook | None, step: str, group_id: str | None, result: _Result
    ) -> None:
        """`before_step` and `after_step`: their failure is only logged (AG-55)."""
        if hook is not None and self._stop is None:
            await self._call_hook(kind, hook, step, group_id, result)

    async def _run_hook(
        self,
        kind: str,
        hook: Hook | None,
        step: str | None,
        group_id: str | None,
        result: _Result,
        *,
        to_its_end: bool = False,
    ) -> None:
        if hook is None or self._forced():
            return
        ended = await self._call_hook(kind, hook, step, group_id, result, to_its_end=to_its_end)
        if ended.status == StepStatus.FAILED:
            self._hook_failures.append(f"hook {_label(kind, step)} failed: {ended.error_message}")

    async def _call_hook(
        self,
        kind: str,
        hook: Hook,
        step: str | None,
        group_id: str | None,
        result: _Result,
        *,
        to_its_end: bool = False,
    ) -> _Result:
        """`to_its_end`: a graceful stop does not reach the hook, its own time limit bounds it."""
        activity = self._open(
            self._next_hook, _label(kind, step), f"hook:{kind}", group_id=group_id, to_its_end=to_its_end
        )
        self._next_hook += 1
        context = HookStepContext(activity, self._facts, self._outcome(result))
        try:
            await activity.call(hook.fn, context, timeout_ms=hook.timeout_ms)
            ended = _SUCCESS
        except StoppedError as stopped:
            ended = _stopped(stopped.stop)
            activity.print(f"\033[31m{ended.error_message}\033[0m")
        except BaseException as error:
            ended = self._failed(activity, error)
        self._close(activity, ended)
        return ended

    def _outcome(self, result: _Result) -> Outcome:
        return Outcome(
            status=str(result.status),
            reason=result.error_message,
            failed_step=self._failed_step,
            step_outputs=dict(self._facts.outputs),
            duration=time.monotonic() - self._started_at,
        )

    # ── common ──────────────────────────────────────────────────────────────────────────────────

    def _open(
        self,
        index: int,
        name: str,
        step_type: str,
        *,
        env: Mapping[str, str] | None = None,
        group_id: str | None = None,
        to_its_end: bool = False,
    ) -> Activity:
        activity = Activity(
            self._services,
            index=index,
            name=name,
            step_type=step_type,
            env=dict(self._env if env is None else env),
            group_id=group_id,
            runs_to_its_end=to_its_end,
        )
        activity.open()
        self._active.add(activity)
        if self._stop is not None and (self._stop.force or not to_its_end):
            activity.stop(self._stop)
        return activity

    def _close(self, activity: Activity, result: _Result) -> None:
        self._active.discard(activity)
        self._env.update(activity.exports)
        if activity.added_paths:
            self._env["PATH"] = envfiles.with_path(self._env, activity.added_paths)
        activity.close(
            result.status,
            exit_code=result.exit_code,
            error_message=result.error_message,
            timeout_reason=result.timeout_reason,
            output=result.output,
            has_output=result.has_output,
        )

    def _forced(self) -> bool:
        return self._stop is not None and self._stop.force

    def _ended(self) -> JobEnded:
        stop, failure = self._stop, self._failure
        if stop is not None and stop.kind == "job_timeout":
            status, message, timeout = JobStatus.FAILED, stop.reason, "job_timeout"
        elif stop is not None:
            status, message, timeout = JobStatus.CANCELLED, stop.reason, None
        elif failure is not None:
            status, timeout = JobStatus.FAILED, failure.timeout_reason
            message = failure.error_message
            if self._services.execute.interrupted is None:
                message = f"step {self._failed_step!r} failed: {message}"
        else:
            status, message, timeout = JobStatus.SUCCESS, None, None
        if self._hook_failures and not self._forced():
            status = JobStatus.FAILED
            message = "; ".join([*filter(None, [message]), *self._hook_failures])
        return JobEnded(status=status, error_message=message, timeout_reason=timeout)


def _stopped(stop: Stop) -> _Result:
    """A step that was ended: by a time limit it failed, by anything else it was cancelled."""
    timed_out = stop.kind in {"step_timeout", "job_timeout"}
    return _Result(
        status=StepStatus.FAILED if timed_out else StepStatus.CANCELLED,
        error_message=stop.reason,
        stop=stop,
    )


def _label(kind: str, step: str | None) -> str:
    name = "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in kind)
    return name if step is None else f"{name} ({step})"
