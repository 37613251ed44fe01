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


class _Typed(msgspec.Struct):
    type: str = "?"


def kind_of(message: str | bytes) -> str:
    if isinstance(message, bytes):
        return _BINARY.get(message[0], "BINARY") if message else "EMPTY"
    return msgspec.json.decode(message, type=_Typed).type


@dataclass(slots=True)
class Trap:
    """When the `nth` message of `kind` comes by: `act`, then pass it (before) or pass it, then act."""

    kind: str
    when: Literal["before", "after"]
    act: Callable[[], None]
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
    connections: set[ServerConnection] = field(default_factory=set[ServerConnection])

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
                self.connections.add(inbound)
                try:
                    async with asyncio.TaskGroup() as tasks:
                        tasks.create_task(self._pump(inbound, outbound))
                        tasks.create_task(self._pump(outbound, inbound))
                except* (ConnectionClosed, _Cut):
                    pass
                finally:
                    self.connections.discard(inbound)
                    code = outbound.close_code or inbound.close_code
                if code is not None and code not in {1005, 1006}:
                    await inbound.close(code)
                else:
                    inbound.transport.abort()
        except (OSError, TimeoutError, InvalidHandshake):
            inbound.transport.abort()

    async def _pump(self, source: Connection, target: Connection) -> None:
        async for message in source:
            kind = kind_of(message)
            self.seen[kind] += 1
            if self.delay_seconds:
                await asyncio.sleep(self.delay_seconds)
            trap = self._sprung(kind)
            if trap is not None and trap.when == "before":
                self._fire(trap)
            await target.send(message)
            if trap is not None and trap.when == "after":
                self._fire(trap)
        raise _Cut

    def _sprung(self, kind: str) -> Trap | None:
        trap = self.trap
        if trap is None or trap.kind != kind:
            return None
        if trap.nth > 1:
            trap.nth -= 1
            return None
        return trap

    def _fire(self, trap: Trap) -> None:
        self.trap = None
        trap.act()
        trap.fired.set()
        if trap.cut:
            raise _Cut


class _Cut(Exception):
    """One side ended: end the other."""
