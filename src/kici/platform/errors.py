"""What the Platform refuses, and with which code and status (PD-39, PD-43, PD-50, PD-55, PD-64).

KiciError
├─ Unauthorized 401       no, unknown, expired or revoked credential
├─ Forbidden 403          signed in, not allowed
├─ TooManyRequests 429    carries Retry-After
├─ OrchestratorOffline 503
├─ OrchestratorTimeout 504
├─ CapabilityMissing 501  the orchestrator is too old
├─ Unprocessable 422      refused for a reason of its own
└─ OrchestratorRefused    the orchestrator's own code and status
"""

from typing import Any, ClassVar

import asyncpg
from litestar import Request, Response
from litestar.exceptions import ValidationException
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from kici.runtime.buildinfo import build_info
from kici.runtime.http import EXCEPTION_HANDLERS, ErrorView, error_response, on_any_error
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)


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


class CapabilityMissing(KiciError):
    """The connected orchestrator does not know this request: says both versions and who must upgrade
    (PD-21, AU-142)."""

    code: ClassVar[str] = "unsupported_request_type"
    status: ClassVar[int] = 501

    def __init__(self, request_type: str, orchestrator_version: str) -> None:
        mine = build_info().version
        super().__init__(
            f"the orchestrator (kici {orchestrator_version}) does not offer `{request_type}`; the Platform is"
            f" kici {mine}. Its operator must upgrade the orchestrator"
        )
        self.details = {
            "requestType": request_type,
            "orchVersion": orchestrator_version,
            "platformVersion": mine,
        }


class Unprocessable(KiciError):
    """Understood, and refused for a reason that `code` names."""

    status: ClassVar[int] = 422

    def __init__(self, message: str, *, code: str, details: dict[str, Any]) -> None:
        super().__init__(message)
        self.code = code  # pyright: ignore[reportAttributeAccessIssue]  of this very refusal
        self.details = details


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


# What a database that is away, restarting or full makes our statements raise. A pool notices dead
# connections when it uses them, so this also happens once after it came back.
DATABASE_TROUBLE = (OSError, TimeoutError, SQLAlchemyError, asyncpg.PostgresError, asyncpg.InterfaceError)
_AWAY = ("08", "53", "57")  # SQLSTATE classes: connection, resources, operator intervention


def database_is_away(error: BaseException) -> bool:
    """As opposed to: the statement is wrong, or the data is."""
    if isinstance(error, DBAPIError):
        if error.connection_invalidated:
            return True
        return isinstance(error.orig, BaseException) and database_is_away(error.orig)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return state.startswith(_AWAY)
    return isinstance(error, OSError | TimeoutError | asyncpg.InterfaceError | PoolTimeoutError)


def on_database_trouble(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorView]:
    if not database_is_away(error):
        return on_any_error(request, error)
    log.warning("http.database_away", path=request.url.path, exc_info=error)
    return error_response(
        "The database is away: try again", "unavailable", 503, headers={"Retry-After": "1"}
    )


HANDLERS: dict[int | type[Exception], Any] = {
    **EXCEPTION_HANDLERS,
    OrchestratorRefused: on_refusal,
    ValidationException: on_invalid,
    **dict.fromkeys(DATABASE_TROUBLE, on_database_trouble),
}
