"""Where the host answers what author code asks for (`Request` in `kici.protocol.runner_v1`).

A runner is hostile: it may ask a bounded number of things at once, in messages of bounded size, and
whatever is unanswered when its job ends is dropped. Secrets that an answer carries are masked before
the runner can have read them.
"""

import asyncio
import logging
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol, Self, cast

from kici.protocol.runner_v1 import Reply, Request
from kici.runner.masking import Masker
from kici.spec.errors import KiciError
from kici.spec.nesting import MAX_NESTING, too_deep

_MOST_AT_ONCE = 64
_MOST_ERROR_CHARACTERS = 4_096
_ANSWER_WITHIN_S = 8 * 86_400.0  # an approval may take a week; the limits of jobs are shorter
_SECRETS_IN_PARAMS = {"secrets.output": "value"}
_SECRETS_IN_RESULT = {"secrets.get": "value", "oidc.token": "token"}
log = logging.getLogger(__name__)


class RunnerServices(Protocol):
    """What a host offers to author code. One object may serve many jobs.

    `request` is called on the host's event loop, concurrently, with the method and the params that the
    table of `kici.protocol.runner_v1.Request` has; it returns the result of that table. To refuse, raise a
    KiciError: its `code` and text reach the author as the exception of that code (`secret_not_found`,
    `limit_exceeded`, `event_rejected`, `capability_missing`, `not_available_locally`). A method that the
    host does not know is `UnknownMethodError`. Anything else that it raises is logged, and the author
    reads that the host failed. Params come from author code and are checked by nobody before.
    It is cancelled when the job ends first.
    """

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any: ...


class UnknownMethodError(KiciError):
    """The host has no such service."""

    code = "unknown_method"

    def __init__(self, method: str) -> None:
        super().__init__(f"this host does not know {method[:100]!r}")


class NoServices:
    """A host that offers nothing."""

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any:
        raise UnknownMethodError(method)


class RequestDesk:
    """Answers the requests of one runner. `async with` it; leaving drops what is unanswered."""

    def __init__(self, services: RunnerServices, job_id: str, masker: Masker) -> None:
        self._services = services
        self._job_id = job_id
        self._masker = masker
        self._tasks = asyncio.TaskGroup()
        self._pending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        await self._tasks.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        for task in self._pending:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)  # no request ever raises; the error stays as it is

    def take(self, request: Request, reply: Callable[[Reply], None]) -> None:
        """Answer it some time from now. Never blocks."""
        if (name := _SECRETS_IN_PARAMS.get(request.method)) is not None:
            self._mask(request.params, name)
        if self._closed:
            return  # the job is being given up, and nobody waits for the answer
        if too_deep(request.params):
            error = f"{request.method[:100]}: values are nested deeper than {MAX_NESTING} levels"
            reply(Reply(request_id=request.request_id, error_code="limit_exceeded", error=error))
            return
        if len(self._pending) >= _MOST_AT_ONCE:
            reply(
                Reply(
                    request_id=request.request_id,
                    error_code="too_many_requests",
                    error=f"more than {_MOST_AT_ONCE} requests of this job are unanswered",
                )
            )
            return
        task = self._tasks.create_task(self._answer(request, reply))
        self._pending.add(task)
        task.add_done_callback(self._pending.discard)

    async def _answer(self, request: Request, reply: Callable[[Reply], None]) -> None:
        number, method = request.request_id, request.method
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                result = await self._services.request(self._job_id, method, request.params)
        except KiciError as error:
            text = self._masker.mask_text(str(error))[:_MOST_ERROR_CHARACTERS]
            reply(Reply(request_id=number, error_code=error.code, error=text))
            return
        except Exception:
            log.exception("request %r of job %s failed", method[:100], self._job_id)
            reply(
                Reply(
                    request_id=number,
                    error_code="internal_error",
                    error=f"{method[:100]} failed on the host; its log has the reason",
                )
            )
            return
        if (name := _SECRETS_IN_RESULT.get(method)) is not None:
            self._mask(result, name)
        reply(Reply(request_id=number, result=result))

    def _mask(self, values: Any, name: str) -> None:
        value = cast("dict[str, Any]", values).get(name) if isinstance(values, dict) else None
        if isinstance(value, str):
            self._masker.add(value)
