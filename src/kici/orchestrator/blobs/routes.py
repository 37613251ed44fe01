"""`GET` and `PUT /blobs/{token}`: streamed, bounded in size while it streams, and in how many at once."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from litestar import asgi
from litestar.handlers import ASGIRouteHandler
from litestar.types import Receive, Scope, Send

from kici.orchestrator.blobs.service import Blobs
from kici.runtime.http import ErrorView
from kici.runtime.ids import request_id
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

AT_ONCE = 32
WAIT_S = 30.0  # for a turn
STALLED_S = 60.0
DRAIN_S, DRAIN_BYTES = 10.0, 64 << 20  # of a refused upload

_encode = msgspec.json.Encoder().encode


class BlobTooLarge(KiciError):
    code = "too_large"
    status = 413


class BlobsBusy(KiciError):
    code = "busy"
    status = 503


class _NotAllowed(KiciError):
    code = "method_not_allowed"
    status = 405


class _Gone(Exception):
    """The peer hung up in the middle."""


def blob_route(blobs: Blobs) -> ASGIRouteHandler:
    turns = asyncio.Semaphore(AT_ONCE)

    @asgi("/blobs", is_mount=True, copy_scope=False)
    async def blob(scope: Scope, receive: Receive, send: Send) -> None:
        request: Any = scope
        started, heard_all = False, False

        async def receive_and_note() -> Any:
            nonlocal heard_all
            message: Any = await receive()
            heard_all = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        async def send_and_note(message: Any) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with _turn(turns):
                token: str = request["path"].strip("/").rpartition("/")[2]
                await _serve(blobs, request["method"], token, receive_and_note, send_and_note, request)
        except (_Gone, OSError) as error:
            log.info("blob.broken_off", error=str(error) or type(error).__name__)
        except KiciError as error:
            log.info("blob.refused", code=error.code, error=str(error))
            if not started:
                if not heard_all:
                    await _drain(receive)
                await _refuse(send, error)
        except Exception as error:
            log.error("blob.failed", exc_info=error)
            if started:
                raise
            if not heard_all:
                await _drain(receive)
            await _refuse(send, KiciError("Something went wrong on our side"))

    return blob


class _turn:  # noqa: N801 - reads as a verb where it stands
    def __init__(self, turns: asyncio.Semaphore) -> None:
        self._turns = turns

    async def __aenter__(self) -> None:
        try:
            async with asyncio.timeout(WAIT_S):
                await self._turns.acquire()
        except TimeoutError:
            raise BlobsBusy(f"{AT_ONCE} transfers are under way; try again soon") from None

    async def __aexit__(self, *_exc: object) -> None:
        self._turns.release()


async def _serve(
    blobs: Blobs, method: str, token: str, receive: Receive, send: Send, request: dict[str, Any]
) -> None:
    if method not in ("GET", "PUT"):
        raise _NotAllowed("only GET and PUT")
    ticket = blobs.office.check(token, method)
    if method == "GET":
        size, pieces = await blobs.read(ticket.key)
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(size).encode()),
            (b"cache-control", b"no-store"),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async for piece in pieces:
            async with asyncio.timeout(STALLED_S):
                await send({"type": "http.response.body", "body": bytes(piece), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return
    announced = dict(request["headers"]).get(b"content-length")
    if announced is not None and announced.isdigit() and int(announced) > ticket.max_bytes:
        raise _too_large(ticket.max_bytes)
    await blobs.write(ticket.key, _body(receive, ticket.max_bytes))
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _body(receive: Receive, max_bytes: int) -> AsyncGenerator[bytes]:
    """Raises BlobTooLarge as soon as there is too much, and _Gone when it ends early: nothing is kept then."""
    size = 0
    while True:
        async with asyncio.timeout(STALLED_S):
            message: Any = await receive()
        if message["type"] != "http.request":
            raise _Gone("the sender hung up")
        body: bytes = message.get("body", b"")
        size += len(body)
        if size > max_bytes:
            raise _too_large(max_bytes)
        if body:
            yield body
        if not message.get("more_body", False):
            return


async def _drain(receive: Receive) -> None:
    """A sender reads our answer when it has sent all; closed before, it would see a broken line instead."""
    size = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while size <= DRAIN_BYTES:
                message: Any = await receive()
                size += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _too_large(max_bytes: int) -> BlobTooLarge:
    return BlobTooLarge(f"more than the {max_bytes} bytes that this URL allows")


async def _refuse(send: Send, error: KiciError) -> None:
    view = ErrorView(error=str(error), code=error.code, details=None, trace_id=request_id())
    body = _encode(view)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),  # more of a body than `_drain` takes is not read
    ]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
