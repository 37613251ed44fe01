"""Questions of jobs on their way to the orchestrator, and its answers on their way back (AG-12).

A question stays until it is answered or its time is up. A lost connection costs nothing: what is still open is
asked again on the next one, under the same `request_id`, which the orchestrator knows how to take.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import Struct

from kici.protocol import agent_v1
from kici.protocol.agent_v1 import AgentRequest, AgentResponse
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

MAX_PARAMS = 1 << 20  # bytes of JSON


class RequestFailed(KiciError):
    """Refused by the orchestrator, or by us; `code` is its reason."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]


class _Open(Struct, frozen=True):
    frame: bytes
    method: str
    answer: asyncio.Future[Any]


class Relay:
    """One per agent. Whoever sends calls `connected` on every new connection, then `wait_unsent` and `take`."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}  # by request id, in the order asked
        self._unsent: deque[str] = deque()
        self._wanted = asyncio.Event()

    async def ask(
        self, job_id: str, attempt: int, method: str, params: dict[str, Any], *, timeout_s: float
    ) -> Any:
        """The result. Raises RequestFailed: refused, too large, or not answered in time."""
        if self.size_of(params) > MAX_PARAMS:
            raise RequestFailed("too_large", f"{method}: more than {MAX_PARAMS} bytes")
        request = AgentRequest(
            request_id=uuid7(), job_id=job_id, attempt=attempt, method=method, params=params
        )
        mine = _Open(agent_v1.encode(request), method, asyncio.get_running_loop().create_future())
        self._open[request.request_id] = mine
        self._unsent.append(request.request_id)
        self._wanted.set()
        try:
            async with asyncio.timeout(timeout_s):
                return await mine.answer
        except TimeoutError:
            raise RequestFailed(
                "timed_out", f"{method}: the orchestrator did not answer within {timeout_s:g} s"
            ) from None
        finally:
            del self._open[request.request_id]

    def answered(self, response: AgentResponse) -> None:
        """Late and repeated answers pass."""
        question = self._open.get(response.request_id)
        if question is None or question.answer.done():
            log.debug("request.answer_unwanted", request_id=response.request_id)
        elif response.error_code is not None:
            question.answer.set_exception(
                RequestFailed(response.error_code, response.error or response.error_code)
            )
        else:
            question.answer.set_result(response.result)

    def connected(self) -> None:
        """A new connection: everything that is open is asked on it."""
        self._unsent = deque(self._open)
        if self._unsent:
            self._wanted.set()

    async def wait_unsent(self) -> None:
        await self._wanted.wait()

    def take(self) -> Iterator[bytes]:
        """The frames to send now."""
        while self._unsent:
            question = self._open.get(self._unsent.popleft())
            if question is not None and not question.answer.done():
                yield question.frame
        self._wanted.clear()

    @staticmethod
    def size_of(params: dict[str, Any]) -> int:
        """Bytes as JSON. Raises RequestFailed for what JSON cannot carry."""
        try:
            return len(msgspec.json.encode(params))
        except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError) as error:
            raise RequestFailed("invalid_input", f"the request cannot be sent as JSON: {error}") from error
