"""What jobs ask for through their agents: one table, method → handler (AG-12, AG-13).

    requests = AgentRequests(engine, {"cache.restore": caches.restore, "event.emit": emit})

A request counts when its agent process holds the job under that attempt (OR-152); every other one, and each
of an ended job, is answered with an error. An agent that lost its connection asks again under the same
`request_id`: while the first asking is being worked on its answer goes to the newest connection, later the
handler is called again. So a handler must be idempotent in (job_id, attempt, request_id).

What job a request is about comes from our own record, never from the agent (AG-79).
"""

import asyncio
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.protocol import agent_v1
from kici.protocol.agent_v1 import AgentRequest, AgentResponse
from kici.runtime.database import AsyncEngine, is_passing, text
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

T = TypeVar("T")

MAX_PARAMS = 1 << 20  # bytes of JSON
MAX_AT_ONCE = 128  # unanswered requests of one agent
ANSWER_S = 60.0  # longer than any agent waits, but for approvals, which are answered later
_LONGEST_PAUSE_S = 2.0
_MAX_ID = 128
_ID = re.compile(r"[0-9a-fA-F-]{36}")


class OwnedJob(Struct, frozen=True, kw_only=True):
    """The job that asks, as dispatched."""

    job_id: str
    run_id: str
    attempt: int
    org_id: str
    agent_id: str
    job_name: str
    base_job_name: str
    workflow_name: str
    repo_identifier: str
    routing_key: str
    branch: str | None
    sha: str
    chain_depth: int
    is_test_run: bool
    check_mode: str
    kind: str = "job"


RequestHandler = Callable[[OwnedJob, AgentRequest], Awaitable[Any]]
RequestHandlers = Mapping[str, RequestHandler]
"""A handler's result is anything msgspec encodes. It refuses with a KiciError: code and text reach the author."""


class RequestRefused(KiciError):
    """A refusal with a code per case, for handlers that have no error of their own."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]


_OWNED = text("""
    SELECT j.id, j.run_id, j.attempt, j.org_id, j.agent_id, j.job_name, j.base_job_name, r.workflow_name,
        r.repo_identifier, r.routing_key, r.branch, r.sha, r.chain_depth, r.is_test_run, r.check_mode, j.kind
    FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id
    WHERE j.id = :job_id AND j.attempt = :attempt AND j.agent_id = :agent_id
        AND j.agent_session = :session_id AND j.completed_at IS NULL
""")
_FIELDS = OwnedJob.__struct_fields__

_Key = tuple[str, int, str]  # job id, attempt, request id


class AgentRequests:
    """Belongs to the event loop's thread; `run` must run for `take` to be answered."""

    def __init__(self, engine: AsyncEngine, handlers: RequestHandlers, metrics: ExecutionMetrics) -> None:
        self._engine = engine
        self._handlers = handlers
        self._metrics = metrics
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[_Key, Connection] = {}  # who gets the answer
        self._by_session: Counter[str] = Counter()

    async def run(self) -> None:
        """For ever; owns the tasks that answer."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            try:
                await asyncio.Event().wait()
            finally:
                self._tasks = None

    def take(self, connection: Connection, request: AgentRequest) -> None:
        """Answer it some time from now. Never blocks, never raises."""
        who = connection.identity
        key = (request.job_id, request.attempt, request.request_id)
        if key in self._running:
            if self._running[key].identity.session_id == who.session_id:
                self._running[key] = connection
            return
        if len(request.request_id) > _MAX_ID or self._tasks is None:
            return  # not one of ours; or stopping, and the agent asks again elsewhere
        if self._by_session[who.session_id] >= MAX_AT_ONCE:
            self._metrics.agent_messages_dropped.labels("too_many_requests").inc()
            error = RequestRefused(
                "too_many_requests", f"{MAX_AT_ONCE} requests of this agent are unanswered"
            )
            self._post(connection, _refusal(request, error))
            return
        self._running[key] = connection
        self._by_session[who.session_id] += 1
        self._tasks.create_task(self._answer(key, request), name="agent.request")

    async def _answer(self, key: _Key, request: AgentRequest) -> None:
        asker = self._running[key].identity
        try:
            try:
                async with asyncio.timeout(ANSWER_S):
                    result = await self._handled(asker.agent_id, asker.session_id, request)
                response = AgentResponse(
                    request_id=request.request_id, job_id=request.job_id, result=result
                )
                frame = agent_v1.encode(response)
            except KiciError as error:
                log.info(
                    "request.refused",
                    method=request.method[:100],
                    job_id=request.job_id,
                    code=error.code,
                    error=str(error),
                )
                frame = _refusal(request, error)
            except Exception as error:
                log.error(
                    "request.failed", method=request.method[:100], job_id=request.job_id, exc_info=error
                )
                text = f"{request.method[:100]} failed on the orchestrator; its log has the reason"
                frame = _refusal(request, RequestRefused("internal_error", text))
            self._post(self._running[key], frame)
        finally:
            del self._running[key]
            self._by_session[asker.session_id] -= 1
            if not self._by_session[asker.session_id]:
                del self._by_session[asker.session_id]

    async def _handled(self, agent_id: str, session_id: str, request: AgentRequest) -> Any:
        """A database that is away for a moment fails no job: handlers may be called again."""
        pause_s = 0.05
        while True:
            try:
                return await self._handle(agent_id, session_id, request)
            except Exception as error:
                if not is_passing(error):
                    raise
                log.warning(
                    "request.tried_again",
                    method=request.method[:100],
                    job_id=request.job_id,
                    retry_in_s=pause_s,
                    error=str(error),
                )
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)

    async def _handle(self, agent_id: str, session_id: str, request: AgentRequest) -> Any:
        handler = self._handlers.get(request.method)
        if handler is None:
            raise RequestRefused(
                "unknown_method", f"this orchestrator does not know {request.method[:100]!r}"
            )
        size = len(msgspec.json.encode(request.params))
        if size > MAX_PARAMS:
            raise RequestRefused("too_large", f"{request.method}: {size} bytes; {MAX_PARAMS} are allowed")
        job = await self._owned(agent_id, session_id, request)
        if job is None:
            raise RequestRefused("job_ended", "the job has ended, or this agent no longer has it")
        return await handler(job, request)

    async def _owned(self, agent_id: str, session_id: str, request: AgentRequest) -> OwnedJob | None:
        if _ID.fullmatch(request.job_id) is None:
            return None
        async with self._engine.connect() as tx:
            rows = await tx.execute(
                _OWNED,
                {
                    "job_id": request.job_id,
                    "attempt": request.attempt,
                    "agent_id": agent_id,
                    "session_id": session_id,
                },
            )
            row = rows.one_or_none()
        return None if row is None else OwnedJob(**dict(zip(_FIELDS, row, strict=True)))

    @staticmethod
    def _post(connection: Connection, frame: bytes) -> None:
        """To a connection that is over nothing is sent: the agent asks again on the next one."""
        connection.post(frame)


def params_of(request: AgentRequest, kind: type[T]) -> T:
    """The params as a Struct `kind`. Raises a KiciError that names what is wrong."""
    try:
        return msgspec.convert(request.params, kind)
    except msgspec.ValidationError as error:
        raise RequestRefused("invalid_input", f"{request.method}: {error}") from error


def _refusal(request: AgentRequest, error: KiciError) -> bytes:
    return agent_v1.encode(
        AgentResponse(
            request_id=request.request_id, job_id=request.job_id, error_code=error.code, error=str(error)
        )
    )
