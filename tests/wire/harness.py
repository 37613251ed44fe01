"""An orchestrator's agent side on a real port, and agents that are scripts over real WebSockets."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from litestar import Litestar
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from kici.orchestrator.agents.assembly import ExecutionAssembly
from kici.orchestrator.agents.requests import RequestHandlers
from kici.orchestrator.dispatch.extras import DispatchExtras
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import StreamId
from kici.orchestrator.runs.execution import Limits
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import (
    Ack,
    AgentRegister,
    AuthRequest,
    AuthSuccess,
    ConfigAck,
    InFlightJob,
    JobAck,
    JobDispatch,
    JobStatusUpdate,
    RegisterAck,
    StepStatusUpdate,
)
from kici.protocol.blocks import BlockHeader, encode_block
from kici.protocol.frames import pack_log_block
from kici.runtime.clock import SystemClock
from kici.runtime.database import Wakeups, text
from kici.runtime.http import serve
from kici.runtime.ids import uuid7
from kici.runtime.metrics import Metrics
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import rows
from tests.support.postgres import Database

# The default renders every frame's locals, which takes seconds.
structlog.configure(
    processors=[
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)

CHANNELS = (
    "inbox",
    "queue",
    "outbox",
    "sources",
    "registry",
    "cancel",
    "concurrency",
    "kici_event_channel",
)
TOKEN = "kat_" + "ab" * 32
_TOKEN = text("""
    INSERT INTO agent_tokens (id, org_id, token_sha256, display, kind, labels)
    VALUES (:id, :org, sha256(convert_to(CAST(:token AS text), 'UTF8')), left(CAST(:token AS text), 8), 'static', CAST(:labels AS text[]))
    ON CONFLICT DO NOTHING
""")
PATIENCE_S = 10.0

FrameT = TypeVar("FrameT", bound=msgspec.Struct)


async def add_token(db: Database, token: str, labels: list[str] | None = None) -> str:
    async with db.engine.begin() as tx:
        await tx.execute(_TOKEN, {"id": uuid7(), "org": rows.ORG, "token": token, "labels": labels})
    return token


class Orchestrator:
    """Everything between the socket and the tables. Stop and start again: a new process, same data."""

    def __init__(
        self,
        db: Database,
        data_dir: Path,
        limits: dict[str, int],
        handlers: RequestHandlers | None = None,
        extras: DispatchExtras | None = None,
    ) -> None:
        self.db = db
        self.wakeups = Wakeups(db.url, CHANNELS)
        self.metrics = Metrics("kici_orch_")
        self.store = LogStore(str(data_dir))
        self.room = ExecutionAssembly(
            engine=db.engine,
            wakeups=self.wakeups,
            metrics=self.metrics,
            limits=Limits(**limits),
            clock=SystemClock(),
            logs=self.store,
            instance_id="orch-1",
            cluster_name="test",
            request_handlers=handlers,
            extras=extras,
        )
        self.url = ""

    async def log_of(self, run_id: str, job_id: str, attempt: int, step_index: int) -> bytes:
        return (await self.store.raw(StreamId(run_id, job_id, attempt, step_index), 0)).data

    async def run_ended(self, run: rows.Run) -> str:
        """Waits for the run's end; its status."""

        async def ended() -> bool:
            return (await rows.run(self.db.engine, run.id))["completed_at"] is not None

        await until(ended)
        return (await rows.run(self.db.engine, run.id))["status"]

    async def job_is(self, job_id: str, status: str, **columns: object) -> dict[str, Any]:
        """Waits until the job's row says so; the row."""
        row: dict[str, Any] = {}

        async def so() -> bool:
            row.update(await rows.job(self.db.engine, job_id))
            return row["status"] == status and all(row[name] == value for name, value in columns.items())

        await until(so)
        return row


@asynccontextmanager
async def orchestrator(
    db: Database,
    data_dir: Path,
    *,
    handlers: RequestHandlers | None = None,
    extras: DispatchExtras | None = None,
    **limits: int,
) -> AsyncGenerator[Orchestrator]:
    orch = Orchestrator(db, data_dir, limits, handlers, extras)
    await add_token(db, TOKEN)
    await orch.room.prepare()
    stop, bound = asyncio.Event(), asyncio.Event()

    def on_bound(port: int) -> None:
        orch.url = f"ws://127.0.0.1:{port}/ws"
        bound.set()

    app = Litestar([orch.room.route], openapi_config=None)
    async with asyncio.TaskGroup() as tasks:
        loops = [tasks.create_task(body) for body in (orch.room.run(), orch.wakeups.run())]
        server = tasks.create_task(serve(app, host="127.0.0.1", port=0, stop=stop, on_bound=on_bound))
        try:
            await bound.wait()
            yield orch
        finally:
            stop.set()
            await asyncio.wait([server], timeout=PATIENCE_S)
            for task in loops:
                task.cancel()
            await orch.store.close()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Asks again and again, bounded."""
    async with asyncio.timeout(PATIENCE_S):
        while not await condition():
            await asyncio.sleep(0.005)


class Agent:
    """One agent process: its session, its stream numbers, its unacknowledged frames. It survives sockets."""

    def __init__(self, agent_id: str = "agent-1", labels: tuple[str, ...] = ("kici:os:linux",)) -> None:
        self.agent_id = agent_id
        self.session_id = uuid7()
        self.labels = list(labels)
        self.seq = 0
        self.unacked: dict[int, bytes | str] = {}
        self.in_flight: list[InFlightJob] = []
        self.socket: ClientConnection | None = None
        self._bytes: dict[tuple[str, int, int], int] = {}

    # ── sockets ──────────────────────────────────────────────────────────────────────────────────

    async def dial(self, url: str, token: str = TOKEN, **register: Any) -> RegisterAck:
        """Opens, registers, confirms and replays."""
        await self.open(url, token)
        await self.send(self.register(**register))
        ack = await self.expect(RegisterAck)
        await self.send(ConfigAck(agent_id=self.agent_id))
        self._drop(ack.acked_seq)
        for frame in list(self.unacked.values()):
            assert self.socket is not None
            await self.socket.send(frame)
        return ack

    async def open(self, url: str, token: str = TOKEN, protocol_version: int = 1) -> None:
        self.socket = await connect(url, compression=None, ping_interval=None, max_size=None)
        await self.send(AuthRequest(token=token, protocol_version=protocol_version))
        await self.expect(AuthSuccess)

    def register(self, **fields: Any) -> AgentRegister:
        values: dict[str, Any] = {
            "agent_id": self.agent_id,
            "session_id": self.session_id,
            "labels": self.labels,
            "in_flight": self.in_flight,
            "first_seq": min(self.unacked, default=self.seq + 1),
            "last_seq": self.seq,
            "platform": "linux",
            "arch": "x64",
            "version": "0",
            "hostname": "host",
            "python_version": "3.11",
        }
        return AgentRegister(**{**values, **fields})

    async def cut(self) -> None:
        """The network goes: no goodbye."""
        assert self.socket is not None
        self.socket.transport.abort()
        await self.socket.wait_closed()

    async def hang_up(self) -> None:
        assert self.socket is not None
        await self.socket.close()

    async def closed(self) -> tuple[int, str]:
        """Waits for the other side to close; code and reason."""
        assert self.socket is not None
        async with asyncio.timeout(PATIENCE_S):
            async for _ in _frames(self.socket):
                pass
        return self.socket.close_code or 0, self.socket.close_reason or ""

    # ── frames ───────────────────────────────────────────────────────────────────────────────────

    async def send(self, message: msgspec.Struct | str) -> None:
        assert self.socket is not None
        await self.socket.send(message if isinstance(message, str) else agent_v1.encode(message).decode())

    async def tell(self, kind: Callable[..., msgspec.Struct], job: JobDispatch, **fields: Any) -> int:
        """A reliable frame about `job`; its number. Kept until acknowledged."""
        self.seq += 1
        keys = {"run_id": job.run_id, "job_id": job.job_id, "attempt": job.attempt}
        times: dict[str, Any] = (
            {} if "timestamp_ms" in fields or "context" in fields else {"timestamp": SystemClock().now_ms()}
        )
        frame = agent_v1.encode(kind(seq=self.seq, **keys, **{**times, **fields})).decode()
        self.unacked[self.seq] = frame
        if self.socket is not None:
            await self.socket.send(frame)
        return self.seq

    async def log(self, job: JobDispatch, step: int, block: int, line: str, flags: int = 0) -> int:
        """One raw block of one line."""
        self.seq += 1
        data = line.encode()
        stream = (job.job_id, job.attempt, step)
        first_byte = self._bytes.get(stream, 0)
        self._bytes[stream] = first_byte + len(data)
        header = BlockHeader(
            job_id=job.job_id,
            attempt=job.attempt,
            step_index=step,
            seq=block,
            first_line=block,
            line_count=1 if data else 0,
            first_byte=first_byte,
            raw_len=len(data),
            first_ts_ms=1,
            last_ts_ms=2,
            flags=flags | 8,
        )
        frame = pack_log_block(self.seq, encode_block(header, data))
        self.unacked[self.seq] = frame
        if self.socket is not None:
            await self.socket.send(frame)
        return self.seq

    async def expect(self, kind: type[FrameT]) -> FrameT:
        """The next frame of `kind`; acknowledgements and heartbeats on the way are taken in."""
        assert self.socket is not None
        async with asyncio.timeout(PATIENCE_S):
            while True:
                frame = agent_v1.decode_to_agent(await self.socket.recv())
                if isinstance(frame, Ack):
                    self._drop(frame.up_to)
                if isinstance(frame, kind):
                    return frame

    async def acked(self, seq: int) -> None:
        """Until everything up to `seq` is durable at the other side."""
        while min(self.unacked, default=seq + 1) <= seq:
            await self.expect(Ack)

    def _drop(self, up_to: int) -> None:
        for seq in [seq for seq in self.unacked if seq <= up_to]:
            del self.unacked[seq]

    async def step(self, job: JobDispatch, index: int, **fields: Any) -> int:
        values: dict[str, Any] = {"state": StepStatus.SUCCESS, "step_name": f"step {index}", **fields}
        return await self.tell(StepStatusUpdate, job, step_index=index, **values)

    # ── a job ────────────────────────────────────────────────────────────────────────────────────

    async def take(self) -> JobDispatch:
        """Waits for a dispatch and acknowledges it."""
        job = await self.expect(JobDispatch)
        self.in_flight = [InFlightJob(job_id=job.job_id, run_id=job.run_id, attempt=job.attempt)]
        await self.tell(JobAck, job)
        return job

    async def finish(self, job: JobDispatch, state: JobStatus = JobStatus.SUCCESS, **fields: Any) -> int:
        self.in_flight = []
        return await self.tell(JobStatusUpdate, job, state=state, **fields)

    async def perform(self, job: JobDispatch) -> int:
        """A whole trivial job after its acknowledgement."""
        await self.tell(JobStatusUpdate, job, state=JobStatus.RUNNING)
        await self.tell(StepStatusUpdate, job, step_index=0, step_name="work", state=StepStatus.RUNNING)
        await self.log(job, 0, 0, "hello\n")
        await self.log(job, 0, 1, "", flags=2)
        await self.tell(
            StepStatusUpdate,
            job,
            step_index=0,
            step_name="work",
            state=StepStatus.SUCCESS,
            exit_code=0,
            log_lines=1,
            log_bytes=6,
        )
        return await self.finish(job)


async def _frames(socket: ClientConnection) -> AsyncGenerator[str | bytes]:
    while True:
        try:
            yield await socket.recv()
        except ConnectionClosed:
            return
