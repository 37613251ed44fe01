"""The one connection to the orchestrator (AG-1…8): dial, authenticate, register, then both directions.

    disconnected → connecting → authenticating → registering → registered → disconnected → …

Only `register.ack` makes it registered; silence never does. A lost connection is dialled again for ever,
with growing pauses. A rejected token ends the agent instead.
"""

import asyncio
import ipaddress
import ssl
from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import ClassVar, Protocol, assert_never
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from kici.agent.requests import Relay
from kici.agent.spool import Outbox
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import (
    CLOSE_AGENT_REJECTED,
    PROTOCOL_VERSION,
    Ack,
    AgentRegister,
    AgentResponse,
    AuthFailure,
    AuthRequest,
    AuthSuccess,
    ConfigAck,
    ErrorFrame,
    Heartbeat,
    InFlightJob,
    JobCancel,
    JobDispatch,
    RegisterAck,
)
from kici.runtime.backoff import reconnect_delay
from kici.runtime.clock import Clock
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

HEARTBEAT_S = 30.0
SILENCE_S = 90.0  # without any frame: the connection is dead
ANSWER_S = 10.0  # for each frame of the opening
MAX_FRAME = 25 << 20
_BATCH = 256 << 10
_LOOSE_FRAMES = 64


class State(StrEnum):
    DISCONNECTED = "disconnected"
    CONNECTING = "connecting"
    AUTHENTICATING = "authenticating"
    REGISTERING = "registering"
    REGISTERED = "registered"


class AgentRejected(KiciError):
    """The orchestrator will not have this agent, now or later: exit, and let a person look (AG-3)."""

    code: ClassVar[str] = "agent_rejected"


class _ConnectionBroken(Exception):
    """This connection is of no use; the next one may be."""


class Jobs(Protocol):
    """Who answers what the orchestrator asks."""

    def dispatched(self, dispatch: JobDispatch) -> None: ...
    def undecodable(self, run_id: str, job_id: str, attempt: int, problem: str) -> None: ...
    def stop_asked(self, cancel: JobCancel) -> None: ...
    def in_flight(self) -> list[InFlightJob]: ...


class _DispatchHead(Struct, frozen=True, rename="camel"):
    """Enough of a broken `job.dispatch` to fail its job at once (AG-11)."""

    type: str
    run_id: str
    job_id: str
    attempt: int


_decode_head = msgspec.json.Decoder(_DispatchHead).decode


class Session:
    """`register` makes the registration frame, given in-flight jobs and the outbox's range."""

    def __init__(
        self,
        *,
        url: str,
        token: str | None,
        agent_id: str,
        register: Callable[[list[InFlightJob], int, int], AgentRegister],
        outbox: Outbox,
        relay: Relay,
        clock: Clock,
        on_state: Callable[[State], None] = lambda _state: None,
    ) -> None:
        self.url = url
        self.state = State.DISCONNECTED
        self.labels: list[str] = []
        self._token = token
        self._agent_id = agent_id
        self._register = register
        self._outbox = outbox
        self._relay = relay
        self._clock = clock
        self._on_state = on_state
        self._loose: deque[bytes] = deque(maxlen=_LOOSE_FRAMES)
        self._loose_wanted = asyncio.Event()
        self._heard_at = 0.0
        self._lost_at: float | None = None

    def send_loose(self, message: Struct) -> None:
        """Heartbeats, metrics: sent when connected, forgotten when not, never retried."""
        if self.state is State.REGISTERED:
            self._loose.append(agent_v1.encode(message))
            self._loose_wanted.set()

    async def run(self, jobs: Jobs) -> None:
        """Connect and stay connected until cancelled, then say goodbye (1000). Raises AgentRejected."""
        attempt = 0
        while True:
            try:
                await self._connect(jobs)
            except AgentRejected:
                raise
            except (OSError, ConnectionClosed, InvalidHandshake, TimeoutError, _ConnectionBroken) as error:
                why = f"{type(error).__name__}: {error}".removeprefix("_")
            except Exception as error:
                log.error("session.failed", exc_info=error)
                why = "an error of ours"
            else:
                why = "the orchestrator closed the connection"
            if self.state is State.REGISTERED:
                attempt = 0
                self._lost_at = asyncio.get_running_loop().time()
            self._enter(State.DISCONNECTED)
            delay_s = reconnect_delay(attempt)
            log.warning("session.disconnected", why=why, attempt=attempt, retry_in_ms=round(delay_s * 1000))
            attempt += 1
            await asyncio.sleep(delay_s)

    # ── opening ──────────────────────────────────────────────────────────────────────────────────

    async def _connect(self, jobs: Jobs) -> None:
        self._enter(State.CONNECTING)
        try:
            async with connect(
                self.url,
                compression=None,  # log blocks are compressed; the rest is small
                open_timeout=ANSWER_S,
                close_timeout=2,
                ping_interval=None,  # heartbeats say the same, and more
                max_size=MAX_FRAME,
                user_agent_header=None,
                proxy=None if is_loopback(self.url) else True,
            ) as connection:
                try:
                    await self._open(connection, jobs)
                    await self._stay(connection, jobs)
                except ConnectionClosed as closed:
                    self._give_up_if_rejected(closed)
                    raise
                finally:
                    self._outbox.disconnected(asyncio.get_running_loop().time())
        except (InvalidURI, ssl.SSLCertVerificationError) as error:
            raise _ConnectionBroken(f"{self.url}: {error}") from error

    async def _open(self, connection: ClientConnection, jobs: Jobs) -> None:
        if self._token is not None:
            self._enter(State.AUTHENTICATING)
            await self._send(connection, AuthRequest(token=self._token, protocol_version=PROTOCOL_VERSION))
            answer = await self._answer(connection)
            if not isinstance(answer, AuthSuccess):
                raise _ConnectionBroken(f"expected auth.success, got {type(answer).__name__}")
        self._enter(State.REGISTERING)
        await self._send(
            connection, self._register(jobs.in_flight(), self._outbox.first_seq, self._outbox.last_seq)
        )
        answer = await self._answer(connection)
        if not isinstance(answer, RegisterAck):
            raise _ConnectionBroken(f"expected register.ack, got {type(answer).__name__}")
        await self._send(connection, ConfigAck(agent_id=self._agent_id))
        self.labels = answer.labels
        waiting = self._outbox.last_seq - self._outbox.first_seq + 1
        self._outbox.connected(answer.acked_seq, asyncio.get_running_loop().time())
        self._relay.connected()
        self._enter(State.REGISTERED)
        log.info(
            "session.registered",
            url=self.url,
            labels=answer.labels,
            acked_seq=answer.acked_seq,
            buffered_messages_count=waiting,
            recovery_duration_ms=self._lost_for_ms(),
            jobs=[f"{job.run_id}/{job.job_id}" for job in jobs.in_flight()],
        )
        self._lost_at = None

    def _lost_for_ms(self) -> int | None:
        """Time since the last registered connection ended (AG-27); None at the first."""
        if self._lost_at is None:
            return None
        return round((asyncio.get_running_loop().time() - self._lost_at) * 1000)

    async def _answer(self, connection: ClientConnection) -> agent_v1.ToAgent:
        """The next frame of the opening; heartbeats and errors are no answers."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                frame = await connection.recv()
                try:
                    message = agent_v1.decode_to_agent(frame)
                except msgspec.MsgspecError as error:
                    log.warning("session.frame_ignored", error=str(error))
                    continue
                match message:
                    case AuthFailure(reason=reason):
                        raise AgentRejected(f"the orchestrator rejected this agent: {reason}")
                    case ErrorFrame(code=code, message=text):
                        log.error("session.error_received", code=code, error=text)
                    case Heartbeat():
                        pass
                    case _:
                        return message

    def _give_up_if_rejected(self, closed: ConnectionClosed) -> None:
        if closed.rcvd is not None and closed.rcvd.code == CLOSE_AGENT_REJECTED:
            reason = closed.rcvd.reason or "token rejected or revoked"
            raise AgentRejected(f"the orchestrator rejected this agent: {reason}") from closed

    # ── registered ───────────────────────────────────────────────────────────────────────────────

    async def _stay(self, connection: ClientConnection, jobs: Jobs) -> None:
        """Both directions until the connection ends. Raises ConnectionClosed or what broke it."""
        self._heard_at = asyncio.get_running_loop().time()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._receive(connection, jobs), name="session.receive")
                tasks.create_task(self._send_reliable(connection), name="session.send")
                tasks.create_task(self._send_loose(connection), name="session.send_loose")
                tasks.create_task(self._send_requests(connection), name="session.send_requests")
                tasks.create_task(self._beat(connection), name="session.heartbeat")
        except BaseExceptionGroup as group:
            # One cause, several tasks that notice: a rejection says most, a plain disconnect least.
            raise min(leaves(group), key=_weight) from None

    async def _receive(self, connection: ClientConnection, jobs: Jobs) -> None:
        loop = asyncio.get_running_loop()
        while True:
            frame = await connection.recv()
            self._heard_at = loop.time()
            if isinstance(frame, bytes):
                log.warning("session.frame_ignored", error="unexpected binary frame", size=len(frame))
                continue
            try:
                message = agent_v1.decode_to_agent(frame)
            except msgspec.MsgspecError as error:
                self._not_understood(frame, str(error), jobs)
                continue
            match message:
                case Ack(up_to=up_to):
                    self._outbox.ack(up_to, self._heard_at)
                case JobDispatch():
                    jobs.dispatched(message)
                case JobCancel():
                    jobs.stop_asked(message)
                case AgentResponse():
                    self._relay.answered(message)
                case Heartbeat():
                    pass
                case ErrorFrame(code=code, message=text):
                    log.error("session.error_received", code=code, error=text)
                case AuthFailure(reason=reason):
                    raise AgentRejected(f"the orchestrator rejected this agent: {reason}")
                case AuthSuccess() | RegisterAck():
                    log.warning("session.frame_ignored", error="out of order", type=type(message).__name__)
                case _:
                    assert_never(message)

    def _not_understood(self, frame: str, problem: str, jobs: Jobs) -> None:
        """Unknown types and invalid frames cost a line (AG-8); an invalid dispatch also fails its job."""
        log.warning("session.frame_ignored", error=problem, frame=frame[:200])
        try:
            head = _decode_head(frame)
        except msgspec.MsgspecError:
            head = None
        if head is not None and head.type == "job.dispatch":
            jobs.undecodable(head.run_id, head.job_id, head.attempt, problem)
        else:
            self.send_loose(ErrorFrame(code="INVALID_MESSAGE", message=problem))

    async def _send_reliable(self, connection: ClientConnection) -> None:
        outbox = self._outbox
        loop = asyncio.get_running_loop()
        while True:
            await outbox.wait_unsent()
            for data, is_text in outbox.take(_BATCH):
                await connection.send(data, text=is_text)
            outbox.sent(loop.time())

    async def _send_loose(self, connection: ClientConnection) -> None:
        while True:
            await self._loose_wanted.wait()
            while self._loose:
                await connection.send(self._loose.popleft(), text=True)
            self._loose_wanted.clear()

    async def _send_requests(self, connection: ClientConnection) -> None:
        while True:
            await self._relay.wait_unsent()
            for frame in self._relay.take():
                await connection.send(frame, text=True)

    async def _beat(self, connection: ClientConnection) -> None:
        loop = asyncio.get_running_loop()
        next_beat = loop.time() + HEARTBEAT_S
        while True:
            await asyncio.sleep(5)
            now = loop.time()
            self._outbox.check_progress(now)
            if now >= next_beat:
                next_beat = now + HEARTBEAT_S
                await self._send(connection, Heartbeat(timestamp=self._clock.now_ms()))
            if now - self._heard_at > SILENCE_S:
                connection.transport.abort()
                raise _ConnectionBroken(f"nothing heard for {SILENCE_S:.0f} s")

    async def _send(self, connection: ClientConnection, message: Struct) -> None:
        async with asyncio.timeout(ANSWER_S):
            await connection.send(agent_v1.encode(message), text=True)

    def _enter(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            log.debug("session.state", state=state)
            self._on_state(state)


def is_loopback(url: str) -> bool:
    """Proxies of the environment are for reaching other hosts."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def leaves(error: BaseException) -> list[BaseException]:
    """The plain exceptions inside a group, in order."""
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in leaves(inner)]
    return [error]


def _weight(error: BaseException) -> int:
    if isinstance(error, AgentRejected):
        return 0
    return 2 if isinstance(error, (ConnectionClosed, _ConnectionBroken)) else 1
