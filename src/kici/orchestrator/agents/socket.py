"""`/ws` for agents: opening, gates, then one reader and one writer per connection (AG-2…10).

    accept → auth.request (5 s) → auth.success → agent.register (10 s) → register.ack → config.ack (10 s)
    → what the agent still has to tell → its jobs are settled → ready for dispatches

An agent that replays is not ready: only when all it had to say is applied do we know what it has lost.
"""

import asyncio
import re
from contextlib import suppress
from typing import Any, TypeVar, assert_never

import msgspec
from litestar.types import Receive, Scope, Send
from msgspec import Struct

from kici.orchestrator.agents import roster
from kici.orchestrator.agents.applier import Applier
from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.agents.recall import recall
from kici.orchestrator.agents.requests import AgentRequests
from kici.orchestrator.agents.resume import park, resume
from kici.orchestrator.agents.roster import AgentRefused
from kici.orchestrator.agents.streams import Streams
from kici.orchestrator.runs.execution import Execution
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import (
    CLOSE_AGENT_REJECTED,
    CLOSE_HANDSHAKE_TIMEOUT,
    CLOSE_INTERNAL,
    CLOSE_INVALID,
    CLOSE_PROTOCOL,
    MIN_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    AgentMetrics,
    AgentRegister,
    AgentRequest,
    AuthFailure,
    AuthRequest,
    AuthSuccess,
    ConfigAck,
    ErrorFrame,
    Heartbeat,
    JobAck,
    JobContext,
    JobHeartbeat,
    JobReject,
    JobStatusUpdate,
    RegisterAck,
    RunEvent,
    StepStatusUpdate,
)
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import CappedLabel

log = get_logger(__name__)

MAX_FRAME = 4 << 20  # AG-7
MAX_EXPOSITION = 256 << 10

FrameT = TypeVar("FrameT", bound=Struct)

# PostgreSQL has no NUL in text or JSON; a program's output may.
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


class _Gone(Exception):
    """The peer closed the socket."""


class _Refuse(Exception):
    """Close with this code; `failure` is said before, as `auth.failure`."""

    def __init__(self, code: int, reason: str, *, failure: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.failure = failure


class _Numbered(Struct, frozen=True):
    """What remains readable of a frame that is otherwise invalid."""

    seq: int = 0


_decode_numbered = msgspec.json.Decoder(_Numbered).decode


class AgentSocket:
    """An ASGI application for one WebSocket path."""

    def __init__(
        self,
        execution: Execution,
        hub: Hub,
        applier: Applier,
        streams: Streams,
        requests: AgentRequests,
    ) -> None:
        self._execution = execution
        self._hub = hub
        self._applier = applier
        self._streams = streams
        self._requests = requests
        self._auth_s = execution.limits.agent_auth_ms / 1000
        self._register_s = execution.limits.agent_register_ms / 1000
        self._types = CappedLabel(32)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()  # websocket.connect
        await send({"type": "websocket.accept", "subprotocol": None, "headers": []})
        try:
            connection = await self._open(receive, send)
        except _Refuse as refusal:
            client = scope.get("client")
            log.warning(
                "agent.refused", reason=refusal.reason, code=refusal.code, client=client and client[0]
            )
            with suppress(OSError):
                if refusal.failure:
                    await _send(send, AuthFailure(reason=refusal.reason))
                await _close(send, refusal.code, refusal.reason)
            return
        except (_Gone, OSError):
            return
        with bind(agent_id=connection.identity.agent_id, connection_id=connection.identity.connection_id):
            await self._serve(connection, receive, send)

    # ── opening ──────────────────────────────────────────────────────────────────────────────────

    async def _open(self, receive: Receive, send: Send) -> Connection:
        try:
            async with asyncio.timeout(self._auth_s):
                auth = await _expect(receive, AuthRequest)
        except TimeoutError as error:
            raise _Refuse(CLOSE_HANDSHAKE_TIMEOUT, "no auth.request in time") from error
        if not MIN_PROTOCOL_VERSION <= auth.protocol_version <= PROTOCOL_VERSION:
            raise _Refuse(
                CLOSE_PROTOCOL,
                f"protocol version {auth.protocol_version} is not spoken here "
                f"({MIN_PROTOCOL_VERSION} to {PROTOCOL_VERSION} are)",
                failure=True,
            )
        try:
            async with asyncio.timeout(self._register_s), self._execution.engine.begin() as tx:
                token = await roster.use_token(tx, auth.token)
            await _send(send, AuthSuccess(connection_id=uuid7()))
            async with asyncio.timeout(self._register_s):
                register = await _expect(receive, AgentRegister)
            labels = roster.gate(token, register)
            async with asyncio.timeout(self._register_s), self._execution.engine.begin() as tx:
                identity = await roster.enrol(
                    tx, token, register, labels, instance_id=self._execution.instance_id
                )
                writable = await roster.writable(tx, identity)
        except AgentRefused as error:
            raise _Refuse(
                error.close_code, str(error), failure=error.close_code == CLOSE_AGENT_REJECTED
            ) from error
        except TimeoutError as error:
            raise _Refuse(CLOSE_HANDSHAKE_TIMEOUT, "no agent.register in time") from error
        except (_Gone, _Refuse):
            raise
        except Exception as error:
            log.error("agent.opening_failed", exc_info=error)
            raise _Refuse(CLOSE_INTERNAL, "registration failed here; try again") from error
        acked = max(
            register.first_seq - 1,
            min(self._hub.durable_seq(identity.agent_id, identity.session_id), register.last_seq),
        )
        connection = Connection(identity, register, acked_seq=acked, now=asyncio.get_running_loop().time())
        connection.writable = writable
        log.info(
            "agent.registered",
            agent_id=identity.agent_id,
            session_id=identity.session_id,
            in_flight=len(register.in_flight),
            buffered_messages_count=register.last_seq - acked,
            version=register.version,
        )
        return connection

    # ── open ─────────────────────────────────────────────────────────────────────────────────────

    async def _serve(self, connection: Connection, receive: Receive, send: Send) -> None:
        async def text(frame: str) -> None:
            await send({"type": "websocket.send", "text": frame, "bytes": None})

        async def close(code: int, reason: str) -> None:
            await _close(send, code, reason)

        async def write() -> None:
            try:
                await connection.write(text, close)
            except OSError:  # the peer is gone; the reader hears of it, too
                connection.over.set()

        self._hub.enter(connection)
        try:
            try:
                await _send(send, _registered(connection))
            except OSError:
                return
            async with asyncio.TaskGroup() as tasks:
                reader = tasks.create_task(self._read(connection, receive), name="agent.read")
                writer = tasks.create_task(write(), name="agent.write")
                settler = tasks.create_task(self._settle(connection), name="agent.settle")
                await connection.over.wait()
                if connection.close_code is not None:
                    await asyncio.wait([writer], timeout=2)
                for task in (reader, writer, settler):
                    task.cancel()
        finally:
            self._hub.leave(connection)
            await self._part(connection)

    async def _part(self, connection: Connection) -> None:
        """After all that it still reported is applied. A scan finds what this could not write."""

        async def body() -> None:
            async with self._execution.change() as change:
                if await roster.part(change.tx, connection.identity):
                    await park(change, connection.identity, self._execution.limits)

        try:
            await self._applier.in_order(body)
        except Exception as error:
            log.error("agent.part_failed", exc_info=error)
        log.info("agent.disconnected", code=connection.close_code, reason=connection.close_reason or None)

    async def _settle(self, connection: Connection) -> None:
        """Wait for `config.ack` and the replay, then decide over the agent's jobs and make it ready."""
        try:
            async with asyncio.timeout(self._register_s):
                await connection.configured.wait()
        except TimeoutError:
            connection.close(CLOSE_HANDSHAKE_TIMEOUT, "no config.ack in time")
            return
        await connection.caught_up.wait()

        async def body() -> None:
            async with self._execution.change() as change:
                await resume(change, connection.identity, set(connection.held), self._execution.limits)

        try:
            await self._applier.in_order(body)
            await recall(self._execution, [connection])
        except Exception as error:
            log.error("agent.resume_failed", exc_info=error)
            connection.close(CLOSE_INTERNAL, "the agent's jobs could not be settled; try again")
            return
        self._hub.make_ready(connection)
        log.info("agent.ready", jobs_held=len(connection.held))

    async def _read(self, connection: Connection, receive: Receive) -> None:
        loop = asyncio.get_running_loop()
        while True:
            message: Any = await receive()
            if message["type"] == "websocket.disconnect":
                connection.over.set()
                return
            connection.heard_at = loop.time()
            block = message.get("bytes")
            try:
                if block is not None:
                    self._streams.take(connection, block)
                else:
                    connection.reading = False  # until there is room for it
                    await self._text(connection, message["text"])
            except Exception as error:
                log.error("agent.read_failed", exc_info=error)
                connection.close(CLOSE_INTERNAL, "a frame could not be handled")
            finally:
                connection.reading = True
                connection.heard_at = loop.time()

    async def _text(self, connection: Connection, frame: str) -> None:
        if len(frame) > MAX_FRAME:
            connection.close(CLOSE_INVALID, "frame too large")
            return
        if "\\u0000" in frame:
            frame = _NUL.sub(r"\1\\ufffd", frame)
        try:
            message = agent_v1.decode_from_agent(frame)
        except (msgspec.MsgspecError, RecursionError) as error:
            self._not_understood(connection, frame, str(error))
            return
        self._execution.metrics.agent_messages.labels(self._types(type(message).__name__)).inc()
        match message:
            case (
                JobAck() | JobReject() | JobStatusUpdate() | StepStatusUpdate() | JobContext() | RunEvent()
            ):
                if self.arrived(connection, message.seq):
                    await self._applier.put(connection, message.seq, message)
            case AgentRequest():
                self._requests.take(connection, message)
            case JobHeartbeat():
                await self._applier.put(connection, 0, message)
            case Heartbeat():
                pass
            case AgentMetrics():
                if len(message.exposition) <= MAX_EXPOSITION:
                    connection.exposition = message.exposition
            case ConfigAck():
                connection.configured.set()
            case ErrorFrame():
                log.warning("agent.error_received", code=message.code, error=message.message)
            case AuthRequest() | AgentRegister():
                self._complain(connection, f"{type(message).__name__} is for the opening")
            case _:
                assert_never(message)

    def _not_understood(self, connection: Connection, frame: str, problem: str) -> None:
        """Dropped, but counted as received: otherwise it would come again for ever (AG-8)."""
        self._complain(connection, problem)
        self._execution.metrics.agent_messages_dropped.labels("invalid").inc()
        try:
            seq = _decode_numbered(frame).seq
        except (msgspec.MsgspecError, RecursionError):
            return
        if seq and self.arrived(connection, seq):
            connection.settle(seq)

    def _complain(self, connection: Connection, problem: str) -> None:
        log.warning("agent.frame_invalid", problem=problem)
        connection.post(agent_v1.encode(ErrorFrame(code="INVALID_MESSAGE", message=problem)))

    @staticmethod
    def arrived(connection: Connection, seq: int) -> bool:
        """Whether the numbered frame is new. A hole ends the connection: what is missing comes again."""
        match connection.receive(seq):
            case "new":
                return True
            case "repeated":
                return False
            case "gap":
                log.error("agent.sequence_gap", got=seq, durable=connection.durable_seq)
                connection.close(CLOSE_PROTOCOL, f"frame {seq} came out of order")
                return False


def _registered(connection: Connection) -> RegisterAck:
    who = connection.identity
    return RegisterAck(agent_id=who.agent_id, labels=sorted(who.labels), acked_seq=connection.durable_seq)


async def _expect(receive: Receive, kind: type[FrameT]) -> FrameT:
    """The next frame, which must be of `kind`."""
    message: Any = await receive()
    if message["type"] == "websocket.disconnect":
        raise _Gone
    frame = message.get("text")
    if frame is None or len(frame) > MAX_FRAME:
        raise _Refuse(CLOSE_INVALID, "expected a text frame")
    try:
        decoded = agent_v1.decode_from_agent(frame)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _Refuse(CLOSE_INVALID, f"invalid frame: {error}") from error
    if not isinstance(decoded, kind):
        raise _Refuse(CLOSE_INVALID, f"expected {kind.__name__}, got {type(decoded).__name__}")
    return decoded


async def _send(send: Send, message: Struct) -> None:
    await send({"type": "websocket.send", "text": agent_v1.encode(message).decode(), "bytes": None})


async def _close(send: Send, code: int, reason: str) -> None:
    await send(
        {"type": "websocket.close", "code": code, "reason": reason.encode()[:120].decode(errors="ignore")}
    )
