"""What the Platform refuses, and with which code and status (PD-39, PD-43, PD-50, PD-55, PD-64).

KiciError
├─ Unauthorized 401       no, unknown, expired or revoked credential
├─ Forbidden 403          signed in, not allowed
├─ TooManyRequests 429    carries Retry-After
├─ OrchestratorOffline 503
├─ OrchestratorTimeout 504
└─ OrchestratorRefused    the orchestrator's own code and status
"""

from typing import Any, ClassVar

from litestar import Request, Response
from litestar.exceptions import ValidationException

from kici.runtime.http import EXCEPTION_HANDLERS, ErrorView, error_response
from kici.spec.errors import KiciError


class Unauthorized(KiciError):
    code: ClassVar[str] = "unauthorized"
    status: ClassVar[int] = 401


class TokenUnknown(Unauthorized):
    code: ClassVar[str] = "token_unknown"


class TokenExpired(Unauthorized):
    code: ClassVar[str] = "token_expired"


class TokenRevoked(Unauthorized):
    code: ClassVar[str] = "token_revoked"


class Forbidden(KiciError):
    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403


class CsrfRefused(Forbidden):
    """An unsafe request under a cookie without our header or from another origin (PD-45)."""

    code: ClassVar[str] = "csrf_refused"


class TooManyRequests(KiciError):
    code: ClassVar[str] = "too_many_requests"
    status: ClassVar[int] = 429

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(max(1, retry_after_seconds))}


class OrchestratorOffline(KiciError):
    code: ClassVar[str] = "orchestrator_offline"
    status: ClassVar[int] = 503

    def __init__(self, message: str = "Orchestrator offline") -> None:
        super().__init__(message)


class OrchestratorTimeout(KiciError):
    code: ClassVar[str] = "orchestrator_timeout"
    status: ClassVar[int] = 504


class UnsupportedRequest(KiciError):
    """The connected orchestrator is too old for this request (PD-21)."""

    code: ClassVar[str] = "unsupported_request_type"
    status: ClassVar[int] = 501


class OrchestratorRefused(Exception):
    """The orchestrator answered with an error: its code and status go to the asker unchanged."""

    def __init__(self, message: str, *, code: str, status: int) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


def on_refusal(_request: Request[Any, Any, Any], error: OrchestratorRefused) -> Response[ErrorView]:
    return error_response(str(error), error.code, error.status)


def camel(name: str) -> str:
    """A Python name as it stands on the wire."""
    head, *rest = name.split("_")
    return head + "".join(part[:1].upper() + part[1:] for part in rest)


def on_invalid(_request: Request[Any, Any, Any], error: ValidationException) -> Response[ErrorView]:
    """Which field, and what is wrong with it (PD-64)."""
    details = [
        {"field": camel(str(problem.get("key", ""))), "message": problem.get("message")}
        for problem in error.extra or []
        if isinstance(problem, dict)
    ]
    return error_response("This request is not valid", "invalid_input", 400, details=details)


HANDLERS: dict[int | type[Exception], Any] = {
    **EXCEPTION_HANDLERS,
    OrchestratorRefused: on_refusal,
    ValidationException: on_invalid,
}
