"""One HTTP listener per process: uvicorn under our own signals, health routes, one error translation."""

import asyncio
import gc
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from litestar import Request, Response, get
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import ASGIApp
from msgspec import Struct

from kici.runtime.buildinfo import build_fields
from kici.runtime.clock import SystemClock, to_datetime
from kici.runtime.ids import request_id
from kici.runtime.logging import get_logger
from kici.runtime.metrics import CONTENT_TYPE, Metrics
from kici.spec.errors import KiciError

log = get_logger(__name__)

Checks = Callable[[], Awaitable[dict[str, bool]]]


class ErrorView(Struct, frozen=True, kw_only=True, rename="camel"):
    """Every error body (PD-64)."""

    error: str
    code: str
    details: Any
    trace_id: str


def error_response(
    message: str, code: str, status: int, *, details: Any = None, headers: dict[str, str] | None = None
) -> Response[ErrorView]:
    view = ErrorView(error=message, code=code, details=details, trace_id=request_id())
    return Response(view, status_code=status, media_type="application/json", headers=headers)


def on_kici_error(_request: Request[Any, Any, Any], error: KiciError) -> Response[ErrorView]:
    """Our own errors say their code and status; the message was written for people."""
    return error_response(
        str(error),
        error.code,
        error.status,
        details=getattr(error, "details", None),
        headers=getattr(error, "headers", None),
    )


def on_http_error(_request: Request[Any, Any, Any], error: HTTPException) -> Response[ErrorView]:
    code = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed"}.get(
        error.status_code, "bad_request" if error.status_code < 500 else "internal_error"
    )
    return error_response(
        error.detail, code, error.status_code, details=error.extra, headers=dict(error.headers or {})
    )


def on_recursion(request: Request[Any, Any, Any], error: RecursionError) -> Response[ErrorView]:
    """Of a body that no decoder follows to its end; only that is the peer's fault."""
    if "deserializing" not in str(error):
        return on_any_error(request, error)
    return error_response("The body is nested too deeply", "bad_request", 400)


def on_any_error(request: Request[Any, Any, Any], error: Exception) -> Response[ErrorView]:
    """Unforeseen: the peer gets a trace id, the log gets the rest (never `str(error)` outside)."""
    response = error_response("Something went wrong on our side", "internal_error", 500)
    log.error("http.failed", path=request.url.path, trace_id=response.content.trace_id, exc_info=error)
    return response


EXCEPTION_HANDLERS: dict[int | type[Exception], Any] = {
    KiciError: on_kici_error,
    HTTPException: on_http_error,
    RecursionError: on_recursion,
    Exception: on_any_error,
}


def health_routes(
    metrics: Metrics, checks: Checks, facts: Callable[[], dict[str, Any]] | None = None
) -> Sequence[HTTPRouteHandler]:
    """`/health` (never touches the database), `/ready`, `/metrics` (OP-34, OP-35)."""
    clock = SystemClock()
    started_ms = clock.now_ms()

    @get("/health", operation_id="health", include_in_schema=False, sync_to_thread=False)
    def health() -> dict[str, Any]:
        now_ms = clock.now_ms()
        return {
            "status": "ok",
            "timestamp": to_datetime(now_ms),
            "uptime": (now_ms - started_ms) // 1000,
            **build_fields(),
            **(facts() if facts else {}),
        }

    @get("/ready", operation_id="ready", include_in_schema=False)
    async def ready() -> Response[dict[str, Any]]:
        results = await checks()
        good = all(results.values())
        return Response(
            {"status": "ready" if good else "not ready", "checks": results},
            status_code=200 if good else 503,
        )

    @get("/metrics", operation_id="metrics", include_in_schema=False, sync_to_thread=False)
    def exposition() -> Response[bytes]:
        return Response(metrics.exposition(), media_type=CONTENT_TYPE)

    return [health, ready, exposition]


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: the process decides when to stop."""

    @asynccontextmanager
    async def _capture(self) -> AsyncGenerator[None]:
        yield

    def install_signal_handlers(self) -> None:
        return


async def serve(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    stop: asyncio.Event,
    on_bound: Callable[[int], None] | None = None,
) -> None:
    """Serve until `stop` is set, then finish open requests (≤ 5 s). Port 0 takes a free one."""
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws_max_size=32 << 20,
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        timeout_graceful_shutdown=5,
        backlog=4096,
        server_header=False,
        date_header=False,
    )
    server = _Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    if server.should_exit:
        raise SystemExit(f"cannot listen on {host}:{port}: the port is taken or not allowed")
    bound = server.servers[0].sockets[0].getsockname()[1]
    if on_bound is not None:
        on_bound(bound)
    log.info("http.listening", host=host, port=bound)
    # What is alive now lives for good: collections need not look at it again.
    gc.collect()
    gc.freeze()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(server.main_loop(), name="http.main")
            try:
                await stop.wait()
            finally:
                server.should_exit = True
    finally:
        await server.shutdown()
