"""One registered agent's socket: what it holds, what it said, what it must be told."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Literal

from msgspec import Struct

from kici.orchestrator.dispatch.claim import FreeAgent
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import CLOSE_INTERNAL, Ack, AgentRegister

MAX_WAITING_FRAMES = 256
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0

Attempt = tuple[str, int]  # job id, attempt
SendText = Callable[[str], Awaitable[None]]
SendClose = Callable[[int, str], Awaitable[None]]


class Identity(Struct, frozen=True, kw_only=True):
    """Who is on the other side, as the gates let it in."""

    agent_id: str
    session_id: str
    org_id: str
    token_id: str
    connection_id: str
    labels: frozenset[str]
    cpus: int = 1
    memory_mb: int = 0


class Connection:
    """Belongs to the event loop's thread. One task reads, one writes; everybody may `post` and `close`.

    Frames with `seq` come without holes. `durable_seq` is the last one up to which everything is committed
    or written; it is what `ack` says.
    """

    def __init__(self, identity: Identity, register: AgentRegister, *, acked_seq: int, now: float) -> None:
        self.identity = identity
        self.last_replayed_seq = register.last_seq
        # What the process says it holds, plus what it was sent since, until it reports their end.
        self.held: dict[Attempt, str] = {
            (job.job_id, job.attempt): job.run_id for job in register.in_flight
        }
        self.writable: dict[Attempt, str] = {}  # whose log blocks it may send → run id
        self.told: dict[Attempt, Literal["stop", "kill"]] = {}
        self.heard_at = now
        self.reading = True  # False while a reader waits for room: silence is then our doing
        self.warned_silent = False
        self.ready = False
        self.draining = False
        self.reserved = False  # a claim is under way for it
        self.configured = asyncio.Event()
        self.caught_up = asyncio.Event()
        self.over = asyncio.Event()
        self.close_code: int | None = None
        self.close_reason = ""
        self.exposition: str | None = None
        self._received_seq = acked_seq
        self._unsettled: deque[int] = deque()
        self._outgoing: deque[bytes] = deque()
        self._wanted = asyncio.Event()
        self._ack_due = False
        self._rejections = 0
        self._paused_until = 0.0
        self._note_progress()

    # ── what the agent sends ─────────────────────────────────────────────────────────────────────

    @property
    def durable_seq(self) -> int:
        return self._unsettled[0] - 1 if self._unsettled else self._received_seq

    def receive(self, seq: int) -> Literal["new", "repeated", "gap"]:
        """Note the arrival of a numbered frame; every new one must be settled later."""
        if seq <= self._received_seq:
            self._ack_due = True  # the sender has not heard that we have it
            self._wanted.set()
            return "repeated"
        if seq != self._received_seq + 1:
            return "gap"
        self._received_seq = seq
        self._unsettled.append(seq)
        return "new"

    def settle(self, seq: int) -> None:
        """`seq` is committed, written, or refused for good."""
        try:
            self._unsettled.remove(seq)
        except ValueError:
            return
        self._ack_due = True
        self._wanted.set()
        self._note_progress()

    def _note_progress(self) -> None:
        if self.durable_seq >= self.last_replayed_seq:
            self.caught_up.set()

    # ── what it can take ─────────────────────────────────────────────────────────────────────────

    @property
    def open(self) -> bool:
        return not self.over.is_set()

    def free(self, now: float) -> bool:
        return (
            self.ready
            and self.open
            and not self.held
            and not self.reserved
            and not self.draining
            and self._paused_until <= now
        )

    @property
    def paused_until(self) -> float:
        return self._paused_until

    def as_free(self) -> FreeAgent:
        who = self.identity
        return FreeAgent(
            agent_id=who.agent_id,
            session_id=who.session_id,
            org_id=who.org_id,
            labels=who.labels,
            cpus=who.cpus,
            memory_mb=who.memory_mb,
        )

    def hold(self, attempt: Attempt, run_id: str) -> None:
        self.held[attempt] = run_id
        self.writable[attempt] = run_id

    def let_go(self, attempt: Attempt) -> None:
        """The agent reported the attempt's end, or would not take it."""
        self.held.pop(attempt, None)
        self.writable.pop(attempt, None)
        self.told.pop(attempt, None)

    def rejected(self, reason: str, now: float) -> None:
        """No further dispatch for a while, twice as long each time; for ever when it drains."""
        if reason == "draining":
            self.draining = True
            return
        self._paused_until = now + min(_FIRST_PAUSE_S * 2**self._rejections, _LONGEST_PAUSE_S)
        self._rejections = min(self._rejections + 1, 10)

    def accepted(self) -> None:
        self._rejections = 0

    # ── what it is told ──────────────────────────────────────────────────────────────────────────

    def post(self, frame: bytes) -> bool:
        """Queue a JSON frame. A peer that does not read is closed; False when the socket is over."""
        if not self.open:
            return False
        if len(self._outgoing) >= MAX_WAITING_FRAMES:
            self.close(CLOSE_INTERNAL, "the agent does not read what it is sent")
            return False
        self._outgoing.append(frame)
        self._wanted.set()
        return True

    def close(self, code: int, reason: str) -> None:
        """The first code stands. Frames that still wait are not sent."""
        if self.open:
            self.close_code, self.close_reason = code, reason
            self.over.set()
            self._wanted.set()

    async def write(self, send: SendText, send_close: SendClose) -> None:
        """Sends what is posted, and at most one `ack` for all that became durable meanwhile, until the
        connection is over."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            if self.close_code is not None:
                await send_close(self.close_code, self.close_reason)
            if not self.open:
                return
            if self._ack_due:
                self._ack_due = False
                await send(agent_v1.encode(Ack(up_to=self.durable_seq)).decode())
            while self._outgoing and self.open:
                await send(self._outgoing.popleft().decode())
