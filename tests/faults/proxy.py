"""A WebSocket proxy that knows message kinds: it can act just before or just after one passes.

It stands between agents and orchestrator, and between orchestrator and Platform. Frames pass unread
otherwise. `arm` sets one trap; it fires once, on the n-th message of its kind.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from kici.protocol import frames

_BINARY = {
    frames.LOG_BLOCK: "LOG_BLOCK",
    frames.WATCHED_BLOCK: "WATCHED_BLOCK",
    frames.RELAY: "RELAY",
    frames.RPC_BYTES: "RPC_BYTES",
}


class _Head(msgspec.Struct, rename="camel"):
    type: str = "?"
    agent_id: str | None = None


_decode_head = msgspec.json.Decoder(_Head).decode


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
    """One listening port in front of one upstream."""

    upstream: str
    port: int = 0
    trap: Trap | None = None
    delay_seconds: float = 0.0
    seen: Counter[str] = field(default_factory=Counter[str])
    connections: dict[ServerConnection, str | None] = field(
        default_factory=dict[ServerConnection, str | None]
    )  # and the agent behind it, once known

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls, upstream: str, port: int) -> AsyncGenerator["Proxy"]:
        proxy = cls(upstream, port)
        async with serve(
            proxy._accept, "127.0.0.1", port, max_size=None, compression=None, ping_interval=None
        ):
            yield proxy

    def arm(self, trap: Trap) -> None:
        self.trap = trap

    async def cut_all(self) -> None:
        """As a pulled cable: no closing handshake."""
        for connection in list(self.connections):
            connection.transport.abort()

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
            kind = head.type
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


class _Cut(Exception):
    """One side ended: end the other."""
