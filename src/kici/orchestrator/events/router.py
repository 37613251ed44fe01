"""Internal events become runs: lease, decide, write, in batches (OR-94…102).

The table is the truth; NOTIFY says when to look. What an event starts, the record of it and the mark that
the event is done are one transaction. One workflow that cannot be started keeps the others neither from
starting nor starts them twice.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta

from msgspec import Struct, structs

from kici.orchestrator.events import queries
from kici.orchestrator.events.decide import EventDecider, Outcome, Start
from kici.orchestrator.events.listening import CHANNEL
from kici.orchestrator.events.policy import EventMetrics, EventPolicy
from kici.orchestrator.events.queries import DeadLease, Dispatched, Fence, Finished
from kici.orchestrator.events.stored import StoredEvent
from kici.orchestrator.events.trust import trusted_by
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.runs.start import StartPolicy, start_runs
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput, KiciError

log = get_logger(__name__)

BATCH = 64
SWEEP_S = 30.0  # OR-102
REST_S = 0.03
STOP_TIMEOUT_S = 5
MAX_ERROR = 4096  # OR-95
_CLEAN_ROWS = 1000


class _Work(Struct, frozen=True, kw_only=True):
    stored: StoredEvent
    outcome: Outcome

    @property
    def fence(self) -> Fence:
        return Fence(id=self.stored.id, attempts=self.stored.attempts)


class EventRouter:
    """`claimed_by` is `<instance>/<this life>`: a restarted process knows the claims of its past."""

    def __init__(
        self,
        engine: AsyncEngine,
        registry: RegistryIndex,
        decider: EventDecider,
        wakeups: Wakeups,
        metrics: EventMetrics,
        clock: Clock,
        *,
        instance_id: str,
        claimed_by: str,
        start_policy: StartPolicy,
        retry_policy: RetryPolicy,
        policy: EventPolicy,
    ) -> None:
        self._engine = engine
        self._registry = registry
        self._decider = decider
        self._wakeups = wakeups
        self._metrics = metrics
        self._clock = clock
        self._instance_id = instance_id
        self._claimed_by = claimed_by
        self._start_policy = start_policy
        self._retry_policy = retry_policy
        self._policy = policy
        self._stopping = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self) -> None:
        """Works for ever; `stop` first, then cancel."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("events.router", self._route), name="events.router")
            tasks.create_task(supervised("events.scan", self._scan), name="events.scan")
            tasks.create_task(supervised("events.clean", self._clean), name="events.clean")

    async def recover(self) -> None:
        """At start: what an earlier life of this instance held is free again, at once."""
        async with self._engine.begin() as tx:
            freed = await queries.release_earlier(
                tx, instance_id=self._instance_id, claimed_by=self._claimed_by
            )
        if freed:
            log.info("events.recovered", events=freed)

    async def stop(self) -> None:
        """Take nothing new, let what is being written end, give back the rest (OR-261)."""
        self._stopping = True
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("events.stopped_busy")
        async with self._engine.begin() as tx:
            await queries.release(tx, claimed_by=self._claimed_by)
        self._wakeups.wake(CHANNEL)

    async def _route(self) -> None:
        # Begun anew after a failure: what we still hold is in nobody's hands.
        async with self._engine.begin() as tx:
            await queries.release(tx, claimed_by=self._claimed_by)
        while True:
            while await self.route_page():
                pass
            # Under load most hints are about completions that nobody waits for.
            await asyncio.sleep(REST_S)
            await self._wakeups.wait(CHANNEL, sweep_seconds=SWEEP_S)

    async def _scan(self) -> None:
        while True:
            await self.scan()
            await asyncio.sleep(self._policy.retry_scan_interval_ms / 1000)

    async def _clean(self) -> None:
        while True:
            older_than = to_datetime(self._clock.now_ms()) - timedelta(seconds=self._policy.ttl_s)
            removed = _CLEAN_ROWS
            while removed == _CLEAN_ROWS:
                async with self._engine.begin() as tx:
                    removed = await queries.clean(tx, older_than=older_than, limit=_CLEAN_ROWS)
            await asyncio.sleep(self._policy.cleanup_interval_ms / 1000)

    async def scan(self) -> None:
        """Every instance does this, and only one sees each expired lease (OR-96)."""
        async with self._engine.begin() as tx:
            lost = await queries.release_expired(tx, lease_ms=self._retry_policy.lease_ms)
        self._lost(lost)
        async with self._engine.connect() as connection:
            due, dead = await queries.state(connection)
        self._metrics.dlq_depth.set(dead)
        if due or lost:
            self._wakeups.wake(CHANNEL)

    def _lost(self, leases: Sequence[DeadLease]) -> None:
        for lease in leases:
            self._metrics.lease_expirations.inc()
            log.warning(
                "event.lease_expired",
                event_id=lease.id,
                event_name=lease.event_name,
                claimed_by=lease.holder,
            )

    # ── one page ─────────────────────────────────────────────────────────────────────────────────

    async def route_page(self) -> bool:
        """False when nothing is due."""
        if self._stopping:
            return False
        self._idle.clear()
        try:
            async with self._engine.begin() as tx:
                leased, lost = await queries.lease(
                    tx, claimed_by=self._claimed_by, lease_ms=self._retry_policy.lease_ms, limit=BATCH
                )
                sources = {(event.org_id, event.source_repo) for event, _ in leased if event.source_repo}
                trust = await trusted_by(tx, [(org, repo) for org, repo in sources if repo])
            self._lost(lost)
            if not leased:
                return False
            async with self._renewing([event.id for event, _ in leased]):
                # A workflow that was registered a moment ago is waited for as much as any other.
                await self._registry.load()
                work: list[_Work] = []
                for event, delivered in leased:
                    try:
                        work.append(
                            _Work(stored=event, outcome=self._decider.decide(event, trust, delivered))
                        )
                    except Exception as error:
                        await self._failed(event, error)
                await self._dispatch(work)
            return True
        finally:
            self._idle.set()

    @asynccontextmanager
    async def _renewing(self, ids: Sequence[str]) -> AsyncGenerator[None]:
        """Long work keeps its leases (OR-94)."""

        async def renew() -> None:
            while True:
                await asyncio.sleep(self._retry_policy.lease_ms / 3000)
                async with self._engine.begin() as tx:
                    await queries.renew(tx, ids, claimed_by=self._claimed_by)

        async with asyncio.TaskGroup() as tasks:
            renewal = tasks.create_task(supervised("events.renew", renew), name="events.renew")
            try:
                yield
            finally:
                renewal.cancel()

    async def _dispatch(self, work: Sequence[_Work]) -> None:
        if not work:
            return
        try:
            await self._write(work)
        except Exception as error:
            if len(work) == 1:
                await self._one_by_one(work[0])
                return
            log.warning("events.batch_split", events=len(work), reason=repr(error))
            for item in work:
                await self._dispatch([item])

    async def _write(self, work: Sequence[_Work]) -> None:
        async with self._engine.begin() as tx:
            ours = await queries.lock_ours(tx, [item.fence for item in work], claimed_by=self._claimed_by)
            kept = [item for item in work if item.stored.id in ours]
            await self._start(tx, kept)
            await queries.finish(tx, [_finished(item) for item in kept], claimed_by=self._claimed_by)
        for item in kept:
            self._tell(item)

    async def _start(self, tx: queries.AsyncConnection, work: Sequence[_Work]) -> None:
        """Writes the runs, and their ids into the decisions."""
        starts = [(item, start) for item in work for start in item.outcome.starts]
        started = await start_runs(tx, [start.request for _, start in starts], self._start_policy)
        deliveries: list[Dispatched] = []
        for (item, start), run in zip(starts, started, strict=True):
            decisions = item.outcome.decisions
            decisions[start.index] = structs.replace(decisions[start.index], run_id=run.run_id)
            deliveries.append(
                Dispatched(
                    event_id=item.stored.id, registration_id=start.registration_id, run_id=run.run_id
                )
            )
        await queries.record_deliveries(tx, deliveries)

    def _tell(self, item: _Work) -> None:
        if item.outcome.starts:
            self._wakeups.wake("queue")
            self._wakeups.wake("outbox")
            self._wakeups.wake("concurrency")
        name = self._metrics.name(item.stored.event_name)
        if item.outcome.dropped is not None:
            self._metrics.dropped.labels(item.outcome.dropped).inc()
        else:
            self._metrics.successes.labels(name).inc()
            self._metrics.attempts.labels(name, "success").observe(item.stored.attempts)
        log.info(
            "event.dropped" if item.outcome.dropped else "event.dispatched",
            event_id=item.stored.id,
            event_name=item.stored.event_name,
            workflows=len(item.outcome.decisions),
            runs=len(item.outcome.starts),
            reason=item.outcome.dropped,
        )

    # ── failures ─────────────────────────────────────────────────────────────────────────────────

    async def _one_by_one(self, item: _Work) -> None:
        """Every workflow in a transaction of its own: those that can start do, and are left alone from then
        on; for the others the event is tried again (OR-97)."""
        failure: Exception | None = None
        for start in item.outcome.starts:
            try:
                await self._write_part(item, [start])
            except Exception as error:
                failure = error
        if failure is None:
            try:
                await self._write([structs.replace(item, outcome=structs.replace(item.outcome, starts=[]))])
                return
            except Exception as error:
                failure = error
        await self._failed(item.stored, failure)

    async def _write_part(self, item: _Work, starts: list[Start]) -> None:
        part = structs.replace(item, outcome=structs.replace(item.outcome, starts=starts))
        async with self._engine.begin() as tx:
            if await queries.lock_ours(tx, [item.fence], claimed_by=self._claimed_by):
                await self._start(tx, [part])
        self._wakeups.wake("queue")
        self._wakeups.wake("outbox")

    async def _failed(self, stored: StoredEvent, error: Exception) -> None:
        """Put back with full jitter, or to the dead letters: after the last attempt, or at once where trying
        again cannot help (OR-95)."""
        told = str(error) if isinstance(error, KiciError) else f"{type(error).__name__}: {error}"
        told = told[:MAX_ERROR].replace("\x00", "\ufffd")
        fence = Fence(id=stored.id, attempts=stored.attempts)
        permanent = isinstance(error, InvalidInput)
        name = self._metrics.name(stored.event_name)
        if not permanent and stored.attempts < self._retry_policy.max_attempts:
            delay_ms = self._retry_policy.delay_ms(stored.attempts)
            log.warning(
                "event.attempt_failed",
                event_id=stored.id,
                event_name=stored.event_name,
                attempts=stored.attempts,
                retry_in_ms=delay_ms,
                exc_info=error,
            )
            async with self._engine.begin() as tx:
                await queries.retry_later(
                    tx, fence, claimed_by=self._claimed_by, error=told, delay_ms=delay_ms
                )
            self._metrics.retries.labels(name).inc()
            return
        reason = "non_retryable" if permanent else "exhausted_retries"
        async with self._engine.begin() as tx:
            buried = await queries.bury(tx, fence, claimed_by=self._claimed_by, error=told, reason=reason)
        if not buried:
            return
        self._metrics.dlq.labels(name, reason).inc()
        self._metrics.attempts.labels(name, "dlq").observe(stored.attempts)
        self._metrics.dlq_depth.inc()
        # Operators and alerts look for these words (seed 002, OR-98).
        log.error(
            "Event moved to DLQ",
            event_id=stored.id,
            event_name=stored.event_name,
            attempts=stored.attempts,
            dlq_reason=reason,
            error=told,
        )


def _finished(item: _Work) -> Finished:
    return Finished(
        id=item.stored.id,
        attempts=item.stored.attempts,
        decisions=item.outcome.decisions,
        note=item.outcome.note,
    )
