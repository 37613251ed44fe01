"""Deliveries become runs: lease, decide, write, in batches (OR-35, OR-94…96).

Rows reach a worker in two ways: handed over by the writer of this process, claimed at birth, or leased
from the table (left over, given back, or too many to be held in memory). A row's outcome, its runs and
the mark that it is done are one transaction; a crash in between repeats the decision and starts nothing
twice.
"""

import asyncio
import random
from collections import deque
from collections.abc import Sequence

from msgspec import Struct, structs
from sqlalchemy import text

from kici.orchestrator.events.listening import CHANNEL as EVENTS
from kici.orchestrator.inbox import queries
from kici.orchestrator.inbox.decide import Decider, Leased, Outcome
from kici.orchestrator.inbox.queries import LogRow
from kici.orchestrator.inbox.writer import StoredRow
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.registry.service import DefaultBranchPush, replace_registrations
from kici.orchestrator.runs.start import StartedRun, StartPolicy, start_runs
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics
from kici.spec.errors import KiciError

log = get_logger(__name__)

BATCH = 64
WORKERS = 2
READY_ROWS = 512
READY_BYTES = 32 << 20
SWEEP_S = 5.0
DECIDE_TIMEOUT_S = 30
CLEAN_EVERY_S = 3600.0
STOP_TIMEOUT_S = 5
MAX_ERROR = 4096  # OR-95


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Defaults of OR-95."""

    max_attempts: int = 5
    lease_ms: int = 60_000
    base_backoff_ms: int = 5_000
    max_backoff_ms: int = 300_000

    def delay_ms(self, attempts: int) -> int:
        """Full jitter after the attempt numbered `attempts`, from 1."""
        return random.randint(0, min(self.max_backoff_ms, self.base_backoff_ms << min(attempts - 1, 30)))


class InboxWorker:
    """`claimed_by` is `<instance>/<this life>`: a restarted process knows the claims of its past."""

    def __init__(
        self,
        engine: AsyncEngine,
        decider: Decider,
        registry: RegistryIndex,
        wakeups: Wakeups,
        metrics: Metrics,
        clock: Clock,
        *,
        instance_id: str,
        claimed_by: str,
        start_policy: StartPolicy,
        retry_policy: RetryPolicy,
    ) -> None:
        self._engine = engine
        self._decider = decider
        self._registry = registry
        self._wakeups = wakeups
        self._clock = clock
        self._instance_id = instance_id
        self._claimed_by = claimed_by
        self._start_policy = start_policy
        self._retry_policy = retry_policy
        self._ready: deque[Leased] = deque()
        self._ready_bytes = 0
        self._reserved = 0
        self._leasable = True  # the table may hold rows that nobody has; new rows must queue behind them
        self._some = asyncio.Event()
        self._stopping = False
        self._busy = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._processed = metrics.counter(
            "webhooks_processed_total", "Deliveries that were decided", ("result",)
        )
        self._retries = metrics.counter("inbox_retries_total", "Deliveries put back for another try")
        self._buried = metrics.counter("inbox_dlq_total", "Deliveries moved to the dead letters")
        self._expired = metrics.counter("inbox_lease_expirations_total", "Leases whose holder was lost")
        self._depth = metrics.gauge("inbox_depth", "Deliveries not yet decided")
        self._lag = metrics.gauge("inbox_lag_seconds", "Age of the oldest delivery not yet decided")

    # ── from the writer ──────────────────────────────────────────────────────────────────────────

    def reserve(self, rows: int) -> int:
        """How many of `rows` new deliveries may come straight to us. None while older ones wait in the
        table: first come, first served."""
        if self._leasable or self._stopping or self._ready_bytes >= READY_BYTES:
            places = 0
        else:
            places = max(0, min(rows, READY_ROWS - len(self._ready) - self._reserved))
        self._reserved += places
        return places

    def release(self, places: int) -> None:
        self._reserved -= places

    def deliver(self, rows: list[StoredRow]) -> None:
        for stored in rows:
            row = stored.row
            self._ready.append(
                Leased(
                    id=row.id,
                    org_id=row.org_id,
                    routing_key=row.routing_key,
                    delivery_id=row.delivery_id,
                    event=row.event,
                    action=row.action,
                    headers=row.headers,
                    body=row.body,
                    request_id=row.request_id,
                    via=row.via,
                    received_at=stored.received_at,
                    attempts=1,
                )
            )
            self._ready_bytes += len(row.body)
        self._reserved -= len(rows)
        self._some.set()

    def look(self) -> None:
        """The table has rows that nobody holds."""
        self._leasable = True
        self._some.set()

    # ── loops ────────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> None:
        """Works for ever; `stop` first, then cancel."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(supervised("inbox.sweep", self._sweep), name="inbox.sweep")
            tasks.create_task(supervised("inbox.clean", self._clean), name="inbox.clean")
            for number in range(WORKERS):
                tasks.create_task(supervised(f"inbox.worker-{number}", self._work), name="inbox.worker")

    async def recover(self) -> None:
        """At start: what an earlier life of this instance held is free again, at once."""
        async with self._engine.begin() as tx:
            freed = await queries.release_earlier(
                tx, instance_id=self._instance_id, claimed_by=self._claimed_by
            )
        if freed:
            log.info("inbox.recovered", deliveries=freed)
        self.look()

    async def stop(self) -> None:
        """Take nothing new, let what is being written end, give back what waits (OR-261)."""
        self._stopping = True
        self._ready.clear()
        self._ready_bytes = 0
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                await self._idle.wait()
        except TimeoutError:
            log.warning("inbox.stopped_busy", workers=self._busy)
        async with self._engine.begin() as tx:
            await queries.release(tx, claimed_by=self._claimed_by)
        self._wakeups.wake("inbox")

    async def _sweep(self) -> None:
        while True:
            async with self._engine.connect() as connection:
                depth, lag_seconds = await queries.depth(connection)
            self._depth.set(depth)
            self._lag.set(lag_seconds)
            await self._wakeups.wait("inbox", sweep_seconds=SWEEP_S)
            self.look()

    async def _clean(self) -> None:
        while True:
            removed = 1
            while removed:
                async with self._engine.begin() as tx:
                    removed = await queries.clean(tx, limit=1000)
            await asyncio.sleep(CLEAN_EVERY_S)

    async def _work(self) -> None:
        while True:
            batch = self._take() or await self._lease()
            if not batch:
                self._some.clear()
                if self._stopping or not (self._ready or self._leasable):
                    await self._some.wait()
                continue
            self._busy += 1
            self._idle.clear()
            try:
                await self._process(batch)
            except Exception:
                # The database is away. The claims are still ours; rows that were done are fenced.
                self._ready.extendleft(reversed(batch))
                self._ready_bytes += sum(len(row.body) for row in batch)
                raise
            finally:
                self._busy -= 1
                if self._busy == 0:
                    self._idle.set()

    def _take(self) -> list[Leased]:
        batch: list[Leased] = []
        while self._ready and len(batch) < BATCH:
            row = self._ready.popleft()
            self._ready_bytes -= len(row.body)
            batch.append(row)
        return batch

    async def _lease(self) -> list[Leased]:
        if not self._leasable or self._stopping:
            return []
        self._leasable = False
        try:
            async with self._engine.begin() as tx:
                # A lost lease is taken again: it need not wait for the disk.
                await tx.execute(text("SET LOCAL synchronous_commit = off"))
                rows, dead = await queries.lease(
                    tx, claimed_by=self._claimed_by, lease_ms=self._retry_policy.lease_ms, limit=BATCH
                )
        except BaseException:
            self.look()
            raise
        if rows:
            self.look()  # there may be more
        for lost in dead:
            self._expired.inc()
            log.warning("inbox.lease_expired", inbox_id=lost.id, claimed_by=lost.holder)
        return rows

    # ── one batch ────────────────────────────────────────────────────────────────────────────────

    async def _process(self, batch: list[Leased]) -> None:
        decided: list[tuple[Leased, Outcome]] = []
        results = await asyncio.gather(*(self._decide(row) for row in batch), return_exceptions=True)
        for row, result in zip(batch, results, strict=True):
            if isinstance(result, Outcome):
                decided.append((row, result))
            elif isinstance(result, Exception):
                await self._failed(row, result)
            else:
                raise result
        if not decided:
            return
        try:
            await self._write(decided)
        except Exception as error:
            if len(decided) == 1:
                await self._failed(decided[0][0], error)
                return
            # One of them is poison: find out which, and let the others pass.
            log.warning("inbox.batch_split", deliveries=len(decided), reason=repr(error))
            for row, outcome in decided:
                try:
                    await self._write([(row, outcome)])
                except Exception as alone:
                    await self._failed(row, alone)

    async def _decide(self, row: Leased) -> Outcome:
        async with asyncio.timeout(DECIDE_TIMEOUT_S):
            return await self._decider.decide(row)

    async def _write(self, decided: Sequence[tuple[Leased, Outcome]]) -> None:
        registered = False
        async with self._engine.begin() as tx:
            ours = await queries.finish(tx, [row for row, _ in decided], claimed_by=self._claimed_by)
            kept = [(row, outcome) for row, outcome in decided if row.id in ours]
            for push in _latest_pushes(kept):  # first, so that starting a run finds its registration
                registered |= await replace_registrations(tx, push, to_datetime(self._clock.now_ms()))
            requests = [request for _, outcome in kept for _, request in outcome.starts]
            runs_started = await start_runs(tx, requests, self._start_policy)
            waits = any(run.waits for run in runs_started)
            started = iter(runs_started)
            logged: list[LogRow] = []
            for row, outcome in kept:
                runs = [(index, next(started)) for index, _ in outcome.starts]
                logged.append(_log_row(row, outcome, runs))
            if logged:
                await queries.write_log(tx, logged)
        if requests:
            self._wakeups.wake("queue")
            self._wakeups.wake("outbox")
        if waits:
            self._wakeups.wake("concurrency")
        if registered:
            await self._registry.load()
            self._wakeups.wake("registry")
            self._wakeups.wake(EVENTS)
        for row, outcome in kept:
            result = "matched" if outcome.starts else "skipped"
            self._processed.labels("error" if outcome.error else result).inc()
            log.info(
                "webhook.processed",
                request_id=row.request_id,
                routing_key=row.routing_key,
                delivery_id=row.delivery_id,
                status=outcome.status,
                runs=len(outcome.starts),
                sha=outcome.sha,
                reason=outcome.error,
            )

    async def _failed(self, row: Leased, error: Exception) -> None:
        """Put back with full jitter, or to the dead letters after the last attempt (OR-95)."""
        told = str(error) if isinstance(error, KiciError) else f"{type(error).__name__}: {error}"
        told = told[:MAX_ERROR].replace("\x00", "\ufffd")
        last = row.attempts >= self._retry_policy.max_attempts
        log.error(
            "inbox.moved_to_dlq" if last else "inbox.attempt_failed",
            request_id=row.request_id,
            routing_key=row.routing_key,
            inbox_id=row.id,
            attempts=row.attempts,
            exc_info=error,
        )
        async with self._engine.begin() as tx:
            if not last:
                await queries.retry_later(
                    tx,
                    row,
                    claimed_by=self._claimed_by,
                    error=told,
                    delay_ms=self._retry_policy.delay_ms(row.attempts),
                )
                self._retries.inc()
                return
            outcome = Outcome(status="failed", source_name="", error=told)
            if await queries.bury(tx, row, claimed_by=self._claimed_by, error=told):
                await queries.write_log(tx, [_log_row(row, outcome, [])])
                self._buried.inc()


def _latest_pushes(decided: Sequence[tuple[Leased, Outcome]]) -> list[DefaultBranchPush]:
    """One push per repository: the latest of the batch stands for all."""
    latest = {
        (outcome.registration.routing_key, outcome.registration.repo_identifier): outcome.registration
        for _, outcome in sorted(decided, key=lambda pair: pair[0].received_at)
        if outcome.registration is not None
    }
    return [latest[key] for key in sorted(latest)]


def _log_row(row: Leased, outcome: Outcome, runs: Sequence[tuple[int, StartedRun]]) -> LogRow:
    decisions: list[DeliveryDecision] = list(outcome.decisions)
    for index, run in runs:
        decisions[index] = structs.replace(decisions[index], run_id=run.run_id)
    return LogRow(
        id=row.id,
        source_name=outcome.source_name,
        repo_identifier=outcome.repo_identifier,
        ref=outcome.ref,
        sha=outcome.sha,
        status=outcome.status,
        matched_count=len(runs),
        decisions=decisions,
        error=outcome.error,
    )
