"""Starts the programs in order, restarts what crashes, stops all cleanly, leaves nothing behind.

Children carry a parent-death signal, so even `kill -9` of this process ends them. The lock on the data
directory makes a second supervisor impossible; `state.json` tells other commands what runs.
"""

import asyncio
import fcntl
import os
import signal
import sysconfig
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from kici.cli.up.bootstrap import Bootstrap, load_or_make
from kici.cli.up.children import Identity, spawn, tail
from kici.cli.up.console import Console
from kici.cli.up.paths import DataDir
from kici.cli.up.postgres import (
    DEATH_SIGNAL,
    STOP_SIGNAL,
    DatabaseUnavailable,
    EmbeddedPostgres,
    database_url,
    wait_and_create,
)
from kici.cli.up.probe import answers, port_taken
from kici.cli.up.state import ProcessRecord, UpState, read_state, write_state
from kici.spec.errors import KiciError

PLATFORM_PORT = 10142
ORCHESTRATOR_PORT = 10143
AGENT_PORT = 8080
_READY_PATIENCE_SECONDS = 60.0
_RESTART_CAP_SECONDS = 10.0


class AlreadyRunning(KiciError):
    code: ClassVar[str] = "already_running"


class StartFailed(KiciError):
    code: ClassVar[str] = "start_failed"


@dataclass(frozen=True, slots=True)
class Options:
    data: DataDir
    port_offset: int = 0
    agents: int = 1
    external_database_url: str | None = None
    extra_env: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(slots=True)
class Program:
    """One supervised program and how to know that it is ready."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Callable[[], Awaitable[bool]]
    stop_signal: int = signal.SIGTERM
    stop_patience_seconds: float = 15.0
    death_signal: int = signal.SIGKILL
    identity: Identity | None = None
    before_start: Callable[[], None] | None = None
    process: asyncio.subprocess.Process | None = None
    record: ProcessRecord = field(
        default_factory=lambda: ProcessRecord(name="", pid=None, state="stopped", started_at_ms=0)
    )

    def __post_init__(self) -> None:
        self.record.name = self.name


def take_lock(data: DataDir) -> int:
    """Hold the data directory until this process ends. Raises AlreadyRunning."""
    data.root.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chmod(data.root, 0o711)  # noqa: S103  the database's user must pass through
    else:
        os.chmod(data.root, 0o700)
    descriptor = os.open(data.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        state = read_state(data.state)
        who = f" (pid {state.supervisor_pid})" if state else ""
        raise AlreadyRunning(
            f"kici is already running on {data.root}{who}. See it with `kici status`, stop it with"
            " `kici down`, or start another one with --data-dir and --port-offset."
        ) from None
    return descriptor


def is_running(data: DataDir) -> bool:
    """Does somebody hold the data directory?"""
    try:
        descriptor = os.open(data.lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(descriptor)


class Supervisor:
    def __init__(self, options: Options, console: Console) -> None:
        self.options = options
        self.console = console
        self.data = options.data
        self.stopping = asyncio.Event()
        self.programs: list[Program] = []
        offset = options.port_offset
        self.platform_url = f"http://127.0.0.1:{PLATFORM_PORT + offset}"
        self.orchestrator_url = f"http://127.0.0.1:{ORCHESTRATOR_PORT + offset}"
        self.agent_urls = [
            f"http://127.0.0.1:{AGENT_PORT + offset + number}" for number in range(options.agents)
        ]
        self.bootstrap: Bootstrap = load_or_make(self.data)
        self.database_url = options.external_database_url or ""
        self.ready = False
        self.failure: str | None = None

    # ── what to run ──────────────────────────────────────────────────────────────────────────────

    def _base_env(self) -> dict[str, str]:
        kept = ("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "SSH_AUTH_SOCK")
        env = {name: os.environ[name] for name in kept if name in os.environ}
        env |= {"KICI_LOG_FORMAT": "json", "PYTHONUNBUFFERED": "1"}
        env |= {name: value for name, value in os.environ.items() if name in {"KICI_LOG_LEVEL", "KICI_DEV"}}
        return env

    def _plan_servers(self) -> None:
        offset = self.options.port_offset
        extra = self.options.extra_env
        scripts = Path(sysconfig.get_path("scripts"))

        def wanted(*prefixes: str) -> dict[str, str]:
            """`PLATFORM:KICI_X=…` style overrides from the caller reach one tier only."""
            return {
                name.split(":", 1)[1]: value
                for name, value in extra.items()
                if name.split(":", 1)[0] in prefixes
            }

        self.programs.append(
            Program(
                name="platform",
                argv=[str(scripts / "kici-platform"), "serve"],
                env=self._base_env()
                | {
                    "KICI_PORT": str(PLATFORM_PORT + offset),
                    "KICI_DATABASE_URL": database_url(self.database_url, "kici_platform"),
                    "KICI_PUBLIC_URL": self.platform_url,
                    "KICI_SECRET_KEY": self.bootstrap.platform_secret_key,
                    "KICI_BOOTSTRAP_FILE": str(self.data.bootstrap),
                }
                | wanted("platform"),
                ready=lambda: answers(self.platform_url + "/ready"),
            )
        )
        orchestrator_home = self.data.root / "orchestrator"
        self.programs.append(
            Program(
                name="orchestrator",
                argv=[str(scripts / "kici-orchestrator"), "serve"],
                env=self._base_env()
                | {
                    "KICI_PORT": str(ORCHESTRATOR_PORT + offset),
                    "KICI_MODE": "hybrid",
                    "KICI_DATABASE_URL": database_url(self.database_url, "kici_orchestrator"),
                    "KICI_PLATFORM_URL": self.platform_url,
                    "KICI_PLATFORM_TOKEN": self.bootstrap.orchestrator_key,
                    "KICI_SECRET_KEY": self.bootstrap.orchestrator_secret_key,
                    "KICI_BOOTSTRAP_FILE": str(self.data.bootstrap),
                    "KICI_DATA_DIR": str(orchestrator_home),
                    "KICI_CLUSTER_NAME": "local",
                    "KICI_DASHBOARD_URL": self.platform_url,
                }
                | wanted("orchestrator"),
                ready=lambda: answers(self.orchestrator_url + "/ready"),
            )
        )
        socket_url = self.orchestrator_url.replace("http://", "ws://") + "/ws"
        for number, url in enumerate(self.agent_urls, start=1):
            home = self.data.root / "agents" / f"agent-{number}"
            self.programs.append(
                Program(
                    name=f"agent-{number}",
                    argv=[str(scripts / "kici-agent"), "serve"],
                    env=self._base_env()
                    | {
                        "KICI_PORT": url.rsplit(":", 1)[1],
                        "KICI_ORCHESTRATOR_URL": socket_url,
                        "KICI_AGENT_ID": f"agent-{number}",
                        "KICI_AGENT_TOKEN_FILE": str(self.data.agent_token),
                        "KICI_DATA_DIR": str(home),
                    }
                    | wanted("agent", f"agent-{number}"),
                    ready=lambda url=url: answers(url + "/ready"),
                )
            )

    def _plan_postgres(self) -> Program:
        postgres = EmbeddedPostgres(self.data.postgres)
        postgres.prepare()
        self.database_url = postgres.url("postgres")

        async def accepts() -> bool:
            try:
                await wait_and_create(self.database_url, patience_seconds=0)
            except DatabaseUnavailable:
                return False
            return True

        return Program(
            name="postgres",
            argv=postgres.argv,
            env=self._base_env(),
            ready=accepts,
            stop_signal=STOP_SIGNAL,
            stop_patience_seconds=30.0,
            death_signal=DEATH_SIGNAL,
            identity=postgres.identity,
            before_start=postgres.prepare,
        )

    # ── state ────────────────────────────────────────────────────────────────────────────────────

    def publish(self) -> None:
        write_state(
            self.data.state,
            UpState(
                supervisor_pid=os.getpid(),
                ready=self.ready,
                platform_url=self.platform_url,
                orchestrator_url=self.orchestrator_url,
                agent_urls=self.agent_urls,
                database_url=self.database_url,
                org_id=self.bootstrap.org_id,
                api_token_file=str(self.data.api_token),
                port_offset=self.options.port_offset,
                processes=[program.record for program in self.programs],
                failure=self.failure,
            ),
        )

    def log_path(self, program: Program) -> Path:
        return self.data.logs / f"{program.name}.log"

    # ── life ─────────────────────────────────────────────────────────────────────────────────────

    async def start(self) -> None:
        """All programs, each after the one before is ready. Raises StartFailed with the reason."""
        self.data.logs.mkdir(exist_ok=True)
        self._check_ports()
        if self.options.external_database_url:
            with self.console.step("PostgreSQL (yours) answers"):
                await wait_and_create(self.database_url)
        else:
            fresh = not (self.data.postgres / "data" / "PG_VERSION").exists()
            with self.console.step("PostgreSQL" + (" (new cluster)" if fresh else "")):
                program = await asyncio.to_thread(self._plan_postgres)
                self.programs.append(program)
                await self._launch(program)
        self._plan_servers()
        for program in self.programs:
            if program.process is None:
                with self.console.step(program.name):
                    await self._launch(program)
        self.ready = True
        self.publish()

    def _check_ports(self) -> None:
        for url in (self.platform_url, self.orchestrator_url, *self.agent_urls):
            port = int(url.rsplit(":", 1)[1])
            if port_taken(port):
                raise StartFailed(
                    f"port {port} is taken by another program. Stop it, or shift all ports with"
                    " --port-offset 100."
                )

    async def _launch(self, program: Program) -> None:
        if program.before_start is not None and program.record.restarts:
            await asyncio.to_thread(program.before_start)
        program.process = await spawn(
            program.argv,
            env=program.env,
            log_path=self.log_path(program),
            cwd=Path("/"),
            death_signal=program.death_signal,
            identity=program.identity,
        )
        program.record.pid = program.process.pid
        program.record.started_at_ms = time.time_ns() // 1_000_000
        program.record.state = "starting"
        self.publish()
        give_up = time.monotonic() + _READY_PATIENCE_SECONDS
        while not await program.ready():
            if program.process.returncode is not None:
                raise StartFailed(
                    self._explain(program, f"exited with {_exit(program.process.returncode)}")
                )
            if time.monotonic() > give_up:
                raise StartFailed(self._explain(program, "did not become ready in 60 s"))
            await asyncio.sleep(0.03)
        program.record.state = "ready"
        self.publish()

    def _explain(self, program: Program, what: str) -> str:
        path = self.log_path(program)
        return f"{program.name} {what}. Last lines of {path}:\n{tail(path)}"

    async def watch(self) -> None:
        """Until asked to stop: restart whatever ends, with a growing pause."""
        async with asyncio.TaskGroup() as tasks:
            for program in self.programs:
                tasks.create_task(self._keep(program), name=f"keep.{program.name}")

    async def _keep(self, program: Program) -> None:
        pause = 0.1
        while True:
            assert program.process is not None
            if not await self._ended(program.process):
                return
            code = program.process.returncode
            lived = time.time_ns() // 1_000_000 - program.record.started_at_ms
            pause = 0.1 if lived > 30_000 else min(pause * 2, _RESTART_CAP_SECONDS)
            program.record.state = "restarting"
            program.record.restarts += 1
            program.record.last_exit = _exit(code)
            program.record.pid = None
            self.publish()
            self.console.say(
                f"  ! {program.name} ended ({_exit(code)}); starting it again in {pause:.1f} s"
            )
            if await self._stopped_within(pause):
                return
            try:
                await self._launch(program)
            except Exception as error:  # whatever it is, the others go on, and it is tried again
                self.console.say(f"  ! {program.name}: {error}")
                if program.process.returncode is None:
                    program.process.kill()
            else:
                self.console.say(f"  ✓ {program.name} is back")

    async def _ended(self, process: asyncio.subprocess.Process) -> bool:
        """True when the process ended, False when we are asked to stop first."""
        async with asyncio.TaskGroup() as tasks:
            waits = [
                tasks.create_task(process.wait(), name="process.wait"),
                tasks.create_task(self.stopping.wait(), name="stopping.wait"),
            ]
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        return not self.stopping.is_set()

    async def _stopped_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self.stopping.wait()
        except TimeoutError:
            return False
        return True

    async def stop(self) -> None:
        """Agents first, PostgreSQL last; whoever does not follow in time is killed."""
        self.ready = False
        agents = [p for p in self.programs if p.name.startswith("agent-")]
        rest = [p for p in reversed(self.programs) if not p.name.startswith("agent-")]
        await asyncio.gather(*(self._stop_one(program) for program in agents))
        for program in rest:
            await self._stop_one(program)
        self.publish()

    async def _stop_one(self, program: Program) -> None:
        process = program.process
        if process is not None and process.returncode is None:
            process.send_signal(program.stop_signal)
            try:
                async with asyncio.timeout(program.stop_patience_seconds):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        program.record.state = "stopped"
        program.record.pid = None


def _exit(code: int | None) -> str:
    if code is None:
        return "unknown"
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"
