"""One orchestrator socket from accept to close: greeting, then frames until it ends (PD-12…18).

Frames are handled in order. What needs the database (projection, registration) goes to the connection's
own worker, so that webhook acknowledgements and RPC answers never wait behind it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kici.platform.errors import DATABASE_TROUBLE, database_is_away
from kici.platform.link import queries
from kici.platform.link.connection import (
    BytesAnswer,
    Connection,
    ConnectionGone,
    Connections,
    FromOrchestrator,
    RpcAnswer,
    decode,
)
from kici.platform.orgs import queries as org_queries
from kici.platform.people import tokens
from kici.platform.projection.service import ProjectionService
from kici.platform.relay.sources import SourceDirectory
from kici.platform.settings import Origins
from kici.protocol import platform_v1 as wire
from kici.protocol.frames import RPC_BYTES, WATCHED_BLOCK, unpack_headed, unpack_watched_block
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

AUTH_SECONDS = 10
HEARTBEAT_SECONDS = 30
SILENCE_SECONDS = 180
_PENDING_BATCHES = 32
_BAD_FRAMES = 3

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Work = wire.ProjectionBatch | wire.SourceRegister


class Closed(Exception):
    """The socket is to be closed with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


class LinkEndpoint:
    """Serves `/ws`. `on_change` hears (org id, cluster, connected) when an orchestrator comes or goes;
    `on_sources` hears (org id) after a registration."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        clock: Clock,
        connections: Connections,
        directory: SourceDirectory,
        projection: ProjectionService,
        origins: Origins,
        replica: str,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._connections = connections
        self._directory = directory
        self._projection = projection
        self._origins = origins
        self._replica = replica
        self._active = metrics.gauge("ws_connections_active", "Orchestrator sockets open")
        self._opened = metrics.counter(
            "ws_connections_total", "Orchestrator sockets by outcome", ["status"]
        )
        self._received = metrics.counter(
            "ws_messages_received_total", "Frames from orchestrators", ["type"]
        )
        self.on_change: list[Callable[[str, str, bool], None]] = []
        self.on_sources: list[Callable[[str], None]] = []

    async def serve(self, _scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept"})
        try:
            connection = await self._greet(receive, send)
        except Closed as closed:
            self._opened.labels("refused").inc()
            await _close(send, closed.code)
            return
        except TimeoutError:
            self._opened.labels("auth_timeout").inc()
            await _close(send, 4002)
            return
        self._opened.labels("accepted").inc()
        with bind(connection_id=connection.connection_id, org_id=connection.org_id):
            await self._run(connection, receive, send)

    def close_key(self, key_id: str) -> None:
        """The key was revoked: its sockets end (PD-49)."""
        for connection in self._connections.all():
            if connection.key_id == key_id:
                connection.close(4001)

    # ── greeting ─────────────────────────────────────────────────────────────────────────────────

    async def _greet(self, receive: Receive, send: Send) -> Connection:
        async with asyncio.timeout(AUTH_SECONDS):
            frame = await receive()
        if frame["type"] != "websocket.receive" or frame.get("text") is None:
            raise Closed(4005)
        try:
            hello = decode(frame["text"])
        except msgspec.MsgspecError:
            raise Closed(4003) from None
        if not isinstance(hello, wire.AuthRequest):
            raise Closed(4005)
        if hello.protocol_version < wire.MIN_PROTOCOL_VERSION:
            await _refuse(
                send, f"protocol version {hello.protocol_version} is too old: upgrade the orchestrator"
            )
        if not hello.token.startswith(tokens.ORCHESTRATOR_KEY):
            await _refuse(send, "an orchestrator key (kici_ok_…) is needed here")
        try:
            connection = await self._admit(hello, send)
        except DATABASE_TROUBLE as error:
            if not database_is_away(error):
                raise
            # A pool notices by use that its connections were cut; what comes next is fresh.
            try:
                connection = await self._admit(hello, send)
            except DATABASE_TROUBLE as again:
                log.warning("link.database_away", exc_info=again)
                raise Closed(4006) from again
        if connection is None:
            await _refuse(send, "unknown or revoked orchestrator key")
            raise AssertionError
        await connection.send(
            wire.AuthSuccess(
                connection_id=connection.connection_id,
                org_id=connection.org_id,
                org_public_alias=connection.org_alias,
            )
        )
        return connection

    async def _admit(self, hello: wire.AuthRequest, send: Send) -> Connection | None:
        """None for a key that is unknown or revoked."""
        now = to_datetime(self._clock.now_ms())
        async with self._engine.begin() as tx:
            key = await org_queries.use_key(tx, tokens.digest(hello.token), now)
            if key is None:
                return None
            connection = Connection(
                connection_id=uuid7(),
                org_id=key["org_id"],
                org_alias=key["alias"],
                key_id=key["id"],
                hello=msgspec.structs.replace(hello, token=""),
                asgi_send=send,
                last_heard=asyncio.get_running_loop().time(),
            )
            await queries.note_connected(
                tx,
                org_id=connection.org_id,
                key_id=connection.key_id,
                connection_id=connection.connection_id,
                hello=hello,
                replica=self._replica,
                now=now,
            )
        return connection

    # ── the session ──────────────────────────────────────────────────────────────────────────────

    async def _run(self, connection: Connection, receive: Receive, send: Send) -> None:
        work: asyncio.Queue[Work] = asyncio.Queue(maxsize=_PENDING_BATCHES)
        self._connections.add(connection)
        self._active.inc()
        hello = connection.hello
        log.info(
            "orchestrator.connected",
            cluster=hello.cluster_name,
            instance_id=hello.instance_id,
            version=hello.version,
        )
        self._changed(connection, connected=True)
        try:
            async with asyncio.TaskGroup() as tasks:
                loops = [
                    tasks.create_task(self._receive(connection, receive, work), name="link.receive"),
                    tasks.create_task(self._work(connection, work), name="link.work"),
                    tasks.create_task(self._heartbeat(connection), name="link.heartbeat"),
                ]
                await connection.closing.wait()
                for task in loops:
                    task.cancel()
        except* ConnectionGone:
            pass  # a send met the closing socket
        except* Exception as failures:
            connection.close(4006)
            for failure in failures.exceptions:
                log.error("link.failed", exc_info=failure)
        finally:
            connection.close(1001)
            self._connections.remove(connection)
            self._active.dec()
            log.info("orchestrator.disconnected", code=connection.close_code)
            self._changed(connection, connected=self._connections.connected(connection.org_id))
            await asyncio.shield(self._note_gone(connection))
        await _close(send, connection.close_code)

    def _changed(self, connection: Connection, *, connected: bool) -> None:
        for told in self.on_change:
            told(connection.org_id, connection.hello.cluster_name, connected)

    async def _note_gone(self, connection: Connection) -> None:
        try:
            async with asyncio.timeout(3), self._engine.begin() as tx:
                await queries.note_gone(tx, connection.connection_id, to_datetime(self._clock.now_ms()))
        except Exception as error:  # the next start releases the row
            log.warning("orchestrator.not_released", exc_info=error)

    async def _receive(self, connection: Connection, receive: Receive, work: asyncio.Queue[Work]) -> None:
        bad = 0
        loop = asyncio.get_running_loop()
        while True:
            frame = await receive()
            if frame["type"] != "websocket.receive":
                connection.close(1001)
                return
            connection.last_heard = loop.time()
            data = frame.get("bytes")
            if data is not None:
                self._binary(connection, data)
                continue
            try:
                message = decode(frame["text"])
            except msgspec.ValidationError as error:
                log.warning("link.frame_unknown", reason=str(error)[:200])
                continue
            except msgspec.DecodeError:
                bad += 1
                if bad >= _BAD_FRAMES:
                    connection.close(4003)
                    return
                continue
            bad = 0
            if isinstance(message, wire.ProjectionBatch | wire.SourceRegister):
                self._received.labels("state").inc()
                await work.put(message)
            else:
                self._text(connection, message)

    def _text(self, connection: Connection, message: FromOrchestrator) -> None:
        match message:
            case wire.WebhookAck():
                waiting = connection.relays.get(message.message_id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
            case RpcAnswer():
                asked = connection.calls.get(message.id)
                if asked is not None and not asked.done():
                    asked.set_result(message)
            case wire.LogWatchEnded():
                sink = connection.watches.pop(message.watch_id, None)
                if sink is not None:
                    sink.ended(message.reason)
            case wire.Heartbeat():
                pass
            case _:
                log.warning("link.frame_unexpected", type=type(message).__name__)

    def _binary(self, connection: Connection, data: bytes) -> None:
        kind = data[0] if data else 0
        if kind == WATCHED_BLOCK and len(data) >= 5:
            watch_id, record = unpack_watched_block(data)
            sink = connection.watches.get(watch_id)
            if sink is not None:
                sink.block(record)
        elif kind == RPC_BYTES and len(data) >= 5:
            head_bytes, body = unpack_headed(data)
            try:
                head = msgspec.json.decode(head_bytes, type=wire.RpcBytes)
            except msgspec.MsgspecError:
                log.warning("link.frame_unreadable", kind=kind)
                return
            asked = connection.calls.get(head.id)
            if asked is not None and not asked.done():
                asked.set_result(BytesAnswer(meta=head.meta, data=body))
        else:
            log.warning("link.frame_unknown", kind=kind)

    async def _work(self, connection: Connection, work: asyncio.Queue[Work]) -> None:
        """Applies what arrived, in order; batches that wait together commit together."""
        held: Work | None = None
        while True:
            first = held or await work.get()
            held = None
            if isinstance(first, wire.SourceRegister):
                await self._register(connection, first)
                continue
            batches = [first]
            while len(batches) < _PENDING_BATCHES and not work.empty():
                following = work.get_nowait()
                if isinstance(following, wire.SourceRegister):
                    held = following
                    break
                batches.append(following)
            await self._projection.apply(
                connection.org_id,
                connection.hello.cluster_name,
                [item for b in batches for item in b.items],
            )
            for batch in batches:
                await connection.send(wire.ProjectionAck(batch_id=batch.batch_id))

    async def _register(self, connection: Connection, message: wire.SourceRegister) -> None:
        async with self._engine.begin() as tx:
            await queries.register_sources(
                tx,
                connection.org_id,
                connection.hello.cluster_name,
                message.sources,
                to_datetime(self._clock.now_ms()),
            )
        connection.sources = {source.routing_key: source for source in message.sources}
        self._directory.replace(connection.org_id, connection.hello.cluster_name, message.sources)
        await connection.send(
            wire.SourceRegisterAck(
                message_id=message.message_id,
                accepted=[
                    wire.AcceptedSource(
                        routing_key=source.routing_key,
                        webhook_url=self._origins.webhook_url(connection.org_id, source.name),
                    )
                    for source in message.sources
                ],
            )
        )
        log.info("sources.registered", count=len(message.sources))
        for told in self.on_sources:
            told(connection.org_id)

    async def _heartbeat(self, connection: Connection) -> None:
        while True:
            await connection.send(wire.Heartbeat(timestamp=self._clock.now_ms()))
            await asyncio.sleep(HEARTBEAT_SECONDS)
            silent = asyncio.get_running_loop().time() - connection.last_heard
            if silent > SILENCE_SECONDS:
                connection.close(4004)
                return
            if silent < HEARTBEAT_SECONDS * 2:
                try:
                    async with self._engine.begin() as tx:
                        await queries.note_seen(
                            tx, connection.connection_id, to_datetime(self._clock.now_ms())
                        )
                except Exception as error:  # the socket lives on without its database row's date
                    log.warning("link.not_noted", exc_info=error)


async def _refuse(send: Send, reason: str) -> None:
    await send({"type": "websocket.send", "text": wire.encode(wire.AuthFailure(reason=reason)).decode()})
    raise Closed(4001)


async def _close(send: Send, code: int) -> None:
    try:
        async with asyncio.timeout(2):
            await send({"type": "websocket.close", "code": code})
    except (OSError, RuntimeError, TimeoutError):
        pass  # already gone
