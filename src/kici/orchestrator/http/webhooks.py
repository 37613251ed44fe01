"""`POST /webhook/{orgId}/generic/{sourceName}`, as a bare ASGI application: this path is counted in
deliveries per second."""

import asyncio
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import msgspec
from litestar.types import ASGIApp, HTTPScope, Receive, Scope, Send

from kici.orchestrator.http.tokens import AdminTokens
from kici.orchestrator.inbox.acceptance import Acceptor, too_large
from kici.orchestrator.inbox.delivery import PATH_HEADER, Acceptance, Delivery, split_path
from kici.orchestrator.inbox.writer import InboxUnavailable
from kici.orchestrator.sources.service import MAX_PAYLOAD_CEILING
from kici.runtime.http import ErrorView
from kici.runtime.ids import request_id as new_request_id
from kici.runtime.logging import get_logger

log = get_logger(__name__)

BODY_TIMEOUT_S = 30

_encode = msgspec.json.Encoder().encode
Headers = Sequence[tuple[bytes, bytes]]


class _Gone(Exception):
    """The sender hung up."""


class Webhooks:
    """Answers webhooks and hands every other request on to `rest`. `local_only`: others come over the
    relay; push hooks of this machine's repositories still speak to us."""

    def __init__(
        self,
        acceptor: Acceptor,
        tokens: AdminTokens,
        rest: ASGIApp,
        *,
        root: str = "",
        local_only: bool = False,
        trusted_proxies: Sequence[IPv4Network | IPv6Network] = (),
    ) -> None:
        self._acceptor = acceptor
        self._tokens = tokens
        self._rest = rest
        self._prefix = f"{root}/webhook/"
        self._local_only = local_only
        self._trusted = trusted_proxies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._prefix):
            await self._rest(scope, receive, send)
            return
        called = split_path(scope["path"][len(self._prefix) :].split("/"))
        if called is None:
            await _answer_error(send, 404, "not_found", "There is no such path", new_request_id())
        elif scope["method"] != "POST":
            await _answer_error(
                send,
                405,
                "method_not_allowed",
                "Webhooks are posted",
                new_request_id(),
                headers=[(b"allow", b"POST")],
            )
        else:
            await self._webhook(scope, receive, send, called)

    async def _webhook(
        self, scope: HTTPScope, receive: Receive, send: Send, called: tuple[str, str, str]
    ) -> None:
        org_id, source_name, path = called
        headers = _headers(scope)
        headers.pop(PATH_HEADER, None)
        if path:
            headers[PATH_HEADER] = path
        request_id = new_request_id()
        delivery = Delivery(
            headers=headers,
            body=b"",
            via="direct",
            request_id=request_id,
            client_ip=self._client_ip(scope, headers),
            org_id=org_id,
            source_name=source_name,
        )
        source = self._acceptor.find(delivery)
        if self._local_only and (source is None or source.kind != "local"):
            await _answer_error(send, 404, "not_found", "Webhooks are taken by the Platform", request_id)
            return
        limit = MAX_PAYLOAD_CEILING if source is None else source.max_payload_bytes
        try:
            body = await _body(receive, headers, limit)
        except (_Gone, TimeoutError):
            await _answer_error(send, 408, "request_timeout", "The body did not arrive in time", request_id)
            return
        if body is None:
            await _answer(send, too_large(limit), request_id)
            return
        delivery = msgspec.structs.replace(delivery, body=body)
        is_admin = False
        if source is not None and source.kind == "local" and "authorization" in headers:
            operator = await self._tokens.operator(headers["authorization"])
            is_admin = operator is not None and operator.role != "auditor"
        try:
            acceptance = await self._acceptor.accept(delivery, is_admin=is_admin)
        except InboxUnavailable as error:
            await _answer_error(
                send, 503, error.code, str(error), request_id, headers=[(b"retry-after", b"5")]
            )
            return
        except Exception as error:
            log.error("webhook.failed", request_id=request_id, source=source_name, exc_info=error)
            await _answer_error(send, 500, "internal_error", "Something went wrong on our side", request_id)
            return
        await _answer(send, acceptance, request_id)

    def _client_ip(self, scope: HTTPScope, headers: dict[str, str]) -> str | None:
        """The socket's address, or what a proxy that we trust says about it (OR-40)."""
        client = scope.get("client")
        peer = client[0] if client else None
        if peer is None or not self._trusted:
            return peer
        hops = [
            peer,
            *reversed(
                [hop.strip() for hop in headers.get("x-forwarded-for", "").split(",") if hop.strip()]
            ),
        ]
        for hop in hops:
            try:
                address = ip_address(hop)
            except ValueError:
                return None
            if not any(address in network for network in self._trusted):
                return hop
        return hops[-1]


def _headers(scope: HTTPScope) -> dict[str, str]:
    """Names come in lower case; a repeated one is joined as HTTP says."""
    found: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


async def _body(receive: Receive, headers: dict[str, str], limit: int) -> bytes | None:
    """The whole body; None when it is larger than `limit`, where possible before reading it."""
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        return None
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(BODY_TIMEOUT_S):
        while True:
            message: Any = await receive()
            if message["type"] != "http.request":
                raise _Gone
            part: bytes = message.get("body", b"")
            size += len(part)
            if size > limit:
                return None
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)


async def _answer(send: Send, acceptance: Acceptance, request_id: str) -> None:
    if acceptance.result == "accepted":
        view: dict[str, Any] = {
            "accepted": True,
            "deliveryId": acceptance.delivery_id,
            "requestId": request_id,
        }
        if acceptance.duplicate:
            view["duplicate"] = True
        if acceptance.filtered:
            view["status"] = "filtered"
        await _send(send, acceptance.status, _encode(view))
        return
    details = None if acceptance.max_bytes is None else {"maxBytes": acceptance.max_bytes}
    wait = acceptance.retry_after_s
    await _answer_error(
        send,
        acceptance.status,
        acceptance.code,
        acceptance.reason or "refused",
        request_id,
        details=details,
        headers=[] if wait is None else [(b"retry-after", str(wait).encode())],
    )


async def _answer_error(
    send: Send,
    status: int,
    code: str,
    message: str,
    request_id: str,
    *,
    details: Any = None,
    headers: Headers = (),
) -> None:
    view = ErrorView(error=message, code=code, details=details, trace_id=request_id)
    await _send(send, status, _encode(view), headers)


async def _send(send: Send, status: int, body: bytes, headers: Headers = ()) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"application/json"),
                (b"content-length", str(len(body)).encode()),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body, "more_body": False})
