"""A Platform that says only what a test tells it to, on a real WebSocket."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from msgspec import Struct
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from kici.protocol import platform_v1 as wire
from kici.protocol.frames import RELAY, pack_headed

MessageT = TypeVar("MessageT", bound=Struct)
SECONDS = 10.0


class Peer:
    """One orchestrator's connection. Frames are kept until a test asks for their kind."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket
        self.frames: list[Struct | bytes] = []
        self._arrived = asyncio.Event()
        self.closed = asyncio.Event()

    async def listen(self) -> None:
        try:
            async for frame in self._socket:
                self.frames.append(
                    wire.decode_from_orchestrator(frame) if isinstance(frame, str) else frame
                )
                self._arrived.set()
        except ConnectionClosed:
            pass
        finally:
            self.closed.set()
            self._arrived.set()

    @property
    def close_code(self) -> int | None:
        return self._socket.close_code

    def has(self, kind: type[Struct] | type[bytes]) -> bool:
        return any(isinstance(frame, kind) for frame in self.frames)

    async def next(self, kind: type[MessageT]) -> MessageT:
        """The first frame of this kind, taken out; heartbeats and others stay for whoever wants them."""
        async with asyncio.timeout(SECONDS):
            while True:
                for index, frame in enumerate(self.frames):
                    if isinstance(frame, kind):
                        del self.frames[index]
                        return frame
                await self._more()

    async def next_bytes(self) -> bytes:
        async with asyncio.timeout(SECONDS):
            while True:
                for index, frame in enumerate(self.frames):
                    if isinstance(frame, bytes):
                        del self.frames[index]
                        return frame
                await self._more()

    async def _more(self) -> None:
        if self.closed.is_set():
            raise AssertionError(f"the orchestrator closed; left: {self.frames}")
        self._arrived.clear()
        await self._arrived.wait()

    async def send(self, message: Struct) -> None:
        await self._socket.send(wire.encode(message).decode())

    async def send_text(self, text: str) -> None:
        await self._socket.send(text)

    async def send_bytes(self, data: bytes) -> None:
        await self._socket.send(data)

    async def relay(self, message_id: str, body: bytes, **head: Any) -> None:
        fields: dict[str, Any] = {
            "routing_key": "generic:org_1:s1",
            "request_id": f"request-{message_id}",
            "headers": {"content-type": "application/json"},
            "client_ip": "203.0.113.7",
            "received_at_ms": 1,
        }
        relay = wire.WebhookRelay(message_id=message_id, **(fields | head))
        await self._socket.send(pack_headed(RELAY, wire.encode(relay), body))

    async def call(self, request_id: str, method: str, *, deadline_ms: int = 10_000, **params: Any) -> None:
        actor = wire.Actor(kind="user", id="u1")
        await self.send(
            wire.RpcRequest(
                id=request_id, method=method, params=params, actor=actor, deadline_ms=deadline_ms
            )
        )

    async def greet(self) -> wire.AuthRequest:
        """Lets the orchestrator in."""
        hello = await self.next(wire.AuthRequest)
        await self.send(wire.AuthSuccess(connection_id="c1", org_id="org_1", org_public_alias="acme"))
        return hello

    async def register(self) -> wire.SourceRegister:
        """Takes its sources."""
        asked = await self.next(wire.SourceRegister)
        accepted = [
            wire.AcceptedSource(routing_key=source.routing_key, webhook_url=f"https://p/{source.name}")
            for source in asked.sources
        ]
        await self.send(wire.SourceRegisterAck(message_id=asked.message_id, accepted=accepted))
        return asked

    async def cut(self) -> None:
        """The connection breaks, without a closing frame."""
        self._socket.transport.abort()
        await self.closed.wait()


class ScriptedPlatform:
    def __init__(self) -> None:
        self._peers: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: Server | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def peer(self) -> Peer:
        """The next connection, as it was opened."""
        async with asyncio.timeout(SECONDS):
            return await self._peers.get()

    async def session(self) -> Peer:
        """The next connection, greeted and registered."""
        peer = await self.peer()
        await peer.greet()
        await peer.register()
        return peer

    async def start(self) -> None:
        """At the first start on any port, later on the same."""

        async def serve_one(socket: ServerConnection) -> None:
            peer = Peer(socket)
            self._peers.put_nowait(peer)
            await peer.listen()

        self._server = await serve(
            serve_one, "127.0.0.1", self.port, max_size=32 << 20, compression=None, ping_interval=None
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None


@asynccontextmanager
async def scripted_platform() -> AsyncGenerator[ScriptedPlatform]:
    platform = ScriptedPlatform()
    await platform.start()
    try:
        yield platform
    finally:
        await platform.stop()
