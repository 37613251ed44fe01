"""One authenticated orchestrator socket: sending, and matching answers to what was asked.

`Connections` knows all that are open here. Everything that waits for an answer fails with
`ConnectionGone` the moment the socket ends.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from kici.protocol import platform_v1 as wire
from kici.protocol.frames import RELAY, pack_headed

Send = Callable[[dict[str, Any]], Awaitable[None]]
WatchEnd = Literal["complete", "not_found", "overflow", "orchestrator_away"]

_SEND_TIMEOUT_SECONDS = 30


class ConnectionGone(Exception):
    """The socket closed before the answer came."""


class RpcAnswer(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="rpc.response"):
    """`kici.protocol.platform_v1.RpcResponse` whose result is left as JSON for the asker to decode."""

    id: str
    result: msgspec.Raw = msgspec.Raw(b"null")
    error_code: str | None = None
    error: str | None = None
    status: int = 200


@dataclass(frozen=True, slots=True)
class BytesAnswer:
    """An RPC_BYTES frame."""

    meta: dict[str, Any]
    data: memoryview


FromOrchestrator = (
    wire.AuthRequest
    | wire.SourceRegister
    | wire.WebhookAck
    | wire.ProjectionBatch
    | RpcAnswer
    | wire.LogWatchEnded
    | wire.Heartbeat
)
decode = msgspec.json.Decoder(FromOrchestrator).decode


class WatchSink(Protocol):
    """Who receives the blocks of one log watch."""

    def block(self, record: memoryview) -> None: ...
    def ended(self, reason: WatchEnd) -> None: ...


@dataclass(eq=False, slots=True)
class Connection:
    """Answers are matched by id. `send` blocks while the socket's buffer is full."""

    connection_id: str
    org_id: str
    org_alias: str
    key_id: str
    hello: wire.AuthRequest
    asgi_send: Send
    last_heard: float  # loop time
    sources: dict[str, wire.SourceInfo] = field(
        default_factory=dict[str, wire.SourceInfo]
    )  # by routing key
    relays: dict[str, asyncio.Future[wire.WebhookAck]] = field(
        default_factory=dict[str, "asyncio.Future[wire.WebhookAck]"]
    )
    calls: dict[str, asyncio.Future[RpcAnswer | BytesAnswer]] = field(
        default_factory=dict[str, "asyncio.Future[RpcAnswer | BytesAnswer]"]
    )
    watches: dict[int, WatchSink] = field(default_factory=dict[int, WatchSink])
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    close_code: int = 1001
    _next_watch: int = 0

    @property
    def healthy(self) -> bool:
        """Heard from within 90 s (PD-14)."""
        return not self.closing.is_set() and asyncio.get_running_loop().time() - self.last_heard < 90

    async def send(self, message: Struct) -> None:
        await self._send({"type": "websocket.send", "text": wire.encode(message).decode()})

    async def _send(self, event: dict[str, Any]) -> None:
        if self.closing.is_set():
            raise ConnectionGone
        try:
            async with asyncio.timeout(_SEND_TIMEOUT_SECONDS):
                await self.asgi_send(event)
        except TimeoutError:
            self.close(4006)
            raise ConnectionGone from None
        except (OSError, RuntimeError) as error:  # the server closed it under us
            raise ConnectionGone from error

    async def relay(
        self, head: wire.WebhookRelay, body: bytes | memoryview, timeout_seconds: float
    ) -> wire.WebhookAck:
        """Hand over one webhook. Raises ConnectionGone, TimeoutError."""
        answer = asyncio.get_running_loop().create_future()
        self.relays[head.message_id] = answer
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._send(
                    {"type": "websocket.send", "bytes": pack_headed(RELAY, wire.encode(head), body)}
                )
                return await answer
        finally:
            self.relays.pop(head.message_id, None)

    async def call(self, request: wire.RpcRequest) -> RpcAnswer | BytesAnswer:
        """One RPC within its deadline. Raises ConnectionGone, TimeoutError."""
        answer = asyncio.get_running_loop().create_future()
        self.calls[request.id] = answer
        try:
            async with asyncio.timeout(request.deadline_ms / 1000):
                await self.send(request)
                return await answer
        finally:
            self.calls.pop(request.id, None)

    def new_watch(self, sink: WatchSink) -> int:
        self._next_watch += 1
        self.watches[self._next_watch] = sink
        return self._next_watch

    def close(self, code: int) -> None:
        """Asks the session to end; whoever waits is told now."""
        if self.closing.is_set():
            return
        self.close_code = code
        self.closing.set()
        for waiting in [*self.relays.values(), *self.calls.values()]:
            if not waiting.done():
                waiting.set_exception(ConnectionGone())
        for sink in self.watches.values():
            sink.ended("orchestrator_away")
        self.watches.clear()


class Connections:
    """All orchestrator sockets of this replica, by org."""

    def __init__(self) -> None:
        self._by_org: dict[str, list[Connection]] = {}

    def add(self, connection: Connection) -> None:
        self._by_org.setdefault(connection.org_id, []).append(connection)

    def remove(self, connection: Connection) -> None:
        rest = [other for other in self._by_org.get(connection.org_id, []) if other is not connection]
        if rest:
            self._by_org[connection.org_id] = rest
        else:
            self._by_org.pop(connection.org_id, None)

    def all(self) -> list[Connection]:
        return [connection for group in self._by_org.values() for connection in group]

    def of_org(self, org_id: str) -> list[Connection]:
        return self._by_org.get(org_id, [])

    def connected(self, org_id: str) -> bool:
        return org_id in self._by_org

    def for_source(self, org_id: str, routing_key: str) -> Iterable[Connection]:
        """Candidates for a relay: healthy first, then the least loaded (PD-27)."""
        able = [c for c in self.of_org(org_id) if routing_key in c.sources]
        return able if len(able) < 2 else sorted(able, key=lambda c: (not c.healthy, len(c.relays)))

    def for_run(self, org_id: str, cluster_name: str | None) -> Connection | None:
        """Who answers for a run: its own cluster when that is known and here, the least busy of it."""
        able = self.of_org(org_id)
        if cluster_name is not None:
            able = [c for c in able if c.hello.cluster_name == cluster_name] or able
        return min(able, key=lambda c: (not c.healthy, len(c.calls)), default=None)
