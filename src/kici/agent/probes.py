"""`/health`, `/ready`, `/metrics` (AG-93) on a listener of a few kilobytes.

Three GET routes need no web framework: the WebSocket library that the agent has anyway answers plain
HTTP too. That keeps several megabytes out of every agent.
"""

import http
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import msgspec
from msgspec import Struct
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from kici.runtime.metrics import CONTENT_TYPE
from kici.spec.errors import KiciError

JSON = "application/json"

# A probe that only opens the port, or speaks something else, is no error of ours.
_quiet = logging.getLogger("kici.agent.probes.connections")
_quiet.setLevel(logging.CRITICAL)


class PortTaken(KiciError):
    code: ClassVar[str] = "port_taken"


class Answer(Struct, frozen=True):
    body: bytes
    content_type: str = CONTENT_TYPE
    status: int = 200


Route = Callable[[], Answer]


def json_answer(value: Any, status: int = 200) -> Answer:
    return Answer(msgspec.json.encode(value), JSON, status)


@asynccontextmanager
async def listening(host: str, port: int, routes: Mapping[str, Route]) -> AsyncGenerator[int]:
    """Serves `routes` by path; yields the port (0 takes a free one). Raises PortTaken."""

    def answer(_connection: ServerConnection, request: Request) -> Response:
        route = routes.get(request.path.partition("?")[0])
        found = (
            route() if route is not None else json_answer({"error": "not found", "code": "not_found"}, 404)
        )
        headers = Headers()
        headers["Content-Type"] = found.content_type
        headers["Content-Length"] = str(len(found.body))
        headers["Connection"] = "close"
        return Response(found.status, http.HTTPStatus(found.status).phrase, headers, found.body)

    try:
        server = await serve(
            _refuse,
            host,
            port,
            process_request=answer,
            compression=None,
            server_header=None,
            logger=_quiet,
        )
    except OSError as error:
        raise PortTaken(
            f"cannot listen on {host}:{port}: {error.strerror or error}; set KICI_PORT"
        ) from error
    async with server:
        yield server.sockets[0].getsockname()[1]


async def _refuse(connection: ServerConnection) -> None:
    """Never reached: every request is answered before an upgrade."""
    await connection.close()
