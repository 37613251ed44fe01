"""Webhooks that no orchestrator took yet: sealed in the database, replayed in arrival order (PD-28).

Bodies here are unverified, so the inbox is bounded per org. A row goes only when an orchestrator
acknowledged it or it expired; after a crash it is sent again, and the orchestrator's own deduplication
makes that harmless.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, ClassVar

import msgspec
from sqlalchemy import Row

from kici.platform.link.connection import Connection, ConnectionGone, Connections
from kici.platform.relay import inbox_queries as queries
from kici.platform.relay.eventlog import EventLog, EventStatus, LoggedEvent
from kici.platform.relay.seal import Seal
from kici.protocol.frames import RELAY, pack_headed, unpack_headed
from kici.protocol.platform_v1 import WebhookAck, WebhookRelay
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import Metrics
from kici.spec.errors import KiciError

log = get_logger(__name__)

SWEEP_SECONDS = 5.0
EXPIRY_SECONDS = 60.0
_BATCH_ROWS = 256
_BATCH_BYTES = 8 << 20
_WINDOW_ROWS = 64

Key = tuple[str, str]  # org id, routing key


class InboxFull(KiciError):
    code: ClassVar[str] = "webhook_inbox_full"
    status: ClassVar[int] = 503


@dataclass(frozen=True, slots=True)
class _Arrival:
    org_id: str
    head: WebhookRelay
    body: bytes
    kept: asyncio.Future[None]

    def fail(self, error: Exception) -> None:
        if not self.kept.done():
            self.kept.set_exception(error)


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
        self.backlog: dict[Key, int] = {}
        self._bytes = 0
        self._awake = asyncio.Event()
        self._arrivals: deque[_Arrival] = deque()  # bounded by the ingress's in-flight bytes
        self._arrived = asyncio.Event()
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
            found = await queries.waiting(tx)
        self.backlog = {(row.org_id, row.routing_key): row.entries for row in found}
        for arrival in self._arrivals:
            self._count((arrival.org_id, arrival.head.routing_key), 1, 0)
        self._bytes = sum(int(row.bytes) for row in found)
        self._awake.set()

    def wake(self, _org_id: str = "") -> None:
        """Somebody may take what waits."""
        self._awake.set()

    async def run(self) -> None:
        """Keeps, replays and expires for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("inbox.keep", self._keep_loop), name="inbox.keep")
            tasks.create_task(supervised("inbox.replay", self._replay_loop), name="inbox.replay")
            tasks.create_task(supervised("inbox.expiry", self._expiry_loop), name="inbox.expiry")

    def _count(self, key: Key, entries: int, size: int) -> None:
        left = self.backlog.get(key, 0) + entries
        if left > 0:
            self.backlog[key] = left
        else:
            self.backlog.pop(key, None)
        self._bytes = max(0, self._bytes + size)

    # ── keeping ──────────────────────────────────────────────────────────────────────────────────

    async def keep(self, org_id: str, head: WebhookRelay, body: bytes) -> None:
        """On disk when this returns. Raises InboxFull, or what the database said."""
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        key = (org_id, head.routing_key)
        # Counted before the commit, so that nothing that comes later overtakes it …
        self._count(key, 1, len(body))
        self._arrivals.append(_Arrival(org_id, head, body, kept))
        self._arrived.set()
        try:
            await kept
        except BaseException:
            self._count(key, -1, -len(body))
            raise
        # … and after it, should a replay have looked meanwhile and found nothing.
        self.backlog.setdefault(key, 1)
        self._awake.set()

    async def _keep_loop(self) -> None:
        """Arrivals that wait together are committed together, one org at a time."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._arrivals:
                by_org: dict[str, list[_Arrival]] = {}
                size = 0
                for _ in range(min(len(self._arrivals), _BATCH_ROWS)):
                    if size >= _BATCH_BYTES:
                        break
                    arrival = self._arrivals.popleft()
                    by_org.setdefault(arrival.org_id, []).append(arrival)
                    size += len(arrival.body)
                for org_id, arrivals in by_org.items():
                    await self._keep_batch(org_id, arrivals)

    async def _keep_batch(self, org_id: str, arrivals: list[_Arrival]) -> None:
        fitting: list[_Arrival] = []
        try:
            async with self._engine.begin() as tx:
                used_entries, used_bytes = await queries.lock_usage(tx, org_id)
                entries, size = used_entries, used_bytes
                for arrival in arrivals:
                    if entries < self._max_entries and size + len(arrival.body) <= self._max_bytes:
                        fitting.append(arrival)
                        entries += 1
                        size += len(arrival.body)
                if fitting:
                    await queries.insert(tx, [self._row(arrival) for arrival in fitting])
                    await queries.use(tx, org_id, entries - used_entries, size - used_bytes)
        except Exception as error:
            for arrival in arrivals:
                arrival.fail(error)
            return
        for arrival in fitting:
            if not arrival.kept.done():
                arrival.kept.set_result(None)
        for arrival in arrivals:
            arrival.fail(InboxFull("too many webhooks are waiting for this org's orchestrator"))

    def _row(self, arrival: _Arrival) -> dict[str, object]:
        row_id = uuid7()
        head = arrival.head
        return {
            "id": row_id,
            "org_id": arrival.org_id,
            "routing_key": head.routing_key,
            "request_id": head.request_id,
            "sealed": self._seal.close(row_id, pack_headed(RELAY, msgspec.json.encode(head), arrival.body)),
            "size": len(arrival.body),
            "received_at": to_datetime(head.received_at_ms),
            "expires_at": to_datetime(self._clock.now_ms()) + self._ttl,
        }

    # ── replay ───────────────────────────────────────────────────────────────────────────────────

    async def _replay_loop(self) -> None:
        draining: set[Key] = set()
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

    def _ready(self, draining: set[Key]) -> Iterable[Key]:
        return [
            key
            for key in self.backlog
            if key not in draining and any(c.healthy for c in self._connections.for_source(*key))
        ]

    async def _drain(self, key: Key, done: Callable[[Key], None]) -> None:
        """One routing key, until it is empty or nobody answers."""
        try:
            while key in self.backlog and await self._window(key):
                pass
        except Exception as error:  # the next sweep tries again
            log.warning("inbox.replay_failed", routing_key=key[1], exc_info=error)
        finally:
            done(key)

    async def _window(self, key: Key) -> bool:
        """The oldest rows of `key`, sent in order over one socket without waiting for each answer: a
        backlog must shrink faster than it grows. True when all of them are settled."""
        org_id, routing_key = key
        async with self._engine.connect() as tx:
            rows = await queries.oldest(tx, org_id, routing_key, _WINDOW_ROWS)
        if not rows:
            self.backlog.pop(key, None)
            return False
        connection = next(iter(self._connections.for_source(org_id, routing_key)), None)
        if connection is None or not connection.healthy:
            return False
        async with asyncio.TaskGroup() as tasks:
            answers = [tasks.create_task(self._send(connection, row), name="inbox.send") for row in rows]
        settled = [row for row, answer in zip(rows, answers, strict=True) if answer.result()]
        if settled:
            async with self._engine.begin() as tx:
                await queries.remove(tx, [row.id for row in settled])
        for row in settled:
            self._count(key, -1, -row.size_bytes)
        return len(settled) == len(rows)

    async def _send(self, connection: Connection, row: Row[Any]) -> bool:
        """True when the row may go: an orchestrator answered, or it can never be read again."""
        try:
            head_bytes, body = unpack_headed(self._seal.open(row.id, row.sealed))
            head = msgspec.json.decode(head_bytes, type=WebhookRelay)
        except Exception as error:  # another key, or a damaged row
            log.error("inbox.unreadable", row_id=row.id, exc_info=error)
            return True
        with bind(request_id=head.request_id, routing_key=head.routing_key):
            try:
                ack = await connection.relay(head, body, self._ack_timeout_seconds)
            except (ConnectionGone, TimeoutError):
                log.info("webhook.replay_unanswered")
                return False
            self._replayed.labels(ack.result).inc()
            log.info("webhook.replayed", result=ack.result, duplicate=ack.duplicate)
        self._note(connection.org_id, head, row.received_at, len(body), ack)
        return True

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
                oldest = await queries.oldest_received_at(tx)
            now = to_datetime(self._clock.now_ms())
            self._oldest.set((now - oldest).total_seconds() if oldest else 0)
            await asyncio.sleep(EXPIRY_SECONDS)

    async def expire(self) -> int:
        """Drops what is too old, and says so in the event log."""
        total = 0
        while True:
            now = to_datetime(self._clock.now_ms())
            async with self._engine.begin() as tx:
                rows = await queries.expire(tx, now)
            for row in rows:
                self._count((row.org_id, row.routing_key), -1, -row.size_bytes)
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
            if len(rows) < queries.EXPIRE_ROWS:
                return total
