"""One connection to the Platform, from its greeting to its end (PD-12…18).

Order: `auth.request` → `auth.success` → `source.register` → its ack → the outbox and all else. Relays and
requests are answered concurrently and in any order; blocks of watched logs wait for each other, so that
an answer never stands behind more than one of them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import ClassVar, Protocol

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection

from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.link.projection import ProjectionSender
from kici.orchestrator.link.watches import Logs, Watches
from kici.orchestrator.rpc import BytesAnswer, RpcMethod, answer
from kici.protocol import platform_v1 as wire
from kici.protocol.agent_v1 import CLOSE_HEARTBEAT
from kici.protocol.frames import RELAY, RPC_BYTES, pack_headed, unpack_headed
from kici.runtime.clock import Clock
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import Metrics
from kici.spec.errors import KiciError

log = get_logger(__name__)

GREETING_SECONDS = 10.0
HEARTBEAT_SECONDS = 30.0
UNHEALTHY_SECONDS = 90.0
DEAD_SECONDS = 180.0
ACCEPT_SECONDS = 30.0
MAX_RELAYS = 512
MAX_RELAY_BYTES = 128 << 20
MAX_REQUESTS = 256

Accept = Callable[[Delivery], Awaitable[Acceptance]]
_decode_relay = msgspec.json.Decoder(wire.WebhookRelay).decode


class AuthRefused(KiciError):
    """The Platform does not take our key or version."""

    code: ClassVar[str] = "platform_auth_refused"


class LinkLost(KiciError):
    """The connection ended, or what came makes no sense."""

    code: ClassVar[str] = "platform_link_lost"


class Sources(Protocol):
    """`kici.orchestrator.sources.index.SourceIndex`, as far as the link needs it."""

    def infos(self) -> list[wire.SourceInfo]: ...


class LinkMetrics:
    def __init__(self, metrics: Metrics) -> None:
        self.connected = metrics.gauge("platform_connected", "1 while the Platform is connected")
        self.connections = metrics.counter(
            "platform_connections_total", "Connections by outcome", ["result"]
        )
        self.relays = metrics.counter("platform_relays_total", "Relayed webhooks by answer", ["result"])
        self.requests = metrics.counter("platform_requests_total", "RPC requests by outcome", ["result"])
        self.watches = metrics.gauge("platform_log_watches", "Log streams that the Platform follows")


class Shared(Struct, frozen=True, kw_only=True):
    """What all sessions of a process use."""

    hello: wire.AuthRequest
    methods: Mapping[str, RpcMethod]
    accept: Accept
    sources: Sources
    logs: Logs
    projection: ProjectionSender
    clock: Clock
    metrics: LinkMetrics


class Session:
    def __init__(self, socket: ClientConnection, shared: Shared, sources_changed: asyncio.Event) -> None:
        self._socket = socket
        self._shared = shared
        self._sources_changed = sources_changed
        self._registered = asyncio.Event()
        self._register_id = ""
        self._last_heard = 0.0
        self._relays = 0
        self._relay_bytes = 0
        self._relay_room = asyncio.Event()
        self._requests = 0
        self.org_id = ""
        self.webhook_urls: dict[str, str] = {}  # by routing key, as the Platform serves them

    async def greet(self) -> None:
        """Raises AuthRefused, LinkLost."""
        try:
            async with asyncio.timeout(GREETING_SECONDS):
                await self._send(self._shared.hello)
                frame = await self._socket.recv()
        except TimeoutError:
            raise LinkLost("the Platform did not answer the greeting") from None
        try:
            message = wire.decode_to_orchestrator(frame)
        except msgspec.MsgspecError as error:
            raise LinkLost(f"the Platform answered the greeting with {frame[:100]!r}") from error
        match message:
            case wire.AuthSuccess():
                self.org_id = message.org_id
            case wire.AuthFailure():
                raise AuthRefused(message.reason)
            case _:
                raise LinkLost(f"the Platform answered the greeting with {type(message).__name__}")

    async def run(self) -> None:
        """Until the connection ends: always raises."""
        self._last_heard = asyncio.get_running_loop().time()
        async with asyncio.TaskGroup() as tasks:
            watches = Watches(
                self._shared.logs,
                self.org_id,
                tasks,
                send_bytes=self._send_bytes,
                send_text=self._send_text,
                gauge=self._shared.metrics.watches,
            )
            tasks.create_task(self._receive(tasks, watches), name="link.receive")
            tasks.create_task(self._register(), name="link.register")
            tasks.create_task(self._heartbeats(), name="link.heartbeat")
            try:
                async with asyncio.timeout(GREETING_SECONDS):
                    await self._registered.wait()
            except TimeoutError:
                raise LinkLost("the Platform did not take our sources") from None
            tasks.create_task(self._shared.projection.run(self._send_text), name="link.projection")

    # ── sending ──────────────────────────────────────────────────────────────────────────────────

    async def _send(self, message: Struct) -> None:
        await self._socket.send(wire.encode(message), text=True)

    async def _send_text(self, frame: bytes) -> None:
        await self._socket.send(frame, text=True)

    async def _send_bytes(self, frame: bytes) -> None:
        await self._socket.send(frame)

    async def _heartbeats(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._send(wire.Heartbeat(timestamp=self._shared.clock.now_ms()))
            await asyncio.sleep(HEARTBEAT_SECONDS)
            silent = loop.time() - self._last_heard
            if silent > DEAD_SECONDS:
                await self._socket.close(CLOSE_HEARTBEAT, "no heartbeat")
                raise LinkLost(f"nothing was heard for {silent:.0f} s")
            if silent > UNHEALTHY_SECONDS:
                log.warning("platform.silent", seconds=round(silent))

    async def _register(self) -> None:
        while True:
            self._sources_changed.clear()
            self._register_id = uuid7()
            sources = self._shared.sources.infos()
            await self._send(wire.SourceRegister(message_id=self._register_id, sources=sources))
            await self._sources_changed.wait()

    # ── receiving ────────────────────────────────────────────────────────────────────────────────

    async def _receive(self, tasks: asyncio.TaskGroup, watches: Watches) -> None:
        loop = asyncio.get_running_loop()
        async for frame in self._socket:
            self._last_heard = loop.time()
            if isinstance(frame, str):
                try:
                    message = wire.decode_to_orchestrator(frame)
                except (msgspec.MsgspecError, RecursionError) as error:
                    log.warning("platform.frame_unknown", reason=str(error)[:200])
                    continue
                self._take(message, tasks, watches)
            elif frame[:1] == bytes([RELAY]) and len(frame) >= 5:
                while self._relays >= MAX_RELAYS or self._relay_bytes >= MAX_RELAY_BYTES:
                    self._relay_room.clear()
                    await self._relay_room.wait()
                self._relays += 1
                self._relay_bytes += len(frame)
                tasks.create_task(self._relay(frame), name="link.relay")
            else:
                log.warning("platform.frame_unknown", kind=frame[0] if frame else None)
        raise LinkLost("the Platform closed the connection")

    def _take(self, message: wire.ToOrchestrator, tasks: asyncio.TaskGroup, watches: Watches) -> None:
        match message:
            case wire.ProjectionAck():
                self._shared.projection.acknowledged(message.batch_id)
            case wire.RpcRequest():
                busy = self._requests >= MAX_REQUESTS
                self._requests += 1
                tasks.create_task(self._answer(message, busy=busy), name="link.rpc")
            case wire.LogWatch():
                watches.start(message)
            case wire.LogUnwatch():
                watches.stop(message.watch_id)
            case wire.SourceRegisterAck():
                if message.message_id == self._register_id:
                    self.webhook_urls = {
                        source.routing_key: source.webhook_url
                        for source in message.accepted
                        if source.webhook_url is not None
                    }
                    log.info("platform.sources_registered", count=len(message.accepted))
                    self._registered.set()
            case wire.AuthFailure():
                log.error("platform.auth_failed", reason=message.reason)
            case wire.Heartbeat() | wire.AuthSuccess():
                pass

    async def _relay(self, frame: bytes) -> None:
        """Stored, then acknowledged. Without an acknowledgement the Platform keeps the delivery and
        sends it again."""
        result = "failed"
        try:
            head_bytes, body = unpack_headed(frame)
            try:
                head = _decode_relay(head_bytes)
            except msgspec.MsgspecError as error:
                log.error("platform.relay_unreadable", reason=str(error)[:200])
                return
            with bind(request_id=head.request_id, routing_key=head.routing_key):
                delivery = Delivery(
                    headers=head.headers,
                    body=bytes(body),
                    via="relay",
                    request_id=head.request_id,
                    client_ip=head.client_ip,
                    routing_key=head.routing_key,
                )
                try:
                    async with asyncio.timeout(ACCEPT_SECONDS):
                        accepted = await self._shared.accept(delivery)
                except Exception as error:
                    log.error("platform.relay_not_stored", exc_info=error)
                    return
                result = accepted.result
                await self._send(
                    wire.WebhookAck(
                        message_id=head.message_id,
                        delivery_id=accepted.delivery_id,
                        result=accepted.result,
                        duplicate=accepted.duplicate,
                        filtered=accepted.filtered,
                        reason=accepted.reason,
                    )
                )
        finally:
            self._shared.metrics.relays.labels(result).inc()
            self._relays -= 1
            self._relay_bytes -= len(frame)
            self._relay_room.set()

    async def _answer(self, request: wire.RpcRequest, *, busy: bool) -> None:
        """Exactly one answer, whatever happens."""
        try:
            frame, is_text, result = await self._frame(request, busy=busy)
            self._shared.metrics.requests.labels(result).inc()
            await (self._send_text(frame) if is_text else self._send_bytes(frame))
        finally:
            self._requests -= 1

    async def _frame(self, request: wire.RpcRequest, *, busy: bool) -> tuple[bytes, bool, str]:
        if busy:
            refused = wire.RpcResponse(
                id=request.id, error_code="busy", error="too many requests at once; try again", status=503
            )
            return wire.encode(refused), True, "busy"
        said = await answer(self._shared.methods, request, org_id=self.org_id)
        try:
            if isinstance(said, BytesAnswer):
                return pack_headed(RPC_BYTES, wire.encode(said.head), said.data), False, "ok"
            return wire.encode(said), True, said.error_code or "ok"
        except (TypeError, ValueError, msgspec.MsgspecError) as error:
            log.error("rpc.not_encodable", method=request.method, exc_info=error)
            failed = wire.RpcResponse(
                id=request.id,
                error_code="internal_error",
                error="Something went wrong in the orchestrator; its log has the rest",
                status=500,
            )
            return wire.encode(failed), True, "internal_error"
