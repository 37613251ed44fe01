"""`POST /webhook/{orgId}/generic/{sourceName}`: a raw ASGI handler, no database on the good path.

| Outcome | HTTP (PD-29) |
|---|---|
| accepted | 200 `{requestId}` (`duplicate: true` when the orchestrator knew it) |
| kept for later | 202 `{requestId, queued: true}` |
| wrong signature | 401 |
| unknown org or source | 404 |
| too large | 413 |
| the source is misconfigured | 500 |
| inbox full, off or unreachable | 503 + `Retry-After: 5` |
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from kici.platform.link.connection import ConnectionGone, Connections
from kici.platform.relay.eventlog import EventLog, EventStatus, LoggedEvent
from kici.platform.relay.inbox import InboxFull, WebhookInbox
from kici.platform.relay.sources import Source, SourceDirectory
from kici.protocol.platform_v1 import AckResult, WebhookAck, WebhookRelay
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.logging import get_logger
from kici.runtime.metrics import CappedLabel, Metrics

log = get_logger(__name__)

MAX_BODY_BYTES = 25 << 20
MAX_IN_FLIGHT_BYTES = 256 << 20
_BODY_SECONDS = 30

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_JSON = (b"content-type", b"application/json")
_ANSWERS: dict[AckResult, tuple[int, str, str]] = {
    "accepted": (200, "", ""),
    "rejected_signature": (401, "bad_signature", "The signature does not verify"),
    "rejected_unknown_source": (404, "unknown_source", "Unknown webhook source"),
    "rejected_misconfigured": (
        500,
        "source_misconfigured",
        "The source is misconfigured at the orchestrator",
    ),
    "rejected_request": (400, "bad_request", "The orchestrator cannot use this request"),
}
# Hop-by-hop and connection headers say nothing about the event.
_NOT_RELAYED = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"te", b"trailer", b"cookie"}
)
_PATH_HEADER = b"x-kici-path"  # what was called behind the source's address, never the sender's word


class TooLarge(Exception):
    """The body is over the cap."""


class WebhookIngress:
    def __init__(
        self,
        *,
        clock: Clock,
        connections: Connections,
        directory: SourceDirectory,
        inbox: WebhookInbox | None,
        event_log: EventLog,
        ack_timeout_seconds: float,
        total_timeout_seconds: float,
        metrics: Metrics,
    ) -> None:
        """`inbox` None: store-and-forward is switched off."""
        self._clock = clock
        self._connections = connections
        self._directory = directory
        self._inbox = inbox
        self._event_log = event_log
        self._ack_timeout = ack_timeout_seconds
        self._total_timeout = total_timeout_seconds
        self._in_flight_bytes = 0
        self._cap_org = CappedLabel(200)
        self._received = metrics.counter(
            "webhooks_received_total", "Webhooks by answer", ["event", "status", "org_id"]
        )
        self._refused_signatures = metrics.counter(
            "webhook_signature_failures_total", "Webhooks whose signature was refused", ["source", "org_id"]
        )
        self._attempts = metrics.counter(
            "ws_relay_attempts_total", "Hand-overs to an orchestrator", ["status"]
        )
        self._duration = metrics.histogram(
            "ws_relay_duration_seconds",
            "Until the orchestrator acknowledged",
            (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5),
        )

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id: str = scope["state"]["request_id"]
        parts = scope["path"].split("/")[2:]
        if scope["method"] != "POST":
            await _refuse(send, request_id, 405, "method_not_allowed", "POST webhooks here")
            return
        if len(parts) < 3 or parts[1] != "generic" or len(parts[0]) > 64 or len(parts[2]) > 200:
            await _refuse(send, request_id, 404, "unknown_source", "Unknown webhook source")
            return
        source = await self._directory.find(parts[0], parts[2])
        if source is None:
            await _refuse(send, request_id, 404, "unknown_source", "Unknown webhook source")
            return
        received_at_ms = self._clock.now_ms()
        reserved = 0
        try:
            try:
                declared = _declared_length(scope)
                limit = min(MAX_BODY_BYTES, source.max_payload_bytes)
                if declared is not None and declared > limit:
                    raise TooLarge
                reserved = limit if declared is None else declared
                if self._in_flight_bytes + reserved > MAX_IN_FLIGHT_BYTES:
                    reserved = 0
                    await _refuse(
                        send, request_id, 503, "overloaded", "Too many webhooks at once", retry=True
                    )
                    return
                self._in_flight_bytes += reserved
                async with asyncio.timeout(_BODY_SECONDS):
                    body = await _read(receive, limit)
            except TooLarge:
                await _refuse(
                    send, request_id, 413, "too_large", "The body is larger than this source allows"
                )
                self._settle(
                    source, None, request_id, "rejected", 413, "too large", 0, scope, received_at_ms
                )
                return
            except TimeoutError:
                await _refuse(send, request_id, 408, "body_timeout", "The body did not arrive in time")
                return
            if body is None:  # the sender went away
                return
            await self._handle(source, scope, send, body, received_at_ms)
        finally:
            self._in_flight_bytes -= reserved

    async def _handle(
        self, source: Source, scope: Scope, send: Send, body: bytes, received_at_ms: int
    ) -> None:
        request_id: str = scope["state"]["request_id"]
        head, event = self._head(source, scope, received_at_ms)
        ack = await self._hand_over(source, head, body)
        if ack is None:
            await self._keep(source, head, body, event, scope, send)
            return
        status, code, message = _ANSWERS[ack.result]
        logged: EventStatus = "rejected"
        if ack.result == "accepted":
            logged = "duplicate" if ack.duplicate else "received"
            answer = b'{"requestId":"%b"%b}' % (
                request_id.encode(),
                b',"duplicate":true' if ack.duplicate else b"",
            )
            await _answer(send, request_id, 200, answer)
        else:
            if ack.result == "rejected_signature":
                self._refused_signatures.labels(source.name, self._cap_org(source.org_id)).inc()
            await _refuse(send, request_id, status, code, message, details=ack.reason)
        self._settle(
            source,
            event,
            request_id,
            logged,
            status,
            ack.reason,
            len(body),
            scope,
            received_at_ms,
            ack.delivery_id,
        )

    def _head(self, source: Source, scope: Scope, received_at_ms: int) -> tuple[WebhookRelay, str | None]:
        headers: dict[str, str] = {}
        for raw_name, raw_value in scope["headers"]:
            if raw_name not in _NOT_RELAYED and raw_name != _PATH_HEADER:
                name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
                headers[name] = f"{headers[name]}, {value}" if name in headers else value
        if behind := "/".join(scope["path"].split("/")[5:]).strip("/"):
            headers[_PATH_HEADER.decode()] = f"/{behind}"
        event = (
            headers.get("x-github-event") or headers.get("x-kici-event") or headers.get("x-gitlab-event")
        )
        request_id: str = scope["state"]["request_id"]
        head = WebhookRelay(
            message_id=request_id,
            routing_key=source.routing_key,
            request_id=request_id,
            headers=headers,
            client_ip=scope["state"]["client_ip"],
            received_at_ms=received_at_ms,
            traceparent=headers.get("traceparent"),
        )
        return head, event[:100] if event else None

    async def _hand_over(self, source: Source, head: WebhookRelay, body: bytes) -> WebhookAck | None:
        """None: nobody answered, or older webhooks of this source still wait and go first."""
        if self._inbox is not None and (source.org_id, source.routing_key) in self._inbox.backlog:
            self._attempts.labels("behind").inc()
            return None
        loop = asyncio.get_running_loop()
        started = loop.time()
        for connection in self._connections.for_source(source.org_id, source.routing_key):
            left = self._total_timeout - (loop.time() - started)
            if left <= 0:
                break
            try:
                ack = await connection.relay(head, body, min(self._ack_timeout, left))
            except ConnectionGone:
                self._attempts.labels("gone").inc()
                continue
            except TimeoutError:
                self._attempts.labels("timeout").inc()
                continue
            self._attempts.labels(ack.result).inc()
            self._duration.observe(loop.time() - started)
            return ack
        return None

    async def _keep(
        self, source: Source, head: WebhookRelay, body: bytes, event: str | None, scope: Scope, send: Send
    ) -> None:
        status, logged, reason = 202, "queued", None
        try:
            if self._inbox is None:
                raise InboxFull("no orchestrator is connected")
            async with asyncio.timeout(10):
                await self._inbox.keep(source.org_id, head, body)
            await _answer(
                send, head.request_id, 202, b'{"requestId":"%b","queued":true}' % head.request_id.encode()
            )
        except InboxFull as full:
            status, logged, reason = 503, "failed", str(full)
            await _refuse(send, head.request_id, 503, full.code, reason, retry=True)
        except Exception as error:
            log.error("webhook.not_kept", request_id=head.request_id, exc_info=error)
            status, logged, reason = 503, "failed", "the database is away"
            await _refuse(send, head.request_id, 503, "unavailable", "Try again later", retry=True)
        self._settle(
            source, event, head.request_id, logged, status, reason, len(body), scope, head.received_at_ms
        )

    def _settle(
        self,
        source: Source,
        event: str | None,
        request_id: str,
        status: EventStatus,
        http_status: int,
        reason: str | None,
        size: int,
        scope: Scope,
        received_at_ms: int,
        delivery_id: str | None = None,
    ) -> None:
        self._received.labels("generic", str(http_status), self._cap_org(source.org_id)).inc()
        log.info(
            "webhook.settled",
            request_id=request_id,
            routing_key=source.routing_key,
            result=status,
            status=http_status,
        )
        self._event_log.note(
            LoggedEvent(
                org_id=source.org_id,
                request_id=request_id,
                routing_key=source.routing_key,
                source_name=source.name,
                event=event,
                delivery_id=delivery_id,
                status=status,
                http_status=http_status,
                reason=reason,
                size_bytes=size,
                client_ip=scope["state"]["client_ip"],
                received_at=to_datetime(received_at_ms),
                settled_at=to_datetime(self._clock.now_ms()),
            )
        )


def _declared_length(scope: Scope) -> int | None:
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value)  # the server parsed it before us
    return None


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The whole body; None when the sender disconnects. Raises TooLarge."""
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body = message.get("body", b"")
        if len(body) > limit:
            raise TooLarge
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise TooLarge
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


async def _answer(send: Send, request_id: str, status: int, body: bytes, *, retry: bool = False) -> None:
    headers = [_JSON, (b"content-length", str(len(body)).encode()), (b"x-request-id", request_id.encode())]
    if retry:
        headers.append((b"retry-after", b"5"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse(
    send: Send,
    request_id: str,
    status: int,
    code: str,
    message: str,
    *,
    details: Any = None,
    retry: bool = False,
) -> None:
    body = {
        "error": message,
        "code": code,
        "details": details,
        "traceId": request_id,
        "requestId": request_id,
    }
    await _answer(send, request_id, status, msgspec.json.encode(body), retry=retry)
