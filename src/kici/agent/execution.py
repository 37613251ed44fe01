"""One attempt of a job, from its acknowledgement to its terminal status (AG-39…58).

    prepare: work tree → drift guard → dependencies        no author code runs; a stop kills what runs
    execute: a runner on a warm zygote                     a stop goes to the runner, which runs hooks
    end:     folder out of the way, streams ended, status  always, whatever happened

Before a step's terminal status go all its log blocks, before the job's everything else. The preparation
row's status alone is early: its stream stays open for output outside of steps until the job ends.
"""

import asyncio
import sys
from collections.abc import Callable, Coroutine
from time import perf_counter
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from kici.agent.dependencies import Environment, Environments
from kici.agent.drift import DriftGuard, LockFileStale
from kici.agent.facts import HostFacts
from kici.agent.git import without_credentials
from kici.agent.mirror import Mirrors
from kici.agent.report import Report
from kici.agent.spool import Outbox, Pressure
from kici.agent.streams import Streams
from kici.agent.telemetry import Telemetry
from kici.agent.workspace import Workspace, Workspaces
from kici.agent.zygotes import Zygotes
from kici.protocol.agent_v1 import JobDispatch
from kici.protocol.runner_v1 import Execute, Ready, StepEnded, StepStarted
from kici.runner.environment import step_environment
from kici.runner.host import JobResult, Zygote
from kici.runtime.buildinfo import build_info
from kici.runtime.clock import Clock
from kici.runtime.logging import bind, get_logger
from kici.spec.errors import KiciError
from kici.spec.ids import PREPARE_STEP
from kici.spec.lock import SCHEMA_VERSION
from kici.spec.states import JobStatus, StepStatus

log = get_logger(__name__)

T = TypeVar("T")

AGENT_SHUT_DOWN = "agent shut down"
_OVERTIME_S = 60.0  # beyond a job's time-out and grace, before the agent stops believing its runner


class Tools(Struct, frozen=True, kw_only=True):
    """What executions share; one per agent."""

    outbox: Outbox
    clock: Clock
    telemetry: Telemetry
    workspaces: Workspaces
    mirrors: Mirrors
    environments: Environments
    zygotes: Zygotes
    drift: DriftGuard
    facts: HostFacts
    agent_id: str
    inherited: dict[str, str]  # what steps get of the agent's environment
    labels: Callable[[], list[str]]
    default_step_timeout_ms: int
    max_grace_period_ms: int
    max_log_size_bytes: int


class _Stopped(KiciError):
    """Asked to stop before the runner existed."""

    code: ClassVar[str] = "stopped"


class _Prepared(Struct, frozen=True):
    execute: Execute
    zygote: Zygote


class Execution:
    """`run` never raises for what a job does; its result is what was reported."""

    def __init__(self, dispatch: JobDispatch, tools: Tools) -> None:
        self.dispatch = dispatch
        self.job_id = dispatch.job_id
        self.attempt = dispatch.attempt
        self._tools = tools
        self._report = Report.on(dispatch, tools.outbox, tools.clock)
        self._streams = Streams(
            tools.outbox,
            tools.clock,
            job_id=dispatch.job_id,
            attempt=dispatch.attempt,
            max_bytes=dispatch.max_log_size_bytes or tools.max_log_size_bytes,
            on_bytes=tools.telemetry.log_bytes.inc,
        )
        self._workspace: Workspace | None = None
        self._preparing: asyncio.Task[Any] | None = None
        self._zygote: Zygote | None = None
        self._stop_reason: str | None = None
        self._force = False
        self._shut_down = False
        self._overtime = False
        self._prepare_open = True
        self._started_at = perf_counter()
        self._started: dict[int, StepStarted] = {}

    # ── asked from outside ───────────────────────────────────────────────────────────────────────

    def stop(self, reason: str, *, force: bool) -> None:
        """End the job as `cancelled`: gracefully, or killing everything now. May be repeated."""
        if self._stop_reason is None:
            self._stop_reason = reason
        self._force = self._force or force
        if self._preparing is not None:
            self._preparing.cancel()
        if self._zygote is not None:
            if force:  # a job whose output is held back cannot end
                self._zygote.resume_output(self.job_id)
            self._zygote.abort(self.job_id, reason, force=force)

    def shut_down(self, *, force: bool) -> None:
        """The agent ends: the job ends as `failed`, saying so (AG-95)."""
        self._shut_down = True
        self.stop(AGENT_SHUT_DOWN, force=force)

    def pressure(self, pressure: Pressure) -> None:
        """Hold the runner's output back, or read on."""
        if self._zygote is None:
            return
        if pressure is Pressure.PAUSE and not self._force:
            self._zygote.pause_output(self.job_id)
        else:
            self._zygote.resume_output(self.job_id)

    async def run(self) -> int:
        """Everything; returns the number of the terminal status's frame."""
        dispatch = self.dispatch
        with bind(request_id=dispatch.request_id, run_id=dispatch.run_id, job_id=dispatch.job_id):
            log.info(f"Run: {dispatch.run_id} | Trace: {dispatch.request_id}", attempt=dispatch.attempt)
            self._report.running()
            self._report.prepare(StepStatus.RUNNING)
            self._streams.say(f"Run: {dispatch.run_id} | Trace: {dispatch.request_id}")
            category: str | None = None
            try:
                result = await self._perform()
            except _Stopped:
                result = JobResult(status=JobStatus.CANCELLED, error_message=self._stop_reason)
            except LockFileStale as error:
                category = "lock_resolution"
                result = JobResult(status=JobStatus.FAILED, error_message=str(error))
            except KiciError as error:
                log.warning("job.not_prepared", code=error.code, error=str(error))
                result = JobResult(status=JobStatus.FAILED, error_message=str(error))
            except OSError as error:
                log.warning("job.not_prepared", code="os_error", error=str(error))
                text = f"the agent could not prepare this job: {error.strerror or error}"
                result = JobResult(status=JobStatus.FAILED, error_message=text)
            except Exception as error:
                log.error("job.broke_the_agent", exc_info=error)
                result = JobResult(
                    status=JobStatus.FAILED,
                    error_message="the agent failed to run this job; its own log says why",
                )
            return self._end(self._judged(result), category)

    # ── prepare ──────────────────────────────────────────────────────────────────────────────────

    async def _perform(self) -> JobResult:
        prepared = await self._unless_stopped(self._prepare())
        self._end_prepare(StepStatus.SUCCESS, None)
        return await self._execute(prepared)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """Does `work`, killing it as soon as a stop is asked for. Raises _Stopped."""
        try:
            async with asyncio.TaskGroup() as tasks:
                task = self._preparing = tasks.create_task(work, name="job.prepare")
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            self._preparing = None
        if task.cancelled() or self._stop_reason is not None:
            raise _Stopped
        return task.result()

    async def _prepare(self) -> _Prepared:
        tools, dispatch = self._tools, self.dispatch
        workspace = self._workspace = tools.workspaces.create(f"{dispatch.job_id}.{dispatch.attempt}")
        self._say_facts()
        await self._check_out(workspace)
        await tools.drift.check(workspace, dispatch)
        environment = await tools.environments.resolve(
            workspace.repository, dispatch.checkout.sha, self._streams.say, self._prepare_output
        )
        if environment.key is None:
            self._streams.say("Dependencies: none declared, using the agent's environment")
        zygote = await tools.zygotes.get(environment)
        env = self._environment()
        self._report.context(self._context(workspace, environment, env))
        return _Prepared(self._execution(workspace, env), zygote)

    async def _check_out(self, workspace: Workspace) -> None:
        tools, checkout = self._tools, self.dispatch.checkout
        url = without_credentials(checkout.repo_url)
        self._report.event("agent.clone.start", metadata={"url": url, "sha": checkout.sha})
        self._streams.say(f"Checking out {checkout.sha} ({checkout.ref}) of {url}")
        started = perf_counter()
        only = () if self.dispatch.job.checkout else (".kici", *self.dispatch.resolved_hash_files)
        mirror = tools.mirrors.of(checkout.repo_url, checkout.sha)
        await tools.workspaces.check_out(workspace, mirror, checkout, self._streams.say, only=only)
        took_s = perf_counter() - started
        tools.telemetry.clone_duration.observe(took_s)
        self._streams.say(f"Checked out in {took_s * 1000:.0f} ms")
        self._report.event("agent.clone.end", duration_ms=round(took_s * 1000))

    def _say_facts(self) -> None:
        facts, dispatch = self._tools.facts, self.dispatch
        own = build_info().sdk_version
        self._streams.say(
            f"Agent {self._tools.agent_id}: {facts.os_release} {facts.arch}, Python {facts.python_version}, kici {own}"
        )
        if dispatch.sdk_version != own:
            self._streams.say(
                f"Warning: the lock file was compiled with kici {dispatch.sdk_version}, this agent has {own}"
            )

    def _prepare_output(self, data: bytes) -> None:
        self._streams.feed(PREPARE_STEP, data)

    def _environment(self) -> dict[str, str]:
        """The steps' whole environment; later wins (AG-63)."""
        return {**step_environment(self._tools.inherited), **self.dispatch.env, **self.dispatch.job.env}

    def _execution(self, workspace: Workspace, env: dict[str, str]) -> Execute:
        dispatch, tools = self.dispatch, self._tools
        return Execute(
            run_id=dispatch.run_id,
            job_id=dispatch.job_id,
            attempt=dispatch.attempt,
            workflow_name=dispatch.workflow_name,
            workflow_file=dispatch.workflow_file,
            export=dispatch.workflow_export,
            job_name=dispatch.job_name,
            base_job_name=dispatch.base_job_name,
            workspace=workspace.repository,
            tmp=workspace.tmp,
            matrix=dispatch.matrix,
            event=dispatch.event,
            upstream_outputs=dispatch.upstream_outputs,
            upstream_statuses=dispatch.upstream_statuses,
            run_info={
                "repository": dispatch.repo_identifier,
                "ref": _short_ref(dispatch.checkout.ref),
                "sha": dispatch.checkout.sha,
                "url": dispatch.env.get("KICI_RUN_URL", ""),
            },
            env=env,
            default_step_timeout_ms=dispatch.default_step_timeout_ms or tools.default_step_timeout_ms,
            max_grace_period_ms=tools.max_grace_period_ms,
            labels=tools.labels(),
        )

    def _context(
        self, workspace: Workspace, environment: Environment, env: dict[str, str]
    ) -> dict[str, Any]:
        """What the job page shows (AG-87). Only what a step sees itself; never the agent's environment."""
        facts, dispatch = self._tools.facts, self.dispatch
        categories = dict.fromkeys(self._tools.inherited, "inherited") | dict.fromkeys(
            dispatch.job.env, "user"
        )
        return {
            "sandboxType": "process",
            "runtime": {
                "pythonVersion": ".".join(map(str, sys.version_info[:3])),
                "os": facts.platform,
                "arch": facts.arch,
            },
            "labels": self._tools.labels(),
            "workingDirectory": workspace.repository,
            "gitRef": dispatch.checkout.ref,
            "lockFileVersion": SCHEMA_VERSION,
            "sdkVersion": dispatch.sdk_version,
            "depCacheStatus": environment.status,
            "networkIsolation": False,
            "secretKeys": [],
            "envVars": [
                {"name": name, "value": value, "category": categories.get(name, "system")}
                for name, value in sorted(env.items())
            ],
        }

    def _end_prepare(self, state: StepStatus, error_message: str | None) -> None:
        if not self._prepare_open:
            return
        self._prepare_open = False
        took_ms = round((perf_counter() - self._started_at) * 1000)
        if state is StepStatus.SUCCESS:
            self._streams.say(f"Prepared in {took_ms} ms")
        elif error_message:
            self._streams.say(error_message)
        self._report.prepare(state, error_message=error_message, duration_ms=took_ms)

    # ── execute ──────────────────────────────────────────────────────────────────────────────────

    async def _execute(self, prepared: _Prepared) -> JobResult:
        self._report.event("agent.execution.start")
        started = perf_counter()
        timeout_ms, watch = self.dispatch.job.timeout, None
        if timeout_ms is not None:
            limit_s = (timeout_ms + self._tools.max_grace_period_ms) / 1000 + _OVERTIME_S
            watch = asyncio.get_running_loop().call_later(limit_s, self._end_overtime)
        self._zygote = prepared.zygote
        try:
            return await prepared.zygote.run(prepared.execute, self)
        finally:
            self._zygote = None
            if watch is not None:
                watch.cancel()
            took_ms = round((perf_counter() - started) * 1000)
            self._report.event("agent.execution.end", duration_ms=took_ms)

    def _end_overtime(self) -> None:
        """The runner should have ended its job long ago: it hangs, or somebody stopped it."""
        self._overtime = True
        if self._zygote is not None:
            self._zygote.abort(self.job_id, "the job timed out and its runner did not react", force=True)

    def ready(self, m: Ready) -> None:
        """Observer: the runner is there. What was asked while it started reaches it now."""
        self.pressure(self._tools.outbox.pressure)
        if self._stop_reason is not None and self._zygote is not None:
            self._zygote.abort(self.job_id, self._stop_reason, force=self._force)
        log.debug("runner.ready", pid=m.pid, sdk_version=m.sdk_version, python_version=m.python_version)

    def output(self, step_index: int, data: bytes) -> None:
        """Observer: masked bytes of a step."""
        self._streams.feed(step_index, data)

    def step_started(self, m: StepStarted) -> None:
        """Observer: a step begins; retries go on in the same row."""
        if m.attempt == 1:
            self._started[m.step_index] = m
            self._streams.open(m.step_index)
            self._report.step_started(m)

    def step_ended(self, m: StepEnded) -> None:
        """Observer: all output of the step has come."""
        started = self._started.pop(m.step_index, None)
        totals = self._streams.end(m.step_index)
        telemetry = self._tools.telemetry
        telemetry.steps.labels(m.status).inc()
        telemetry.step_duration.observe(m.duration_ms / 1000)
        self._report.step_ended(
            m,
            lines=totals.lines,
            size=totals.bytes,
            concurrency_kind=started.concurrency_kind if started else "sequential",
            group_id=started.group_id if started else None,
        )

    # ── end ──────────────────────────────────────────────────────────────────────────────────────

    def _judged(self, result: JobResult) -> JobResult:
        """What the agent knows better than the runner."""
        if self._overtime:
            return JobResult(
                status=JobStatus.FAILED,
                error_message=f"the job timed out after {(self.dispatch.job.timeout or 0) / 1000:g} s; "
                "its runner did not react and was killed",
                timeout_reason="job_timeout",
                outputs=result.outputs,
            )
        if self._shut_down and result.status is JobStatus.CANCELLED:
            return JobResult(status=JobStatus.FAILED, error_message=AGENT_SHUT_DOWN, outputs=result.outputs)
        return result

    def _end(self, result: JobResult, category: str | None) -> int:
        started = perf_counter()
        if result.status is JobStatus.CANCELLED:
            self._end_prepare(StepStatus.CANCELLED, result.error_message)
        else:
            self._end_prepare(StepStatus.FAILED, result.error_message)
        if self._workspace is not None:
            self._tools.workspaces.discard(self._workspace.path)
        self._report.event("agent.teardown", duration_ms=round((perf_counter() - started) * 1000))
        self._streams.close()
        self._tools.telemetry.jobs.labels(result.status).inc()
        log.info(
            "job.ended",
            status=result.status,
            error=result.error_message,
            duration_ms=round((perf_counter() - self._started_at) * 1000),
        )
        try:
            return self._report.ended(
                result.status,
                error_message=result.error_message,
                timeout_reason=result.timeout_reason,
                init_failure_category=category,
                outputs=result.outputs or None,
            )
        except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            log.error("job.outputs_unsendable", error=str(error))
            return self._report.ended(
                JobStatus.FAILED, error_message="the job's outputs cannot be sent as JSON"
            )


def _short_ref(ref: str) -> str:
    """The branch or tag alone."""
    return ref.removeprefix("refs/heads/").removeprefix("refs/tags/")
