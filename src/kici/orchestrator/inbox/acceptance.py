"""From bytes to "it is on disk": size, source, rate, verification, inbox (OR-30…34).

The same function stands behind HTTP and the relay. What it refuses leaves no trace but a counter and a
log line; what it accepts is never lost.
"""

from typing import Any, cast

import msgspec
from prometheus_client import Counter

from kici.engine import jsonpath
from kici.orchestrator.db.rows import without_nul
from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.inbox.writer import InboxRow, InboxWriter
from kici.orchestrator.sources import verification
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.service import MAX_PAYLOAD_CEILING
from kici.orchestrator.sources.source import STRIPPED_HEADERS, Source
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.runtime.metrics import CappedLabel, Metrics
from kici.spec.errors import InvalidInput
from kici.spec.nesting import MAX_NESTING, too_deep

log = get_logger(__name__)

# Senders that say which delivery this is, when the source names no header of its own.
IDEMPOTENCY_HEADERS = ("x-idempotency-key", "idempotency-key", "x-delivery-id")
LOCAL_EVENTS = frozenset({"push", "pull_request"})
MAX_ID = 255

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def parse_body(body: bytes) -> Any:
    """The JSON document. Raises InvalidInput."""
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the body is not JSON: {error}") from error
    except RecursionError:
        raise _nested() from None
    if too_deep(document):
        raise _nested()
    return document


def _nested() -> InvalidInput:
    return InvalidInput(f"the body is nested deeper than {MAX_NESTING} levels")


class Acceptor:
    """`accept` for every delivery; `find` lets HTTP refuse early, before it has read a body."""

    def __init__(self, index: SourceIndex, writer: InboxWriter, metrics: Metrics) -> None:
        self._index = index
        self._writer = writer
        self._received: Counter = metrics.counter(
            "webhooks_received_total", "Deliveries that reached us", ("source", "event")
        )
        self._duplicates: Counter = metrics.counter("dedup_hits_total", "Deliveries we had already")
        self._refused: Counter = metrics.counter(
            "webhooks_refused_total", "Deliveries that were not accepted", ("result",)
        )
        self._event_label = CappedLabel(50)

    def find(self, delivery: Delivery) -> Source | None:
        if delivery.routing_key:
            return self._index.by_routing_key(delivery.routing_key)
        return self._index.by_name(delivery.org_id, delivery.source_name)

    async def accept(self, delivery: Delivery, *, is_admin: bool = False) -> Acceptance:
        """`is_admin`: the sender showed an admin token, which a local source takes from anywhere.

        Raises InboxUnavailable: nothing is stored, the sender keeps the delivery.
        """
        source = self.find(delivery)
        refused = self._refusal(source, delivery, is_admin=is_admin)
        if source is None or refused is not None:
            assert refused is not None
            self._refused.labels(refused.result).inc()
            log.warning(
                "webhook.refused",
                request_id=delivery.request_id,
                routing_key=delivery.routing_key or None,
                source=delivery.source_name or None,
                result=refused.result,
                status=refused.status,
                reason=refused.reason,
            )
            return refused
        try:
            row = _row(source, delivery)
        except InvalidInput as error:
            self._refused.labels("rejected_request").inc()
            return Acceptance(
                result="rejected_request", status=400, reason=str(error), code="invalid_payload"
            )
        stored = await self._writer.store(row)
        self._received.labels(
            "relay" if delivery.via == "relay" else "generic" if source.kind == "generic" else "direct",
            self._event_label(row.action or row.event),
        ).inc()
        if stored.duplicate:
            self._duplicates.inc()
        return Acceptance(
            result="accepted",
            status=200 if stored.duplicate or is_filtered(source, row.event, row.action) else 202,
            delivery_id=row.delivery_id,
            duplicate=stored.duplicate,
            filtered=is_filtered(source, row.event, row.action),
        )

    def _refusal(self, source: Source | None, delivery: Delivery, *, is_admin: bool) -> Acceptance | None:
        if source is None:
            return Acceptance(
                result="rejected_unknown_source",
                status=404,
                reason="there is no such source, or it is disabled",
                code="unknown_source",
            )
        limit = min(source.max_payload_bytes, MAX_PAYLOAD_CEILING)
        if len(delivery.body) > limit:
            return too_large(limit)
        wait_s = self._index.take(source)
        if wait_s:
            return Acceptance(
                result="rejected_request",
                status=429,
                reason=f"more than {source.rate_limit_rpm} deliveries a minute",
                code="rate_limited",
                retry_after_s=wait_s,
            )
        if source.verification is None:
            return Acceptance(
                result="rejected_misconfigured",
                status=500,
                reason="this source is not set up completely; its operator's log has the rest",
                code="source_misconfigured",
            )
        reason = (
            _local_refusal(delivery, is_admin=is_admin)
            if source.kind == "local"
            else verification.refusal(
                source.verification,
                headers=delivery.headers,
                body=delivery.body,
                client_ip=delivery.client_ip,
            )
        )
        if reason is None:
            return None
        return Acceptance(result="rejected_signature", status=401, reason=reason, code="not_verified")


def _local_refusal(delivery: Delivery, *, is_admin: bool) -> str | None:
    """OR-18. Behind a proxy everybody looks local, so a forwarded request does not count as that."""
    if is_admin:
        return None
    forwarded = "x-forwarded-for" in delivery.headers or "forwarded" in delivery.headers
    if delivery.via == "direct" and not forwarded and verification.is_loopback(delivery.client_ip):
        return None
    return "a local source takes deliveries from this machine only, or with an admin token"


def too_large(limit: int) -> Acceptance:
    return Acceptance(
        result="rejected_request",
        status=413,
        reason=f"the body is larger than {limit} bytes",
        code="payload_too_large",
        max_bytes=limit,
    )


def is_filtered(source: Source, event: str, action: str | None) -> bool:
    """Stored and answered, but looked at no further: not among the source's `allowedEvents` (OR-32)."""
    allowed = source.config.allowed_events
    return bool(allowed) and (event if source.kind == "local" else action) not in allowed


def _row(source: Source, delivery: Delivery) -> InboxRow:
    """Raises InvalidInput for what this kind of source cannot take."""
    config = source.config
    document: Any = None
    if source.kind == "local" or config.event_type_path or config.idempotency_key_path:
        document = parse_body(delivery.body)
    named = _text(delivery.headers.get(config.event_type_header.lower())) or _at(
        document, config.event_type_path
    )
    if source.kind == "local":
        if named not in LOCAL_EVENTS:
            raise InvalidInput("a local source takes X-Event-Type: push or pull_request")
        if not isinstance(document, dict):
            raise InvalidInput("the body is not a JSON object")
        event = named
        action = _text(cast("dict[str, Any]", document).get("action"))
    else:
        event, action = "generic_webhook", named
    return InboxRow(
        id=uuid7(),
        org_id=source.org_id,
        source_id=source.id,
        routing_key=source.routing_key,
        delivery_id=_delivery_id(source, delivery, document),
        event=event,
        action=action,
        headers=_kept_headers(source, delivery.headers),
        body=delivery.body,
        request_id=delivery.request_id,
        via=delivery.via,
        dedup_window_s=source.dedup_window_s,
    )


def _delivery_id(source: Source, delivery: Delivery, document: Any) -> str:
    """The sender's own id of the delivery; without one the request is its own."""
    own = source.config.idempotency_key_header.lower()
    for header in (own,) if own else IDEMPOTENCY_HEADERS:
        found = _text(delivery.headers.get(header))
        if found:
            return found
    return _at(document, source.config.idempotency_key_path) or delivery.request_id


def _at(document: Any, path: str) -> str | None:
    if not path:
        return None
    values = jsonpath.find(path, document)
    return _text(values[0]) if values else None


def _text(value: Any) -> str | None:
    """A short text without control characters, or None."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return None
    cleaned = "".join(character for character in value.strip() if character.isprintable())
    return cleaned[:MAX_ID] or None


def _kept_headers(source: Source, headers: dict[str, str]) -> str:
    """JSON text without what would let its reader in."""
    dropped = {*STRIPPED_HEADERS, *(name.lower() for name in source.config.strip_headers)}
    if isinstance(source.verification, verification.BearerVerification | verification.ApiKeyVerification):
        dropped.add(source.verification.header_name.lower())
    kept = {name: value for name, value in headers.items() if name not in dropped}
    return without_nul(_encode(kept)).decode()
