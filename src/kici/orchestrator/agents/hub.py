"""The agents connected to this process, by id, and which of them could take a job."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Iterator

from kici.orchestrator.agents.connection import Connection
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import (
    CLOSE_AGENT_REJECTED,
    CLOSE_DISPATCH_TIMEOUT,
    CLOSE_HEARTBEAT,
    CLOSE_PROTOCOL,
    Heartbeat,
)
from kici.runtime.clock import Clock
from kici.runtime.logging import get_logger

log = get_logger(__name__)

MAX_FREE = 256  # agents offered to one claim
MAX_PARTED = 1024  # closed connections remembered for their position in the stream


class Hub:
    """Belongs to the event loop's thread. `on_free` is called whenever an agent may have become free."""

    def __init__(
        self,
        clock: Clock,
        on_free: Callable[[], None],
        *,
        heartbeat_ms: int = 30_000,
    ) -> None:
        self._clock = clock
        self._on_free = on_free
        self._beat_s = heartbeat_ms / 1000
        self._warn_silent_s = 3 * self._beat_s
        self._close_silent_s = 6 * self._beat_s
        self._by_id: dict[str, Connection] = {}
        self._parted: dict[str, Connection] = {}
        self._departures: deque[tuple[float, Connection]] = deque(maxlen=MAX_PARTED)

    def __len__(self) -> int:
        return len(self._by_id)

    def __iter__(self) -> Iterator[Connection]:
        return iter(list(self._by_id.values()))

    def find(self, agent_id: str) -> Connection | None:
        return self._by_id.get(agent_id)

    def durable_seq(self, agent_id: str, session_id: str) -> int:
        """Up to where this process has the session's stream; 0 when it never saw it."""
        known = self._by_id.get(agent_id) or self._parted.get(agent_id)
        return known.durable_seq if known is not None and known.identity.session_id == session_id else 0

    def enter(self, connection: Connection) -> None:
        """A newer socket of the same agent replaces the older one."""
        agent_id = connection.identity.agent_id
        older = self._by_id.get(agent_id)
        if older is not None:
            log.warning("agent.replaced", agent_id=agent_id, connection_id=older.identity.connection_id)
            older.ready = False
            older.close(CLOSE_PROTOCOL, "replaced by a newer connection of this agent")
        self._parted.pop(agent_id, None)
        self._by_id[agent_id] = connection

    def leave(self, connection: Connection) -> None:
        agent_id = connection.identity.agent_id
        connection.ready = False
        connection.over.set()
        if self._by_id.get(agent_id) is connection:
            del self._by_id[agent_id]
            self._parted[agent_id] = connection
            self._departures.append((asyncio.get_running_loop().time(), connection))
            while len(self._parted) > MAX_PARTED:
                del self._parted[next(iter(self._parted))]

    def take_departures(self) -> list[tuple[float, Connection]]:
        """When who left since the last call."""
        taken = list(self._departures)
        self._departures.clear()
        return taken

    def make_ready(self, connection: Connection) -> None:
        connection.ready = True
        self._on_free()

    def let_go(self, connection: Connection, attempt: tuple[str, int]) -> None:
        connection.let_go(attempt)
        if not connection.held:
            self._on_free()

    def free(self) -> list[Connection]:
        """Those that can take a job now, at most MAX_FREE."""
        now = asyncio.get_running_loop().time()
        found = [connection for connection in self._by_id.values() if connection.free(now)]
        return found[:MAX_FREE]

    def next_pause_ends_s(self, longest_s: float) -> float:
        """Seconds until a paused agent may be asked again, at most `longest_s`."""
        now = asyncio.get_running_loop().time()
        pauses = [c.paused_until - now for c in self._by_id.values() if c.paused_until > now]
        return min([longest_s, *pauses])

    def close_unanswered(self, sessions: Collection[tuple[str, str]]) -> None:
        """These (agent id, session id) did not answer a dispatch, or sent no life sign of their job."""
        for agent_id, session_id in sessions:
            connection = self._by_id.get(agent_id)
            if connection is not None and connection.identity.session_id == session_id:
                connection.close(CLOSE_DISPATCH_TIMEOUT, "the agent did not answer in time")

    def close_tokens(self, token_ids: set[str]) -> None:
        """Tokens were revoked (AG-33)."""
        for connection in self:
            if connection.identity.token_id in token_ids:
                connection.close(CLOSE_AGENT_REJECTED, "the agent's token was revoked")

    async def pulse(self) -> None:
        """Heartbeats to every agent, and the end of those that fell silent (AG-6); runs for ever."""
        loop = asyncio.get_running_loop()
        beat_at = loop.time() + self._beat_s
        while True:
            await asyncio.sleep(min(self._beat_s, 5.0))
            now = loop.time()
            beat = now >= beat_at
            if beat:
                beat_at = now + self._beat_s
            frame = agent_v1.encode(Heartbeat(timestamp=self._clock.now_ms()))
            for connection in self:
                self._check(connection, now)
                if beat:
                    connection.post(frame)

    def _check(self, connection: Connection, now: float) -> None:
        silent_s = now - connection.heard_at if connection.reading else 0.0
        if silent_s >= self._close_silent_s:
            connection.close(CLOSE_HEARTBEAT, f"nothing heard for {silent_s:.0f} s")
        elif silent_s >= self._warn_silent_s and not connection.warned_silent:
            connection.warned_silent = True
            log.warning("agent.silent", agent_id=connection.identity.agent_id, silent_s=round(silent_s))
        elif silent_s < self._warn_silent_s:
            connection.warned_silent = False
