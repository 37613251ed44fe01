"""One attempt of a job, from its acknowledgement to its terminal status (AG-39…58).

    prepare: work tree → drift guard → dependencies        no author code runs; a stop kills what runs
    execute: a runner on a warm zygote                     a stop goes to the runner, which runs hooks
    end:     folder out of the way, streams ended, status  always, whatever happened

Before a row's terminal status go all its log blocks (`kici.agent.rows`), before the job's everything else.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine, Sequence
from time import perf_counter
from typing import Any, ClassVar, TypeVar

import msgspec
from msgspec import Struct

from kici.agent import difference, overlay
from kici.agent.briefing import context_of, environment_of, execute_of, opening_lines
from kici.agent.build import Build
from kici.agent.caches import JobCache
from kici.agent.dependencies import Environments
from kici.agent.drift import DriftGuard, LockFileStale
from kici.agent.facts import HostFacts
from kici.agent.git import Git, GitFailed, without_credentials
from kici.agent.jobuser import JobUser
from kici.agent.mirror import Mirrors
from kici.agent.packs import Packs
from kici.agent.report import Report, ResultTooLarge
from kici.agent.requests import Relay
from kici.agent.rows import Rows
from kici.agent.services import JobServices
from kici.agent.spool import Outbox, Pressure
from kici.agent.streams import Streams
from kici.agent.telemetry import Telemetry
from kici.agent.transfer import Transfers
from kici.agent.workspace import Workspace, Workspaces
from kici.agent.zygotes import Zygotes
from kici.engine.reasons import as_sentence
from kici.protocol.agent_v1 import Checkout, JobDispatch, Overlay
from kici.protocol.runner_v1 import Execute, Ready, StepEnded, StepStarted
from kici.protocol.secret_outputs import SecretOutputBroken
from kici.runner.host import JobResult, Zygote
from kici.runtime.clock import Clock
from kici.runtime.logging import bind, get_logger
from kici.spec.durations import in_words
from kici.spec.errors import KiciError
from kici.spec.ids import PREPARE_STEP
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
    git: Git
    workspaces: Workspaces
    mirrors: Mirrors
    environments: Environments
    zygotes: Zygotes
    drift: DriftGuard
    relay: Relay
    transfers: Transfers
    job_user: JobUser | None
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
        self._folder = f"{dispatch.job_id}.{dispatch.attempt}"
        self._report = Report.on(dispatch, tools.outbox, tools.clock)
        self._streams = Streams(
            tools.outbox,
            tools.clock,
            job_id=dispatch.job_id,
            attempt=dispatch.attempt,
            max_bytes=dispatch.max_log_size_bytes or tools.max_log_size_bytes,
            on_bytes=tools.telemetry.log_bytes.inc,
        )
        self._rows = Rows(self._report, self._streams, tools.telemetry, tools.clock, took_ms=self._took_ms)
        self._services = self._make_services()
        self._packs = Packs(tools.transfers, self._services.ask)
        self._workspace: Workspace | None = None
        self._preparing: asyncio.Task[Any] | None = None
        self._zygote: Zygote | None = None
        self._stop_reason: str | None = None
        self._force = False
        self._shut_down = False
        self._overtime = False
        self._started_at = perf_counter()

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
            self._zygote.abort(self.job_id, as_sentence(reason), force=force)  # steps show it

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
        if self.dispatch.purpose == "build":
            return await self._unless_stopped(self._build_dependencies())
        prepared = await self._unless_stopped(self._prepare())
        self._rows.prepared()
        self._streams.say(f"Prepared in {self._took_ms()} ms")
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

    async def _build_dependencies(self) -> JobResult:
        """For this run and others (AG-69). No author code runs, so that there is no runner."""
        workspace, pinned_by = await self._checked_out()
        self._rows.prepared()
        return await Build(self, self._tools.environments, self._packs, self._tools.clock).run(
            workspace.repository, pinned_by, timeout_ms=self.dispatch.job.timeout
        )

    async def _checked_out(self) -> tuple[Workspace, str]:
        """The work tree, checked against the lock file, and what its content is pinned by."""
        tools, dispatch = self._tools, self.dispatch
        workspace = self._workspace = tools.workspaces.create(self._folder)
        for line in opening_lines(dispatch, tools.facts, tools.agent_id):
            self._streams.say(line)
        pinned_by = dispatch.checkout.sha
        if dispatch.overlay is None:
            only = () if dispatch.job.checkout else (".kici", *dispatch.resolved_hash_files)
            await self._check_out(workspace, dispatch.checkout, only=only)
        else:
            await self._lay_over(workspace, dispatch.overlay)
            pinned_by = f"{dispatch.run_id} {pinned_by}"
        await tools.drift.check(workspace, dispatch)
        if dispatch.overlay is None and not dispatch.job.checkout:
            tools.workspaces.discard(os.path.join(workspace.repository, ".git"))
        overlay.install_git(workspace)
        return workspace, pinned_by

    async def _prepare(self) -> _Prepared:
        tools, dispatch = self._tools, self.dispatch
        workspace, pinned_by = await self._checked_out()
        environment = await tools.environments.resolve(
            workspace.repository, pinned_by, self._streams.say, self._prepare_output, self._packs.fetch
        )
        if environment.key is None:
            self._streams.say("Dependencies: none declared, using the agent's environment")
        if tools.job_user is not None:
            await tools.job_user.give_tree(workspace.path)
        zygote = await tools.zygotes.get(environment)
        labels = tools.labels()
        own = tools.job_user.environment if tools.job_user is not None else {}
        env = environment_of(dispatch, tools.inherited, own)
        self._report.context(
            context_of(
                dispatch,
                workspace,
                environment,
                env,
                facts=tools.facts,
                labels=labels,
                inherited=tools.inherited,
            )
        )
        execute = execute_of(
            dispatch,
            workspace,
            env,
            agent_id=tools.agent_id,
            facts=tools.facts,
            labels=labels,
            default_step_timeout_ms=tools.default_step_timeout_ms,
            max_grace_period_ms=tools.max_grace_period_ms,
            uv=tools.environments.uv,
        )
        return _Prepared(execute, zygote)

    async def _check_out(
        self, workspace: Workspace, checkout: Checkout, *, only: Sequence[str] = (), raw: bool = False
    ) -> None:
        tools = self._tools
        url = without_credentials(checkout.repo_url)
        self._report.event("agent.clone.start", metadata={"url": url, "sha": checkout.sha})
        self._streams.say(f"Checking out {checkout.sha} ({checkout.ref}) of {url}")
        started = perf_counter()
        mirror = tools.mirrors.of(checkout.repo_url, checkout.sha)
        await tools.workspaces.check_out(workspace, mirror, checkout, self._streams.say, only=only, raw=raw)
        took_s = perf_counter() - started
        tools.telemetry.clone_duration.observe(took_s)
        self._streams.say(f"Checked out in {took_s * 1000:.0f} ms")
        self._report.event("agent.clone.end", duration_ms=round(took_s * 1000))

    async def _lay_over(self, workspace: Workspace, asked: Overlay) -> None:
        """The author's working tree instead of a commit, or over one."""
        self._report.event("agent.overlay.start", metadata={"sizeBytes": asked.size_bytes})
        self._streams.say(f"Fetching the author's working tree ({asked.size_bytes / (1 << 20):.1f} MB)")
        started = perf_counter()
        sealed = await overlay.fetch(self._tools.transfers, asked, workspace)
        manifest = await asyncio.to_thread(overlay.read_manifest, sealed, asked.key)
        knowledge = difference.knowledge(manifest, asked.base)
        if knowledge is not None:
            checkout = msgspec.structs.replace(self.dispatch.checkout, sha=knowledge.base)
            try:
                await self._check_out(workspace, checkout, raw=True)
            except GitFailed as error:
                raise difference.BaseGone(
                    f"the commit that the working tree lies over cannot be checked out: {error}."
                    " Run it again with --full"
                ) from error
        await asyncio.to_thread(overlay.unpack, sealed, asked.key, workspace)
        os.unlink(sealed)
        if knowledge is not None:
            await difference.restore_git(self._tools.git, workspace, knowledge, self._streams.say)
        took_ms = round((perf_counter() - started) * 1000)
        self._streams.say(f"Working tree at {manifest.sha[:12]} in place after {took_ms} ms")
        self._report.event("agent.overlay.end", duration_ms=took_ms)

    def _prepare_output(self, data: bytes) -> None:
        self._streams.feed(PREPARE_STEP, data)

    def _make_services(self) -> JobServices:
        tools = self._tools
        user = tools.job_user
        cache = JobCache(
            tools.transfers,
            # Beside the work tree, never in it: what the agent writes there as root, no step may redirect.
            os.path.join(tools.workspaces.home, f"{self._folder}.cache"),
            give=user.give if user is not None else lambda _path: None,
            owner=user.uid if user is not None else os.geteuid(),
        )
        return JobServices(self.dispatch, tools.relay, cache, on_event=self._report.event)

    def _took_ms(self) -> int:
        return round((perf_counter() - self._started_at) * 1000)

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
            return await prepared.zygote.run(
                prepared.execute,
                self,
                secrets=list(self.dispatch.secrets.values()),
                services=self._services,
            )
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
            self._zygote.abort(self.job_id, as_sentence(self._stop_reason), force=self._force)
        log.debug("runner.ready", pid=m.pid, sdk_version=m.sdk_version, python_version=m.python_version)

    def output(self, step_index: int, data: bytes) -> None:
        """Observer: masked bytes of a step."""
        self._rows.output(step_index, data)

    def step_started(self, m: StepStarted) -> None:
        """Observer: a step begins, or is tried again."""
        self._rows.started(m)

    def step_ended(self, m: StepEnded) -> None:
        """Observer: all output of the step has come."""
        self._rows.ended(m)

    # ── end ──────────────────────────────────────────────────────────────────────────────────────

    def _judged(self, result: JobResult) -> JobResult:
        """What the agent knows better than the runner."""
        replace = msgspec.structs.replace
        if self._overtime:
            return replace(
                result,
                status=JobStatus.FAILED,
                error_message=f"the job timed out after {in_words(self.dispatch.job.timeout or 0)}; "
                "its runner did not react and was killed",
                timeout_reason="job_timeout",
            )
        if self._stop_reason is not None and result.error_message == as_sentence(self._stop_reason):
            result = replace(result, error_message=self._stop_reason)
        if self._shut_down and result.status is JobStatus.CANCELLED:
            return replace(result, status=JobStatus.FAILED, error_message=AGENT_SHUT_DOWN)
        return result

    def _end(self, result: JobResult, category: str | None) -> int:
        started = perf_counter()
        sealed: dict[str, str] = {}
        try:
            sealed = self._services.sealed_outputs()
        except SecretOutputBroken as error:
            log.error("job.secret_outputs_unsealed", error=str(error))
            text = f"the job's secret outputs cannot be sealed: {error}"
            result = msgspec.structs.replace(result, status=JobStatus.FAILED, error_message=text)
        if result.status is JobStatus.CANCELLED:
            self._rows.end_preparation(StepStatus.CANCELLED, result.error_message)
        else:
            self._rows.end_preparation(StepStatus.FAILED, result.error_message)
        if self._workspace is not None:
            self._tools.workspaces.discard(self._workspace.path)
            self._tools.workspaces.discard(self._services.cache.folder)
        self._report.event("agent.teardown", duration_ms=round((perf_counter() - started) * 1000))
        self._rows.close()
        self._tools.telemetry.jobs.labels(result.status).inc()
        log.info(
            "job.ended",
            status=result.status,
            error=result.error_message,
            duration_ms=self._took_ms(),
        )
        try:
            return self._report.ended(result, init_failure_category=category, secret_outputs=sealed)
        except (ResultTooLarge, TypeError, ValueError, OverflowError, msgspec.MsgspecError) as error:
            log.error("job.results_unsendable", error=str(error))
            text = (
                str(error)
                if isinstance(error, ResultTooLarge)
                else "the job's outputs cannot be sent as JSON"
            )
            failed = JobResult(
                status=JobStatus.FAILED, error_message=text, failure_category=result.failure_category
            )
            return self._report.ended(failed, init_failure_category=category)
