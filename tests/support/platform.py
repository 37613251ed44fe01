"""A Platform on a real port, and an orchestrator that follows a script over a real WebSocket."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import websockets

from kici.platform import app as root
from kici.platform.settings import PlatformSettings
from kici.protocol import platform_v1 as wire
from kici.protocol.dashboard_v1 import JobProjection, JobView, RunProjection, SourceRef, StepProjection
from kici.protocol.frames import RELAY, RPC_BYTES, pack_headed, pack_watched_block, unpack_headed
from kici.runtime import http
from kici.runtime.clock import Clock
from kici.runtime.ids import uuid7
from kici.spec.states import JobStatus, RunStatus, StepStatus
from tests.support.postgres import Database

ORG = "org_aaaaaaaaaaaa"
KEY = "kici_ok_" + "k" * 43
TOKEN = "kici_pat_" + "p" * 43
SETUP_TOKEN = "setup-token"
EMAIL = "operator@example.org"
PASSWORD = "a long enough pass phrase"
SETUP = {"token": SETUP_TOKEN, "email": "Alice@Example.org", "password": PASSWORD, "displayName": "Alice"}
START_MS = 1_800_000_000_000


class TestClock:
    """A clock that a test moves."""

    __test__ = False

    def __init__(self, now_ms: int = START_MS) -> None:
        self.ms = now_ms

    def now_ms(self) -> int:
        return self.ms

    def advance(self, *, seconds: float) -> None:
        self.ms += int(seconds * 1000)


def bootstrap_file(folder: Path) -> str:
    path = folder / "bootstrap.json"
    path.write_bytes(
        msgspec.json.encode(
            {
                "orgId": ORG,
                "orgAlias": "oal_bbbbbbbbbbbb",
                "orgName": "Example",
                "orchestratorKey": KEY,
                "apiToken": TOKEN,
                "userEmail": EMAIL,
                "setupToken": SETUP_TOKEN,
            }
        )
    )
    return str(path)


@dataclass(frozen=True)
class Served:
    app: root.App
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def origin(self) -> str:
        return self.url

    @property
    def api(self) -> str:
        return f"{self.url}/api/v1/orgs/{ORG}"

    def client(self, *, token: str | None = TOKEN, **options: Any) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=20, **options)

    def browser(self) -> httpx.AsyncClient:
        """Cookies, our CSRF header, our Origin."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"x-kici-csrf": "1", "origin": self.origin}, timeout=20
        )


@asynccontextmanager
async def platform(
    database: Database, folder: Path, *, clock: Clock | None = None, **changes: Any
) -> AsyncGenerator[Served]:
    options: dict[str, Any] = {
        "database_url": database.url,
        "secret_key": "ab" * 32,
        "port": 0,
        "bootstrap_file": bootstrap_file(folder),
        "platform_instance_id": "test",
        **changes,
    }
    stop = asyncio.Event()
    bound: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with root.running(PlatformSettings(**options), clock) as app, asyncio.TaskGroup() as tasks:
        server: Any = app.front
        tasks.create_task(
            http.serve(server, host="127.0.0.1", port=options["port"], stop=stop, on_bound=bound.set_result)
        )
        try:
            async with asyncio.timeout(10):
                port = await bound
            yield Served(app, port)
        finally:
            stop.set()


Accept = Callable[[wire.WebhookRelay, bytes], Awaitable[wire.AckResult | None]]
Answer = Callable[[dict[str, Any]], Any]


async def accept_all(_head: wire.WebhookRelay, _body: bytes) -> wire.AckResult:
    return "accepted"


@dataclass
class Orchestrator:
    """What it received is kept in `relayed`, `acks`, `watches`; `methods` answers RPC."""

    socket: websockets.ClientConnection
    hello: wire.AuthSuccess
    accept: Accept = accept_all
    methods: dict[str, Answer] = field(default_factory=dict)
    relayed: list[tuple[wire.WebhookRelay, bytes]] = field(default_factory=list)
    acked_batches: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    registered: asyncio.Queue[wire.SourceRegisterAck] = field(default_factory=asyncio.Queue)
    watches: asyncio.Queue[wire.LogWatch] = field(default_factory=asyncio.Queue)
    unwatched: asyncio.Queue[int] = field(default_factory=asyncio.Queue)
    requests: list[wire.RpcRequest] = field(default_factory=list)
    next_batch: int = 0

    async def send(self, message: msgspec.Struct) -> None:
        await self.socket.send(wire.encode(message).decode())

    async def register(self, *names: str, max_bytes: int = 1 << 20) -> wire.SourceRegisterAck:
        await self.send(
            wire.SourceRegister(
                message_id=uuid7(),
                sources=[
                    wire.SourceInfo(
                        routing_key=f"generic:{ORG}:{name}-id",
                        name=name,
                        provider="generic",
                        subtype="generic_webhook",
                        max_payload_bytes=max_bytes,
                    )
                    for name in names
                ],
            )
        )
        async with asyncio.timeout(10):
            return await self.registered.get()

    async def project(self, *items: wire.ProjectionItem) -> None:
        """Returns when the Platform acknowledged."""
        self.next_batch += 1
        await self.send(wire.ProjectionBatch(batch_id=self.next_batch, items=list(items)))
        async with asyncio.timeout(10):
            while await self.acked_batches.get() != self.next_batch:
                pass

    async def block(self, watch_id: int, record: bytes) -> None:
        await self.socket.send(pack_watched_block(watch_id, record))

    async def run(self) -> None:
        with contextlib.suppress(websockets.ConnectionClosed):
            await self._serve()

    async def _serve(self) -> None:
        async for frame in self.socket:
            if isinstance(frame, bytes):
                assert frame[0] == RELAY
                head_bytes, body = unpack_headed(frame)
                head = msgspec.json.decode(head_bytes, type=wire.WebhookRelay)
                self.relayed.append((head, bytes(body)))
                result = await self.accept(head, bytes(body))
                if result is not None:
                    await self.send(
                        wire.WebhookAck(
                            message_id=head.message_id, delivery_id=head.request_id, result=result
                        )
                    )
                continue
            match wire.decode_to_orchestrator(frame):
                case wire.ProjectionAck() as ack:
                    self.acked_batches.put_nowait(ack.batch_id)
                case wire.SourceRegisterAck() as ack:
                    self.registered.put_nowait(ack)
                case wire.LogWatch() as watch:
                    self.watches.put_nowait(watch)
                case wire.LogUnwatch() as unwatch:
                    self.unwatched.put_nowait(unwatch.watch_id)
                case wire.RpcRequest() as request:
                    await self._answer(request)
                case _:
                    pass

    async def _answer(self, request: wire.RpcRequest) -> None:
        self.requests.append(request)
        answer = self.methods.get(request.method)
        if answer is None:
            await self.send(
                wire.RpcResponse(id=request.id, error_code="unsupported_request_type", status=501)
            )
            return
        result = answer(request.params)
        if result is None:
            return
        if isinstance(result, tuple):
            meta, data = result
            head = msgspec.json.encode(wire.RpcBytes(id=request.id, meta=meta))
            await self.socket.send(pack_headed(RPC_BYTES, head, data))
        elif isinstance(result, wire.RpcResponse):
            await self.send(msgspec.structs.replace(result, id=request.id))
        else:
            await self.send(wire.RpcResponse(id=request.id, result=msgspec.to_builtins(result)))


def greeting(token: str = KEY, **changes: Any) -> wire.AuthRequest:
    options: dict[str, Any] = {
        "token": token,
        "protocol_version": wire.PROTOCOL_VERSION,
        "instance_id": "orch-1",
        "cluster_name": "default",
        "version": "0.1.0",
        "mode": "hybrid",
        "hostname": "host",
        **changes,
    }
    return wire.AuthRequest(**options)


@asynccontextmanager
async def orchestrator(
    served: Served,
    *,
    sources: Sequence[str] = ("hooks",),
    accept: Accept = accept_all,
    methods: Mapping[str, Answer] | None = None,
    max_bytes: int = 1 << 20,
    **hello: Any,
) -> AsyncGenerator[Orchestrator]:
    async with websockets.connect(
        f"ws://127.0.0.1:{served.port}/ws", max_size=32 << 20, compression=None, ping_interval=None
    ) as socket:
        await socket.send(wire.encode(greeting(**hello)).decode())
        first = wire.decode_to_orchestrator(await socket.recv())
        assert isinstance(first, wire.AuthSuccess), first
        scripted = Orchestrator(socket, first, accept, dict(methods or {}))
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(scripted.run())
            if sources:
                await scripted.register(*sources, max_bytes=max_bytes)
            try:
                yield scripted
            finally:
                running.cancel()


# ── projections ──────────────────────────────────────────────────────────────────────────────────

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


def run_projection(run_id: str | None = None, **changes: Any) -> RunProjection:
    source = changes.pop("source_name", "hooks")
    values: dict[str, Any] = {
        "run_id": run_id or uuid7(),
        "workflow_name": "ci",
        "workflow_file": ".kici/workflows/ci.py",
        "status": RunStatus.RUNNING,
        "repo_identifier": "demo/app",
        "repo_url": None,
        "provider": "generic",
        "ref": "refs/heads/main",
        "branch": "main",
        "sha": "a" * 40,
        "commit_message": "Say hello",
        "trigger_event": "push",
        "trigger_reason": "push to main matched push(branches=['main'])",
        "source": SourceRef(
            routing_key=f"generic:{ORG}:{source}-id",
            name=source,
            subtype="generic_webhook",
            provider="generic",
        ),
        "request_id": "r",
        "delivery_id": None,
        "triggered_by": "alice",
        "cancelled_by": None,
        "parent_run_id": None,
        "failure_reason": None,
        "init_failure": None,
        "timeout_reason": None,
        "waiting_reason": None,
        "concurrency_group": None,
        "check_mode": "apply",
        "is_test_run": False,
        "rules": [],
        "inputs": {},
        "job_count": 1,
        "has_payload": True,
        "log_bytes": 0,
        "created_at": NOON,
        "started_at": None,
        "completed_at": None,
        "duration_ms": None,
        **changes,
    }
    values.setdefault("display_status", str(values["status"]))
    return RunProjection(**values)


def job_projection(run_id: str, job_id: str | None = None, **changes: Any) -> JobProjection:
    values: dict[str, Any] = {
        "run_id": run_id,
        "job_id": job_id or uuid7(),
        "job_name": "test",
        "display_name": "test",
        "base_job_name": "test",
        "variant_kind": None,
        "variant_label": None,
        "matrix_values": None,
        "position": 0,
        "kind": "job",
        "rules": [],
        "secret_output_keys": [],
        "status": JobStatus.RUNNING,
        "attempt": 1,
        "waiting_reason": None,
        "agent_id": "agent-1",
        "runs_on_labels": ["default"],
        "needs": [],
        "error_message": None,
        "init_failure": None,
        "timeout_reason": None,
        "outputs": None,
        "log_bytes": 0,
        "queued_at": NOON,
        "started_at": NOON,
        "completed_at": None,
        "duration_ms": None,
        **changes,
    }
    return JobProjection(**values)


def job_view(job: JobProjection, **changes: Any) -> JobView:
    """As the orchestrator shows `job` in detail."""
    values: dict[str, Any] = {
        **{name: getattr(job, name) for name in job.__struct_fields__},
        "description": "",
        "place": None,
        "step_places": [],
        "steps": [],
        "context": None,
        **changes,
    }
    return JobView(**values)


def step_projection(run_id: str, job_id: str, step_index: int = 0, **changes: Any) -> StepProjection:
    values: dict[str, Any] = {
        "run_id": run_id,
        "job_id": job_id,
        "attempt": 1,
        "step_index": step_index,
        "step_name": f"step {step_index}",
        "step_type": "step",
        "status": StepStatus.RUNNING,
        "exit_code": None,
        "error_message": None,
        "log_lines": None,
        "log_bytes": None,
        "concurrency_kind": "sequential",
        "group_id": None,
        "check_outcome": None,
        "drift_summary": None,
        "rules": [],
        "secrets_accessed": [],
        "summary": None,
        "annotations": [],
        "started_at": NOON,
        "completed_at": None,
        "duration_ms": None,
        **changes,
    }
    return StepProjection(**values)


def item(rev: int, run_id: str, **parts: Any) -> wire.ProjectionItem:
    return wire.ProjectionItem(rev=rev, run_id=run_id, **parts)


async def eventually(probe: Callable[[], Awaitable[Any] | Any], *, within_seconds: float = 10) -> Any:
    """The first truthy answer."""
    async with asyncio.timeout(within_seconds):
        while True:
            answer = probe()
            if isinstance(answer, Awaitable):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)
