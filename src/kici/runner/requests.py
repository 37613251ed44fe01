"""What author code asks the host for, and how it hears the answer (`Request` in the protocol)."""

import asyncio
from collections.abc import Mapping
from typing import Any

from kici.protocol.runner_v1 import Reply, Request
from kici.runner.link import HostLink
from kici.sdk.errors import (
    CapabilityMissingError,
    EventRejectedError,
    LimitExceededError,
    NotAvailableLocallyError,
)
from kici.spec.errors import KiciError

_MOST_AT_ONCE = 32  # the host refuses more than 64
_KINDS: dict[str, type[KiciError]] = {
    kind.code: kind
    for kind in (CapabilityMissingError, EventRejectedError, LimitExceededError, NotAvailableLocallyError)
}


class RequestFailedError(KiciError):
    """The host could not do it; `reason` is its code."""

    code = "request_failed"

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Requests:
    """One per job. Everything happens on the event loop."""

    def __init__(self, link: HostLink, *, is_local: bool) -> None:
        self._link = link
        self._is_local = is_local
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._places = asyncio.Semaphore(_MOST_AT_ONCE)
        self._last = 0

    async def call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """The result; who waits for it and is cancelled waits no more. Raises the KiciError of the code."""
        async with self._places:
            self._last += 1
            number = self._last
            answer = self._waiting[number] = asyncio.get_running_loop().create_future()
            try:
                self._link.send(Request(request_id=number, method=method, params=dict(params or {})))
                reply = await answer
            finally:
                del self._waiting[number]
        if reply.error_code is not None:
            raise self._error(method, reply.error_code, reply.error or reply.error_code)
        return reply.result

    def answered(self, reply: Reply) -> None:
        waiting = self._waiting.get(reply.request_id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def _error(self, method: str, code: str, message: str) -> KiciError:
        if code == "unknown_method":
            if self._is_local:
                return NotAvailableLocallyError(f"{method} is not available in a local run")
            return CapabilityMissingError(f"{method} is not available: the agent must be updated")
        kind = _KINDS.get(code)
        return RequestFailedError(code, message) if kind is None else kind(message)
