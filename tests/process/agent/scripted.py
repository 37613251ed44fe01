"""A scripted orchestrator on a real WebSocket, a real `kici-agent` process, and repositories for its jobs."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import textwrap
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import zstandard
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from kici.compiler.pipeline import compile_repository
from kici.protocol import agent_v1, blocks
from kici.protocol.agent_v1 import (
    Ack,
    AgentRegister,
    AgentRequest,
    AgentResponse,
    AuthFailure,
    AuthRequest,
    AuthSuccess,
    Checkout,
    ConfigAck,
    JobCancel,
    JobDispatch,
    JobStatusUpdate,
    RegisterAck,
    RunEvent,
    StepStatusUpdate,
)
from kici.protocol.blocks import BlockHeader, decode_block
from kici.protocol.frames import unpack_log_block
from kici.spec.events import Event
from kici.spec.lock import CompilerInfo, LockFile
from kici.spec.states import JOB_TERMINAL, STEP_TERMINAL

TOKEN = "kat_" + "ab" * 32
LIMIT_S = 60.0
FrameT = TypeVar("FrameT")


class Stream:
    """One step's log as the orchestrator has it; checks every rule of the block format as blocks come."""

    def __init__(self) -> None:
        self.headers: list[BlockHeader] = []
        self.data = bytearray()
        self.lines = 0
        self.bytes = 0
        self.dropped_bytes = 0

    def add(self, record: memoryview) -> None:
        header, payload, end = decode_block(record)
        assert end == len(record)
        if header.seq < len(self.headers):
            return  # a duplicate
        assert header.seq == len(self.headers), "a block is missing"
        assert not self.headers or not self.headers[-1].flags & blocks.END, "a block after the end"
        raw = bytes(payload)
        if not header.flags & blocks.RAW:
            raw = zstandard.ZstdDecompressor().decompress(raw, max_output_size=blocks.MAX_RAW)
        assert len(raw) == header.raw_len <= blocks.MAX_RAW
        assert raw.count(b"\n") == header.line_count
        assert bool(header.dropped_bytes) == bool(header.flags & blocks.GAP)
        assert header.first_line == self.lines + header.dropped_lines
        assert header.first_byte == self.bytes + header.dropped_bytes
        self.lines = header.first_line + header.line_count
        self.bytes = header.first_byte + header.raw_len
        self.dropped_bytes += header.dropped_bytes
        self.headers.append(header)
        self.data += raw

    @property
    def ended(self) -> bool:
        return bool(self.headers) and bool(self.headers[-1].flags & blocks.END)


class Orchestrator:
    """Answers as the real one does, remembers everything, and misbehaves on request.

    `cut_at`: frame numbers at which the connection breaks: "before" loses the frame, "after" loses its ack.
    `hold_acks`: acknowledge nothing. `read_on` cleared: do not even read. `away`: take no connection.
    `blobs`: what is at which path of its HTTP address. `answers`: results of requests, by method; others stay
    unanswered.
    """

    def __init__(self) -> None:
        self.url = ""
        self.reliable: list[Any] = []  # decoded, in order, without duplicates; blocks as their headers
        self.loose: list[Any] = []
        self.registrations: list[AgentRegister] = []
        self.streams: dict[tuple[str, int, int], Stream] = defaultdict(Stream)
        self.cut_at: dict[int, str] = {}
        self.blobs: dict[str, bytes] = {}
        self.answers: dict[str, Any] = {
            "dependencies.restore": {"hit": False},
            "dependencies.save": {"skip": True},
            "dependencies.reject": {},
        }
        self.hold_acks = False
        self.away = False
        self.attempts = 0
        self.refuse: Callable[[str], str | None] = lambda token: None if token == TOKEN else "unknown token"
        self.connection: ServerConnection | None = None
        self.read_on = asyncio.Event()
        self.read_on.set()
        self._received = 0
        self._sessions: dict[str, int] = {}
        self._changed = asyncio.Condition()

    # ── scripts ──────────────────────────────────────────────────────────────────────────────────

    async def until(self, condition: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        async with asyncio.timeout(limit_s), self._changed:
            await self._changed.wait_for(condition)

    async def registered(self, times: int = 1) -> ServerConnection:
        await self.until(lambda: len(self.registrations) >= times and self.connection is not None)
        assert self.connection is not None
        return self.connection

    async def send(self, message: msgspec.Struct) -> None:
        connection = await self.registered()
        await connection.send(agent_v1.encode(message), text=True)

    async def ended(self, job_id: str, limit_s: float = LIMIT_S) -> JobStatusUpdate:
        await self.until(lambda: bool(self.terminal(job_id)), limit_s)
        return self.terminal(job_id)[-1]

    async def run(self, dispatch: JobDispatch, limit_s: float = LIMIT_S) -> JobStatusUpdate:
        await self.send(dispatch)
        return await self.ended(dispatch.job_id, limit_s)

    async def started(self, job_id: str, step_index: int = 0) -> None:
        await self.until(lambda: any(s.step_index == step_index for s in self.steps(job_id)))

    async def acknowledge(self) -> None:
        """Everything received so far, at once."""
        await self.send(Ack(up_to=self._received))

    async def go_away(self) -> None:
        """Break the connection and take none until `come_back`."""
        self.away = True
        connection = await self.registered()
        connection.transport.abort()
        await self.until(lambda: self.connection is None)

    async def come_back(self) -> None:
        self.away = False
        await self.registered(len(self.registrations) + 1)

    @property
    def received(self) -> int:
        """The highest frame number of the session."""
        return self._received

    # ── what was heard ───────────────────────────────────────────────────────────────────────────

    def of(self, kind: type[FrameT], job_id: str) -> list[FrameT]:
        return [m for m in self.reliable if isinstance(m, kind) and getattr(m, "job_id", None) == job_id]

    def terminal(self, job_id: str) -> list[JobStatusUpdate]:
        return [m for m in self.of(JobStatusUpdate, job_id) if m.state in JOB_TERMINAL]

    def steps(self, job_id: str) -> list[StepStatusUpdate]:
        return self.of(StepStatusUpdate, job_id)

    def events(self, job_id: str) -> list[str]:
        return [event.event_type for event in self.of(RunEvent, job_id)]

    def stream(self, job_id: str, step_index: int, attempt: int = 1) -> Stream:
        return self.streams[job_id, attempt, step_index]

    def text(self, job_id: str, step_index: int = 0) -> str:
        return bytes(self.stream(job_id, step_index).data).decode()

    def check_order(self, job_id: str) -> None:
        """Blocks before their step's end, everything before the job's end, streams complete."""
        ended_steps: set[int] = set()
        job_ended = False
        for message in self.reliable:
            if getattr(message, "job_id", None) != job_id:
                continue
            assert not job_ended, f"{message} after the job's end"
            if isinstance(message, BlockHeader):
                assert message.step_index not in ended_steps
            if isinstance(message, StepStatusUpdate) and message.state in STEP_TERMINAL:
                ended_steps.add(message.step_index)
                if (job_id, 1, message.step_index) in self.streams:
                    stream = self.stream(job_id, message.step_index)
                    assert stream.ended
                    assert message.log_bytes == stream.bytes
            job_ended = isinstance(message, JobStatusUpdate) and message.state in JOB_TERMINAL
        assert job_ended

    def asked(self, method: str) -> list[AgentRequest]:
        """Every asking, repetitions included."""
        return [m for m in self.loose if isinstance(m, AgentRequest) and m.method == method]

    # ── the server ───────────────────────────────────────────────────────────────────────────────

    def _http(self, _connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ws":
            return None
        body = self.blobs.get(request.path)
        if body is None:
            return Response(404, "Not Found", Headers())
        return Response(200, "OK", Headers({"Content-Length": str(len(body))}), body)

    async def _serve(self, connection: ServerConnection) -> None:
        try:
            await self._session(connection)
        except ConnectionClosed:
            pass
        finally:
            if self.connection is connection:
                self.connection = None
            await self._notify()

    async def _session(self, connection: ServerConnection) -> None:
        self.attempts += 1
        if self.away:
            await connection.close(1013)
            return
        auth = agent_v1.decode_from_agent(await connection.recv())
        assert isinstance(auth, AuthRequest)
        reason = self.refuse(auth.token)
        if reason is not None:
            await connection.send(agent_v1.encode(AuthFailure(reason=reason)), text=True)
            await connection.close(agent_v1.CLOSE_AGENT_REJECTED, reason)
            return
        await connection.send(agent_v1.encode(AuthSuccess(connection_id="c")), text=True)
        register = agent_v1.decode_from_agent(await connection.recv())
        assert isinstance(register, AgentRegister)
        self._received = self._sessions.setdefault(register.session_id, 0)
        answer = RegisterAck(agent_id=register.agent_id, labels=register.labels, acked_seq=self._received)
        await connection.send(agent_v1.encode(answer), text=True)
        assert isinstance(agent_v1.decode_from_agent(await connection.recv()), ConfigAck)
        self.connection = connection
        self.registrations.append(register)
        await self._notify()
        while True:
            await self.read_on.wait()
            frame = await connection.recv()
            if not await self._heard(connection, register.session_id, frame):
                return

    async def _heard(self, connection: ServerConnection, session: str, frame: str | bytes) -> bool:
        """False: the connection was cut."""
        if isinstance(frame, bytes):
            seq, record = unpack_log_block(frame)
            message: Any = decode_block(record)[0]
        else:
            message, record = agent_v1.decode_from_agent(frame), None
            seq = getattr(message, "seq", 0)
        if not seq:
            self.loose.append(message)
            if isinstance(message, AgentRequest) and message.method in self.answers:
                answer = AgentResponse(
                    request_id=message.request_id,
                    job_id=message.job_id,
                    result=self.answers[message.method],
                )
                await connection.send(agent_v1.encode(answer), text=True)
            await self._notify()
            return True
        if self.cut_at.get(seq) == "before":
            del self.cut_at[seq]
            connection.transport.abort()
            return False
        if seq > self._received:
            assert seq == self._received + 1, "a frame is missing"
            self._received = self._sessions[session] = seq
            self.reliable.append(message)
            if record is not None:
                self.streams[message.job_id, message.attempt, message.step_index].add(record)
        if self.cut_at.get(seq) == "after":
            del self.cut_at[seq]
            connection.transport.abort()
            return False
        if not self.hold_acks:
            await connection.send(agent_v1.encode(Ack(up_to=self._received)), text=True)
        await self._notify()
        return True

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def orchestrating() -> AsyncGenerator[Orchestrator]:
    orchestrator = Orchestrator()
    async with serve(
        orchestrator._serve,
        "127.0.0.1",
        0,
        compression=None,
        max_size=32 << 20,
        ping_interval=None,
        process_request=orchestrator._http,
    ) as server:
        orchestrator.url = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/ws"
        yield orchestrator


class AgentProcess:
    def __init__(self, process: asyncio.subprocess.Process, data_dir: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.lines: list[dict[str, Any]] = []
        self._changed = asyncio.Condition()

    async def read(self) -> None:
        assert self.process.stdout is not None
        async for line in self.process.stdout:
            self.lines.append(json.loads(line))
            async with self._changed:
                self._changed.notify_all()
        async with self._changed:
            self._changed.notify_all()

    async def logged(self, message: str) -> dict[str, Any]:
        """The first line with this message, once it is there."""

        def found() -> dict[str, Any] | None:
            return next((line for line in self.lines if line["message"] == message), None)

        async with asyncio.timeout(LIMIT_S), self._changed:
            await self._changed.wait_for(lambda: found() is not None)
        line = found()
        assert line is not None
        return line

    async def exit_status(self, limit_s: float = LIMIT_S) -> int:
        async with asyncio.timeout(limit_s):
            return await self.process.wait()

    async def get(self, path: str) -> tuple[int, bytes]:
        port = (await self.logged("agent.started"))["port"]

        def fetch() -> tuple[int, bytes]:
            request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
            try:
                with urllib.request.urlopen(request, timeout=10) as response:
                    return response.status, response.read()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read()

        return await asyncio.to_thread(fetch)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def agent(
    orchestrator: Orchestrator, data_dir: Path, *, program: Sequence[str] = (), **settings: str
) -> AsyncGenerator[AgentProcess]:
    """A `kici-agent serve` of its own; killed at the end if it still lives. `program`: another way to it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    token = data_dir.parent / "agent-token"
    token.write_text(TOKEN + "\n")
    token.chmod(0o600)
    env = {name: value for name, value in os.environ.items() if not name.startswith("KICI_")} | {
        "KICI_ORCHESTRATOR_URL": orchestrator.url,
        "KICI_AGENT_ID": "agent-1",
        "KICI_AGENT_TOKEN_FILE": str(token),
        "KICI_DATA_DIR": str(data_dir),
        "KICI_PORT": "0",
        "KICI_LOG_FORMAT": "json",
        **settings,
    }
    process = await asyncio.create_subprocess_exec(
        *(program or [str(Path(sys.executable).parent / "kici-agent")]),
        "serve",
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=None,
        limit=1 << 20,
    )
    started = AgentProcess(process, data_dir)
    async with asyncio.TaskGroup() as tasks:
        reading = tasks.create_task(started.read())
        try:
            yield started
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
            await reading


HEADER = """
import asyncio, os, sys, time
from typing import Any
from kici import *
"""


class Project:
    """A git repository with one workflow, compiled and committed, and dispatches for its jobs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self._git("init", "-q", "-b", "main")
        self._numbers = itertools.count(1)

    def write(self, files: dict[str, str]) -> "Project":
        for name, text in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        return self

    def workflow(self, body: str) -> "Project":
        """Steps and a list `jobs`; the workflow `ci` around them is added, compiled and committed."""
        source = HEADER + textwrap.dedent(body) + "\nci = workflow('ci', on=push(), jobs=jobs)\n"
        self.write({".kici/workflows/ci.py": source})
        self.compile()
        return self.commit()

    def compile(self) -> None:
        compiled = compile_repository(
            self.root / ".kici",
            compiler=CompilerInfo(sdk_version="0.1.0", sdk_bundle_hash="0" * 64, requires_python=""),
            import_limit_s=30,
        )
        assert compiled.data is not None, [problem.text() for problem in compiled.problems]
        (self.root / ".kici" / "kici.lock.json").write_bytes(compiled.data)

    def commit(self) -> "Project":
        self._git("add", "-A")
        self._git("commit", "-q", "--allow-empty", "-m", "commit")
        return self

    @property
    def sha(self) -> str:
        return self._git("rev-parse", "HEAD")

    @property
    def lock(self) -> LockFile:
        return msgspec.json.decode((self.root / ".kici" / "kici.lock.json").read_bytes(), type=LockFile)

    def dispatch(self, job: str = "build", **changes: Any) -> JobDispatch:
        (workflow,) = self.lock.workflows
        (found,) = [entry for entry in workflow.jobs if entry.name == job]
        number = next(self._numbers)
        checkout: dict[str, Any] = {"repo_url": str(self.root), "sha": self.sha, "ref": "refs/heads/main"}
        checkout.update(changes.pop("checkout", {}))
        fields: dict[str, Any] = {
            "run_id": f"run-{number}",
            "job_id": f"job-{number}",
            "attempt": 1,
            "job_name": job,
            "base_job_name": job,
            "workflow_name": workflow.name,
            "workflow_file": workflow.source.file,
            "workflow_export": (workflow.source.export or "").removeprefix("#"),
            "content_hash": workflow.content_hash,
            "compile_schema_version": workflow.compile_schema_version,
            "sdk_version": "0.1.0",
            "resolved_hash_files": workflow.resolved_hash_files,
            "job": found,
            "matrix": {},
            "checkout": Checkout(**checkout),
            "event": Event(type="push", target_branch="main"),
            "env": {"KICI_RUN_ID": f"run-{number}"},
            "upstream_outputs": {},
            "upstream_statuses": {},
            "org_id": "org_1",
            "repo_identifier": "acme/widgets",
            "request_id": f"request-{number}",
            "timestamp": 0,
        }
        return JobDispatch(**{**fields, **changes})

    def cancel(self, dispatch: JobDispatch, *, force: bool = False, reason: str = "asked to") -> JobCancel:
        return JobCancel(
            run_id=dispatch.run_id,
            job_id=dispatch.job_id,
            attempt=dispatch.attempt,
            reason=reason,
            force=force,
        )

    def _git(self, *args: str) -> str:
        identity = ["-c", "user.name=Tester", "-c", "user.email=tester@example.com"]
        done = subprocess.run(
            ["git", "-C", str(self.root), *identity, *args], check=True, capture_output=True, text=True
        )
        return done.stdout.strip()
