"""A proxy that knows message kinds: it can act just before or just after one passes.

It stands between agents and orchestrator, and between orchestrator and Platform: WebSocket frames, and
bytes that go by HTTP (`/blobs/…`). All passes unread otherwise. `arm` sets one trap; it fires once, on the
n-th message of its kind.
"""

import asyncio
import contextlib
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, unix_serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kici.protocol import frames
from tests.faults.plan import NAMED_METHODS

_BINARY = {
    frames.LOG_BLOCK: "LOG_BLOCK",
    frames.WATCHED_BLOCK: "WATCHED_BLOCK",
    frames.RELAY: "RELAY",
    frames.RPC_BYTES: "RPC_BYTES",
}
_HEAD_LIMIT = 64 << 10
_PIECE = 64 << 10
_STALLED_S = 90.0


class _Head(msgspec.Struct, rename="camel"):
    type: str = "?"
    agent_id: str | None = None
    id: str | None = None
    method: str = ""


_decode_head = msgspec.json.Decoder(_Head, strict=False).decode


def head_of(message: str | bytes) -> _Head:
    if isinstance(message, bytes):
        return _Head(_BINARY.get(message[0], "BINARY") if message else "EMPTY")
    return _decode_head(message)


@dataclass(slots=True)
class Trap:
    """When the `nth` message of `kind` comes by: `act`, then pass it (before) or pass it, then act.

    `act` is told which agent's connection it is; None before it has registered."""

    kind: str
    when: Literal["before", "after"]
    act: Callable[[str | None], None]
    nth: int = 1
    cut: bool = False  # also cut this connection
    fired: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Proxy:
    """One listening port in front of one upstream. `owner`: which agent a port on its side belongs to."""

    upstream: str
    port: int = 0
    trap: Trap | None = None
    delay_seconds: float = 0.0
    owner: Callable[[int], str | None] = lambda _port: None
    seen: Counter[str] = field(default_factory=Counter[str])
    connections: dict[ServerConnection, str | None] = field(
        default_factory=dict[ServerConnection, str | None]
    )  # and the agent behind it, once known
    _asked: dict[str, str] = field(default_factory=dict[str, str])  # method of requests by their id
    _frames: str = ""  # where those who speak in frames are passed on to

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, upstream: str, port: int) -> AsyncGenerator["Proxy"]:
        proxy = cls(upstream, port)
        with tempfile.TemporaryDirectory(prefix="kici-proxy-", dir="/tmp") as folder:
            proxy._frames = str(Path(folder) / "frames")
            async with (
                unix_serve(
                    proxy._accept, proxy._frames, max_size=None, compression=None, ping_interval=None
                ),
                await asyncio.start_server(proxy._front, "127.0.0.1", port, limit=_HEAD_LIMIT),
            ):
                yield proxy

    def arm(self, trap: Trap) -> None:
        self.trap = trap

    async def cut_all(self) -> None:
        """As a pulled cable: no closing handshake."""
        for connection in list(self.connections):
            connection.transport.abort()

    # ── who comes ────────────────────────────────────────────────────────────────────────────────

    async def _front(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_STALLED_S):
                head = await reader.readuntil(b"\r\n\r\n")
            if head.partition(b" ")[2].startswith(b"/blobs/"):
                async with asyncio.timeout(_STALLED_S):
                    await self._bytes(head, reader, writer)
            else:
                inner_reader, inner_writer = await asyncio.open_unix_connection(self._frames)
                try:
                    inner_writer.write(head)
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(_pass(reader, inner_writer))
                        tasks.create_task(_pass(inner_reader, writer))
                finally:
                    inner_writer.transport.abort()
        except* (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError, _Cut):
            pass
        finally:
            writer.transport.abort()

    async def _bytes(self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one connection."""
        lines = head.decode("latin-1").split("\r\n")
        put = lines[0].startswith("PUT")
        kind = "blobs.put" if put else "blobs.get"
        self.seen[kind] += 1
        self._strike(kind, "before", writer)
        parts = urlsplit(self.upstream)
        upstream_reader, upstream = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            kept = [line for line in lines[:-2] if not line.lower().startswith("connection:")]
            upstream.write("\r\n".join([*kept, "Connection: close", "", ""]).encode("latin-1"))
            size = next((int(x.split(":")[1]) for x in lines if x.lower().startswith("content-length:")), 0)
            left = size
            while left and (piece := await reader.read(min(_PIECE, left, max(1, size // 2)))):
                upstream.write(piece)
                await upstream.drain()
                left -= len(piece)
                if left <= size // 2 and self._awaits("blobs.half"):
                    await asyncio.sleep(0.05)  # so that it has come
                    self._strike("blobs.half", "before", writer)
            if put:
                self._strike(kind, "after", writer)
            while piece := await upstream_reader.read(_PIECE):
                writer.write(piece)
                await writer.drain()
            if not put:
                self._strike(kind, "after", writer)
            writer.close()
            await writer.wait_closed()
        finally:
            upstream.transport.abort()

    def _strike(self, kind: str, when: str, writer: asyncio.StreamWriter) -> None:
        trap = self.trap
        if trap is not None and trap.when == when and self._sprung(kind) is trap:
            port: int = writer.get_extra_info("peername")[1]
            self._fire(trap, self.owner(port))

    def _awaits(self, kind: str) -> bool:
        return self.trap is not None and self.trap.kind == kind

    async def _accept(self, inbound: ServerConnection) -> None:
        path = inbound.request.path if inbound.request else "/ws"
        try:
            async with connect(
                self.upstream + path,
                max_size=None,
                compression=None,
                ping_interval=None,
                open_timeout=5,
                proxy=None,
            ) as outbound:
                self.connections[inbound] = None
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._pump(inbound, outbound, inbound))
                        tasks.create_task(self._pump(outbound, inbound, inbound))
                except* (ConnectionClosed, _Cut):
                    pass
                finally:
                    self.connections.pop(inbound, None)
                    code = outbound.close_code or inbound.close_code
                if code is not None and code not in {1005, 1006}:
                    await inbound.close(code)
                else:
                    inbound.transport.abort()
        except (OSError, TimeoutError, InvalidHandshake):
            inbound.transport.abort()

    async def _pump(self, source: Connection, target: Connection, inbound: ServerConnection) -> None:
        async for message in source:
            head = head_of(message)
            kind = self._kind(head)
            if kind == "agent.register":
                self.connections[inbound] = head.agent_id
            peer = self.connections.get(inbound)
            self.seen[kind] += 1
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            trap = self._sprung(kind)
            if trap is not None and trap.when == "before":
                self._fire(trap, peer)
            await target.send(message)
            if trap is not None and trap.when == "after":
                self._fire(trap, peer)
        raise _Cut

    # ── traps ────────────────────────────────────────────────────────────────────────────────────

    def _kind(self, head: _Head) -> str:
        """Some requests, and their answers, are told apart by their method."""
        if head.type == "rpc.request" and head.method in NAMED_METHODS and head.id is not None:
            self._asked[head.id] = head.method
            return head.method
        if head.type == "rpc.response" and head.id in self._asked:
            return f"{self._asked.pop(head.id)} answered"
        return head.type

    def _sprung(self, kind: str) -> Trap | None:
        trap = self.trap
        if trap is None or trap.kind != kind:
            return None
        if trap.nth > 1:
            trap.nth -= 1
            return None
        return trap

    def _fire(self, trap: Trap, peer: str | None) -> None:
        self.trap = None
        trap.act(peer)
        trap.fired.set()
        if trap.cut:
            raise _Cut


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Until one side ends: then the other does."""
    while piece := await reader.read(_PIECE):
        writer.write(piece)
        await writer.drain()
    raise _Cut


class _Cut(Exception):
    """One side ended: end the other."""
