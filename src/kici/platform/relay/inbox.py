"""Webhooks that no orchestrator took yet: sealed in the database, replayed in arrival order (PD-28).

Bodies here are unverified, so the inbox is bounded per org. A row goes only when an orchestrator
acknowledged it or it expired; after a crash it is sent again, and the orchestrator's own deduplication
makes that harmless.
"""

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from typing import ClassVar

import msgspec

from kici.platform.link.connection import ConnectionGone, Connections
from kici.platform.relay.eventlog import EventLog, EventStatus, LoggedEvent
from kici.protocol.frames import RELAY, pack_headed, unpack_headed
from kici.protocol.platform_v1 import WebhookAck, WebhookRelay
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import Metrics
from kici.spec.errors import KiciError

log = get_logger(__name__)

SWEEP_SECONDS = 5.0
EXPIRY_SECONDS = 60.0
_NONCE_BYTES = 12


class InboxFull(KiciError):
    code: ClassVar[str] = "webhook_inbox_full"
    status: ClassVar[int] = 503


class Seal:
    """AES-256-GCM under KICI_SECRET_KEY; the row's id is authenticated with it."""

    def __init__(self, key_hex: str) -> None:
        self._key = bytes.fromhex(key_hex)

    def close(self, row_id: str, data: bytes) -> bytes:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE_BYTES)
        return nonce + AESGCM(self._key).encrypt(nonce, data, row_id.encode())

    def open(self, row_id: str, sealed: bytes) -> bytes:
        """Raises cryptography.exceptions.InvalidTag when the key changed or the row was tampered with."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        return AESGCM(self._key).decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], row_id.encode())


_TAKE_ROOM = text("""
    INSERT INTO webhook_inbox_usage AS u (org_id, entries, bytes) VALUES (:org_id, 1, :size)
    ON CONFLICT (org_id) DO UPDATE SET entries = u.entries + 1, bytes = u.bytes + excluded.bytes
    WHERE u.entries < :max_entries AND u.bytes + excluded.bytes <= :max_bytes
    RETURNING entries
""")
_INSERT = text("""
    INSERT INTO webhook_inbox (id, org_id, routing_key, request_id, sealed, size_bytes, received_at, expires_at)
    VALUES (:id, :org_id, :routing_key, :request_id, :sealed, :size, :received_at, :expires_at)
""")
_NEXT = text("""
    SELECT id, sealed, size_bytes, received_at FROM webhook_inbox
    WHERE org_id = :org_id AND routing_key = :routing_key ORDER BY id LIMIT 1
""")
_REMOVE = text("""
    WITH gone AS (DELETE FROM webhook_inbox WHERE id = :id RETURNING org_id, size_bytes)
    UPDATE webhook_inbox_usage u SET entries = u.entries - 1, bytes = u.bytes - gone.size_bytes
    FROM gone WHERE u.org_id = gone.org_id
""")
_EXPIRE = text("""
    WITH gone AS (
        DELETE FROM webhook_inbox WHERE id IN (
            SELECT id FROM webhook_inbox WHERE expires_at <= :now ORDER BY expires_at LIMIT 500 FOR UPDATE SKIP LOCKED)
        RETURNING org_id, routing_key, request_id, size_bytes, received_at),
    freed AS (
        UPDATE webhook_inbox_usage u SET entries = u.entries - g.entries, bytes = u.bytes - g.bytes
        FROM (SELECT org_id, count(*) AS entries, sum(size_bytes) AS bytes FROM gone GROUP BY org_id) g
        WHERE u.org_id = g.org_id)
    SELECT org_id, routing_key, request_id, size_bytes, received_at FROM gone
""")


class WebhookInbox:
    """`backlog` counts the rows per (org, routing key): while it is not zero, new arrivals queue behind."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        clock: Clock,
        connections: Connections,
        event_log: EventLog,
        seal: Seal,
        ttl_seconds: int,
        max_entries: int,
        max_bytes: int,
        ack_timeout_seconds: float,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._connections = connections
        self._event_log = event_log
        self._seal = seal
        self._ttl = timedelta(seconds=ttl_seconds)
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ack_timeout_seconds = ack_timeout_seconds
        self.backlog: dict[tuple[str, str], int] = {}
        self._awake = asyncio.Event()
        self._bytes = 0
        metrics.gauge("webhook_buffer_depth", "Webhooks waiting for an orchestrator").set_function(
            lambda: sum(self.backlog.values())
        )
        metrics.gauge("webhook_buffer_bytes", "Bytes of webhooks waiting").set_function(lambda: self._bytes)
        self._oldest = metrics.gauge(
            "webhook_buffer_oldest_age_seconds", "Age of the oldest webhook waiting"
        )
        self._replayed = metrics.counter("webhook_replayed_total", "Webhooks replayed", ["result"])

    async def load(self) -> None:
        """What waits in the database: at start, and now and then to correct the counts."""
        async with self._engine.connect() as tx:
            rows = await tx.execute(
                text("""
                    SELECT org_id, routing_key, count(*) AS entries, sum(size_bytes) AS bytes
                    FROM webhook_inbox GROUP BY org_id, routing_key
                """)
            )
            found = rows.all()
        self.backlog = {(row.org_id, row.routing_key): row.entries for row in found}
        self._bytes = sum(int(row.bytes) for row in found)
        self._awake.set()

    def wake(self, _org_id: str = "") -> None:
        """Somebody may take what waits."""
        self._awake.set()

    async def keep(self, org_id: str, head: WebhookRelay, body: bytes) -> None:
        """On disk when this returns. Raises InboxFull."""
        row_id = uuid7()
        received_at = to_datetime(head.received_at_ms)
        sealed = self._seal.close(row_id, pack_headed(RELAY, msgspec.json.encode(head), body))
        async with self._engine.begin() as tx:
            room = {
                "org_id": org_id,
                "size": len(body),
                "max_entries": self._max_entries,
                "max_bytes": self._max_bytes,
            }
            if (await tx.execute(_TAKE_ROOM, room)).first() is None:
                raise InboxFull("too many webhooks are waiting for this org's orchestrator")
            await tx.execute(
                _INSERT,
                {
                    "id": row_id,
                    "org_id": org_id,
                    "routing_key": head.routing_key,
                    "request_id": head.request_id,
                    "sealed": sealed,
                    "size": len(body),
                    "received_at": received_at,
                    "expires_at": to_datetime(self._clock.now_ms()) + self._ttl,
                },
            )
            # Counted before the commit, so that nothing overtakes this row …
            key = (org_id, head.routing_key)
            self.backlog[key] = self.backlog.get(key, 0) + 1
            self._bytes += len(body)
        # … and after it, should a replay have looked meanwhile and found nothing.
        self.backlog.setdefault(key, 1)
        self._awake.set()

    # ── replay ───────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Replays and expires for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("inbox.replay", self._replay_loop), name="inbox.replay")
            tasks.create_task(supervised("inbox.expiry", self._expiry_loop), name="inbox.expiry")

    async def _replay_loop(self) -> None:
        draining: set[tuple[str, str]] = set()
        async with asyncio.TaskGroup() as tasks:
            while True:
                try:
                    async with asyncio.timeout(SWEEP_SECONDS):
                        await self._awake.wait()
                except TimeoutError:
                    pass
                self._awake.clear()
                for key in self._ready(draining):
                    draining.add(key)
                    tasks.create_task(self._drain(key, draining.discard), name="inbox.drain")

    def _ready(self, draining: set[tuple[str, str]]) -> Iterable[tuple[str, str]]:
        return [
            key
            for key in self.backlog
            if key not in draining and any(c.healthy for c in self._connections.for_source(*key))
        ]

    async def _drain(self, key: tuple[str, str], done: Callable[[tuple[str, str]], None]) -> None:
        """One routing key, one webhook at a time: order is part of the promise."""
        try:
            while key in self.backlog and await self._one(key):
                pass
        except Exception as error:  # the next sweep tries again
            log.warning("inbox.replay_failed", routing_key=key[1], exc_info=error)
        finally:
            done(key)

    async def _one(self, key: tuple[str, str]) -> bool:
        """True when the first row of `key` is settled."""
        org_id, routing_key = key
        async with self._engine.connect() as tx:
            row = (await tx.execute(_NEXT, {"org_id": org_id, "routing_key": routing_key})).one_or_none()
        if row is None:
            self.backlog.pop(key, None)
            return False
        try:
            head_bytes, body = unpack_headed(self._seal.open(row.id, row.sealed))
            head = msgspec.json.decode(head_bytes, type=WebhookRelay)
        except Exception as error:  # another key, or a damaged row: it can never be replayed
            log.error("inbox.unreadable", routing_key=routing_key, exc_info=error)
            await self._remove(key, row.id, row.size_bytes)
            return True
        connection = next(iter(self._connections.for_source(org_id, routing_key)), None)
        if connection is None or not connection.healthy:
            return False
        with bind(request_id=head.request_id, routing_key=routing_key):
            try:
                ack = await connection.relay(head, bytes(body), self._ack_timeout_seconds)
            except (ConnectionGone, TimeoutError):
                log.info("webhook.replay_unanswered")
                return False
            await self._remove(key, row.id, row.size_bytes)
            self._replayed.labels(ack.result).inc()
            log.info("webhook.replayed", result=ack.result, duplicate=ack.duplicate)
        self._note(org_id, head, row.received_at, len(body), ack)
        return True

    async def _remove(self, key: tuple[str, str], row_id: str, size_bytes: int) -> None:
        async with self._engine.begin() as tx:
            await tx.execute(_REMOVE, {"id": row_id})
        self._forget(key, size_bytes)

    def _forget(self, key: tuple[str, str], size_bytes: int) -> None:
        left = self.backlog.get(key, 0) - 1
        if left > 0:
            self.backlog[key] = left
        else:
            self.backlog.pop(key, None)
        self._bytes = max(0, self._bytes - size_bytes)

    def _note(
        self, org_id: str, head: WebhookRelay, received_at: datetime, size: int, ack: WebhookAck
    ) -> None:
        status: EventStatus = "replayed" if ack.result == "accepted" else "rejected"
        self._event_log.note(
            LoggedEvent(
                org_id=org_id,
                request_id=head.request_id,
                routing_key=head.routing_key,
                source_name="",
                event=None,
                delivery_id=ack.delivery_id,
                status=status,
                http_status=202,
                reason=ack.reason if status == "rejected" else None,
                size_bytes=size,
                client_ip=head.client_ip,
                received_at=received_at,
                settled_at=to_datetime(self._clock.now_ms()),
            )
        )

    # ── expiry ───────────────────────────────────────────────────────────────────────────────────

    async def _expiry_loop(self) -> None:
        while True:
            await self.expire()
            await self.load()
            async with self._engine.connect() as tx:
                oldest = await tx.scalar(text("SELECT min(received_at) FROM webhook_inbox"))
            now = to_datetime(self._clock.now_ms())
            self._oldest.set((now - oldest).total_seconds() if oldest else 0)
            await asyncio.sleep(EXPIRY_SECONDS)

    async def expire(self) -> int:
        """Drops what is too old, and says so in the event log."""
        total = 0
        while True:
            now = to_datetime(self._clock.now_ms())
            async with self._engine.begin() as tx:
                rows = (await tx.execute(_EXPIRE, {"now": now})).all()
            for row in rows:
                self._forget((row.org_id, row.routing_key), row.size_bytes)
                log.warning("webhook.expired", request_id=row.request_id, routing_key=row.routing_key)
                self._event_log.note(
                    LoggedEvent(
                        org_id=row.org_id,
                        request_id=row.request_id,
                        routing_key=row.routing_key,
                        source_name="",
                        event=None,
                        delivery_id=None,
                        status="expired",
                        http_status=202,
                        reason="no orchestrator took it in time",
                        size_bytes=row.size_bytes,
                        client_ip=None,
                        received_at=row.received_at,
                        settled_at=now,
                    )
                )
            total += len(rows)
            if len(rows) < 500:
                return total
