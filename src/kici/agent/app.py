"""The agent process: reads settings, wires the parts, runs until told to stop."""

import asyncio
import ctypes
import gc
import os
import shutil
import signal
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar

from kici.agent import jobuser
from kici.agent.dependencies import Environments
from kici.agent.drift import DriftGuard
from kici.agent.execution import Tools
from kici.agent.facts import all_labels, host_facts, memory_used_mb, parse_properties
from kici.agent.git import Git
from kici.agent.jobs import JobSlot
from kici.agent.mirror import Mirrors
from kici.agent.probes import Answer, Route, json_answer, listening
from kici.agent.requests import Relay
from kici.agent.session import AgentRejected, Session, State, is_loopback, leaves
from kici.agent.settings import AgentSettings
from kici.agent.spool import Outbox, Pressure
from kici.agent.telemetry import Telemetry
from kici.agent.transfer import Transfers
from kici.agent.workspace import Workspaces
from kici.agent.zygotes import Zygotes
from kici.protocol.agent_v1 import AgentMetrics, AgentRegister, InFlightJob
from kici.runner.environment import inherited
from kici.runner.host import ZygoteError
from kici.runner.uvprogram import find_uv
from kici.runtime.backoff import supervised
from kici.runtime.buildinfo import build_fields, build_info
from kici.runtime.clock import SystemClock, to_datetime
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

METRICS_EVERY_S = 30.0
METRICS_APART_S = 5.0  # at job ends, but not for every one of many short jobs
_FLUSH_WITHIN_S = 5.0
_PR_SET_DUMPABLE = 4
FAILED = 1
REJECTED = 78  # EX_CONFIG: a supervisor shows it, restarting does not help


class ToolsMissing(KiciError):
    """Programs that every job needs are not installed."""

    code: ClassVar[str] = "tools_missing"


def check_tools(environ: Mapping[str, str]) -> list[str]:
    """Warnings. Raises ToolsMissing naming everything that is missing (AG-92)."""
    path = environ.get("PATH")
    missing = [
        name for name in ("git", "sh", "bash", "rm", "chmod") if shutil.which(name, path=path) is None
    ]
    if missing:
        raise ToolsMissing(
            f"not found on PATH: {', '.join(missing)}; install them, then start the agent again"
        )
    if find_uv(environ) is None:
        return ["uv is not installed: workflows that pin dependencies in .kici/uv.lock will fail here"]
    return []


def hide_memory() -> None:
    """No ptrace, no /proc/<pid>/environ for other processes of our user: jobs are such (AG-62)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


async def serve(settings: AgentSettings, environ: Mapping[str, str]) -> int:
    """Run the agent. Returns the exit status: 0 after a wanted stop."""
    agent = Agent(settings, environ)
    status = 0
    async with agent.parts:
        try:
            await agent.run()
        except* AgentRejected as group:
            log.error("agent.rejected", error=str(leaves(group)[0]))
            status = REJECTED
        except* KiciError as group:
            log.error("agent.failed", error="; ".join(map(str, leaves(group))))
            status = FAILED
    return status


class Agent:
    """Composition root. `parts` closes what `run` leaves open."""

    def __init__(self, settings: AgentSettings, environ: Mapping[str, str]) -> None:
        self.settings = settings
        self.parts = AsyncExitStack()
        self.clock = SystemClock()
        self.started_ms = self.clock.now_ms()
        self.session_id = uuid7()
        self.facts = host_facts()
        self.labels = all_labels(settings.labels, self.facts)
        self.properties = parse_properties(settings.properties)
        self.telemetry = Telemetry()
        self.stopping = asyncio.Event()
        self._push_metrics = asyncio.Event()

        def folder(name: str) -> str:
            return os.path.join(settings.data_dir, name)

        os.makedirs(settings.data_dir, mode=0o700, exist_ok=True)
        job_user = jobuser.find(settings.job_user)
        if job_user is not None:
            jobuser.open_ways(settings.data_dir)
        git = Git(settings.data_dir, environ)
        self.outbox = Outbox(folder("spool"), may_pause=settings.backpressure_mode == "pause")
        self.workspaces = Workspaces(folder("work"), self.session_id, git)
        self.environments = Environments(folder("venvs"), environ)
        self.zygotes = Zygotes(self.environments, job_user)
        self.relay = Relay()
        self.transfers = Transfers(
            settings.orchestrator_url, is_loopback=is_loopback(settings.orchestrator_url)
        )
        self.session = Session(
            url=settings.orchestrator_url,
            token=settings.agent_token,
            agent_id=settings.agent_id,
            register=self._register,
            outbox=self.outbox,
            relay=self.relay,
            clock=self.clock,
            on_state=self._on_state,
        )
        self.tools = Tools(
            outbox=self.outbox,
            clock=self.clock,
            telemetry=self.telemetry,
            git=git,
            workspaces=self.workspaces,
            mirrors=Mirrors(folder("mirrors"), git, self.workspaces.discard),
            environments=self.environments,
            zygotes=self.zygotes,
            drift=DriftGuard(),
            relay=self.relay,
            transfers=self.transfers,
            job_user=job_user,
            facts=self.facts,
            agent_id=settings.agent_id,
            inherited={
                name: os.fsencode(value).decode(errors="replace")
                for name, value in inherited(environ).items()
            },
            labels=lambda: self.session.labels or self.labels,
            default_step_timeout_ms=settings.default_step_timeout_ms,
            max_grace_period_ms=settings.max_grace_period_ms,
            max_log_size_bytes=settings.max_log_size_bytes,
        )
        self.parts.callback(self.outbox.close)
        self.parts.push_async_callback(self.workspaces.close)
        self.parts.push_async_callback(self.zygotes.close)
        self.parts.push_async_callback(self.transfers.close)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            jobs = JobSlot(tasks, self.tools, on_ended=self._push_metrics.set)
            self._connect_parts(jobs)
            port = await self.parts.enter_async_context(
                listening(self.settings.host, self.settings.port, self._routes(jobs))
            )
            log.info("agent.build.info", **{_snake(name): value for name, value in build_fields().items()})
            log.info(
                "agent.started",
                agent_id=self.settings.agent_id,
                port=port,
                labels=self.labels,
                data_dir=self.settings.data_dir,
                orchestrator_url=self.settings.orchestrator_url,
            )
            self._on_signals(tasks, jobs)
            loops = [
                tasks.create_task(self.session.run(jobs), name="session"),
                tasks.create_task(
                    supervised("workspaces.clean", self.workspaces.keep_clean), name="workspaces.clean"
                ),
                tasks.create_task(
                    supervised("mirrors.compact", self.tools.mirrors.keep_compact), name="mirrors.compact"
                ),
                tasks.create_task(supervised("metrics.push", self._push), name="metrics.push"),
                tasks.create_task(
                    supervised("job.heartbeat", lambda: self._beat(jobs)), name="job.heartbeat"
                ),
                tasks.create_task(self.telemetry.metrics.watch_loop(), name="metrics.loop"),
                tasks.create_task(self._warm_up(), name="zygote.warm_up"),
            ]
            # What is alive now lives for good: collections need not look at it again.
            gc.collect()
            gc.freeze()
            await self.stopping.wait()
            log.info("agent.stopping", active_jobs=jobs.active_jobs)
            await jobs.shut_down()
            await self._flush()
            for loop in loops:
                loop.cancel()
        log.info("agent.stopped")

    # ── wiring ───────────────────────────────────────────────────────────────────────────────────

    def _connect_parts(self, jobs: JobSlot) -> None:
        def pressure_changed(pressure: Pressure) -> None:
            if pressure is not Pressure.NONE:
                log.warning("log.backpressure", mode=pressure, unsent_bytes=self.outbox.unsent_bytes)
            self.telemetry.pressure(pressure)
            jobs.pressure(pressure)

        self.outbox.on_pressure = pressure_changed
        self.outbox.on_dropped = lambda lines, _bytes: self.telemetry.log_lines_dropped.inc(lines)

    def _on_signals(self, tasks: asyncio.TaskGroup, jobs: JobSlot) -> None:
        loop = asyncio.get_running_loop()

        def stop() -> None:
            if self.stopping.is_set():
                os._exit(130)  # at once: the zygote sees us go and kills everything below
            self.stopping.set()

        async def when_idle() -> None:
            await jobs.wait_idle()
            self.stopping.set()

        def drain() -> None:
            if not jobs.draining:
                log.info("agent.draining", active_jobs=jobs.active_jobs)
                jobs.draining = True
                tasks.create_task(when_idle(), name="drain")

        loop.add_signal_handler(signal.SIGTERM, stop)
        loop.add_signal_handler(signal.SIGINT, stop)
        loop.add_signal_handler(signal.SIGUSR1, drain)

    def _on_state(self, state: State) -> None:
        self.telemetry.connection.set(state is State.REGISTERED)

    def _register(self, in_flight: list[InFlightJob], first_seq: int, last_seq: int) -> AgentRegister:
        facts = self.facts
        return AgentRegister(
            agent_id=self.settings.agent_id,
            session_id=self.session_id,
            labels=self.labels,
            in_flight=in_flight,
            first_seq=first_seq,
            last_seq=last_seq,
            platform=facts.platform,
            arch=facts.arch,
            version=build_info().version,
            hostname=facts.hostname,
            python_version=facts.python_version,
            os_release=facts.os_release,
            cpu_count=facts.cpu_count,
            total_memory_mb=facts.total_memory_mb,
            running_as_user=facts.user,
            running_as_uid=facts.uid,
            properties=self.properties,
        )

    def _routes(self, jobs: JobSlot) -> dict[str, Route]:
        base = self.settings.base_path.rstrip("/")

        def health() -> Answer:
            now_ms = self.clock.now_ms()
            facts: dict[str, Any] = {
                "status": "ok",
                "timestamp": to_datetime(now_ms),
                "uptime": (now_ms - self.started_ms) // 1000,
                **build_fields(),
                "agentId": self.settings.agent_id,
                "activeJobs": jobs.active_jobs,
                "connected": self.session.state is State.REGISTERED,
                "memoryUsedMb": memory_used_mb(),
            }
            return json_answer(facts)

        def ready() -> Answer:
            registered = self.session.state is State.REGISTERED
            checks = {"registered": registered, "accepting": not jobs.draining}
            good = all(checks.values())
            return json_answer(
                {"status": "ready" if good else "not ready", "checks": checks}, 200 if good else 503
            )

        def metrics() -> Answer:
            return Answer(self.telemetry.metrics.exposition())

        return {f"{base}/health": health, f"{base}/ready": ready, f"{base}/metrics": metrics}

    # ── loops ────────────────────────────────────────────────────────────────────────────────────

    async def _warm_up(self) -> None:
        try:
            await self.zygotes.warm_up()
        except ZygoteError as error:
            log.error("zygote.not_ready", error=str(error))  # the next job tries again and reports it

    async def _beat(self, jobs: JobSlot) -> None:
        while True:
            await asyncio.sleep(self.settings.job_heartbeat_interval_ms / 1000)
            if (beat := jobs.heartbeat()) is not None:
                self.session.send_loose(beat)

    async def _push(self) -> None:
        """Every 30 s, and soon after a job ended (AG-99)."""
        while True:
            try:
                async with asyncio.timeout(METRICS_EVERY_S):
                    await self._push_metrics.wait()
            except TimeoutError:
                pass
            self._push_metrics.clear()
            if self.session.state is State.REGISTERED:
                self.session.send_loose(
                    AgentMetrics(
                        agent_id=self.settings.agent_id,
                        timestamp=self.clock.now_ms(),
                        exposition=self.telemetry.own_series(),
                    )
                )
            await asyncio.sleep(METRICS_APART_S)

    async def _flush(self) -> None:
        """The last statuses should arrive; an orchestrator that is away will find the job lost."""
        if self.outbox.is_connected:
            try:
                async with asyncio.timeout(_FLUSH_WITHIN_S):
                    await self.outbox.wait_settled()
            except TimeoutError:
                log.warning("spool.not_flushed", frames=self.outbox.last_seq - self.outbox.first_seq + 1)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name)
