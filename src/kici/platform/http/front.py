"""The first thing that sees a request: base path, request id, client address, then who serves it.

WebSockets and webhooks go to raw ASGI handlers, the API to Litestar, everything else is the dashboard.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kici.platform.http.static import StaticFiles, security_headers
from kici.platform.settings import Network, Origins, client_ip
from kici.runtime.ids import request_id
from kici.runtime.logging import bind

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_NO_STORE = (b"cache-control", b"no-store")
_API = ("/api/", "/auth/", "/oauth/", "/.well-known/")
_API_EXACT = frozenset({"/health", "/ready", "/metrics", "/auth", "/api", "/device"})


class Front:
    def __init__(
        self,
        *,
        api: App,
        webhooks: App,
        orchestrators: App,
        browsers: App,
        static: StaticFiles,
        origins: Origins,
        trusted: tuple[Network, ...],
    ) -> None:
        self._api = api
        self._webhooks = webhooks
        self._sockets = {"/ws": orchestrators, "/ws/dashboard": browsers}
        self._static = static
        self._base = origins.base_path.rstrip("/")
        self._trusted = trusted
        self._headers = security_headers(secure=origins.secure)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if self._base:
            if path != self._base and not path.startswith(self._base + "/"):
                await self._lost(scope, receive, send)
                return
            path = path[len(self._base) :] or "/"
            scope["path"] = path
            scope["raw_path"] = path.encode()
        identity = request_id()
        scope["state"] = {"request_id": identity, "client_ip": self._client_ip(scope)}
        if scope["type"] == "websocket":
            endpoint = self._sockets.get(path)
            if endpoint is None:
                await self._lost(scope, receive, send)
                return
            await endpoint(scope, receive, send)
            return
        if path.startswith("/webhook/"):
            await self._webhooks(scope, receive, send)
            return
        if path.startswith(_API) or path in _API_EXACT:
            with bind(request_id=identity):
                more = (_NO_STORE, (b"x-request-id", identity.encode()))
                await self._api(scope, receive, self._secured(send, *more))
            return
        if scope["method"] not in {"GET", "HEAD"}:
            await self._lost(scope, receive, send)
            return
        await self._static.serve(path[1:], scope, self._secured(send))

    def _secured(self, send: Send, *more: tuple[bytes, bytes]) -> Send:
        async def with_headers(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                own = {name.lower() for name, _ in message["headers"]}  # a page may know better
                ours = [header for header in (*self._headers, *more) if header[0] not in own]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        return with_headers

    def _client_ip(self, scope: Scope) -> str | None:
        client = scope.get("client")
        peer = client[0] if client else None
        if not self._trusted:
            return peer
        headers = dict(scope["headers"])
        return client_ip(
            peer,
            headers.get(b"x-forwarded-for", b"").decode("latin-1"),
            headers.get(b"x-real-ip", b"").decode("latin-1"),
            self._trusted,
        )

    async def _lost(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4000})
            return
        body = msgspec.json.encode(
            {"error": "Not found", "code": "not_found", "details": None, "traceId": request_id()}
        )
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 404, "headers": headers})
        await send({"type": "http.response.body", "body": body})
