"""What everything that executes runs shares: the database, wake-ups, limits and counters of one process."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from msgspec import Struct

from kici.orchestrator.events.listening import CHANNEL as EVENTS
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.runtime.database import AsyncEngine


class Limits(Struct, frozen=True, kw_only=True):
    """The `KICI_*` settings of these names, all in milliseconds but the counts. What begins with `agent_`
    and has no setting is fixed by AG-2 and AG-6."""

    dispatch_ack_timeout_ms: int = 10_000  # an org may have its own
    queue_timeout_ms: int = 3_600_000  # 0: none
    concurrency_wait_timeout_ms: int = 3_600_000  # for a place in a group; 0: none
    cache_build_timeout_ms: int = 600_000
    queue_max_depth: int = 1000  # 0: unbounded
    agent_max_reconnect_delay_ms: int = 60_000
    job_heartbeat_interval_ms: int = 60_000
    stale_detector_scan_interval_ms: int = 60_000
    stale_detector_threshold_multiplier: int = 2
    max_job_attempts: int = 5
    max_log_size_bytes: int = 1 << 30
    queue_backpressure_threshold: int = 100  # waiting jobs from which on a warning is logged; 0: none
    agent_auth_ms: int = 5_000
    agent_register_ms: int = 10_000
    agent_heartbeat_ms: int = 30_000  # silent for 3 of these: logged; for 6: closed

    @property
    def recovery_window_ms(self) -> int:
        """How long a job waits for its agent to come back (AG-23)."""
        return 2 * self.agent_max_reconnect_delay_ms


class Waker(Protocol):
    """`kici.runtime.database.Wakeups`, as far as writers need it."""

    def wake(self, channel: str) -> None: ...


class Execution:
    """Handed to whoever changes runs. `instance_id` is KICI_CLUSTER_INSTANCE_ID."""

    def __init__(
        self,
        engine: AsyncEngine,
        wakeups: Waker,
        limits: Limits,
        metrics: ExecutionMetrics,
        instance_id: str,
    ) -> None:
        self.engine = engine
        self.wakeups = wakeups
        self.limits = limits
        self.metrics = metrics
        self.instance_id = instance_id

    @asynccontextmanager
    async def change(self) -> AsyncGenerator[Change]:
        """One transaction over any number of runs. At its end the records and outbox rows of everything that
        changed are written; after the commit, whoever waits for them is woken."""
        async with self.engine.begin() as tx:
            change = Change(
                tx,
                queue_timeout_ms=self.limits.queue_timeout_ms,
                concurrency_wait_ms=self.limits.concurrency_wait_timeout_ms,
            )
            yield change
            await change.record()
        if change.queued:
            self.wakeups.wake("queue")
        if change.told:
            self.wakeups.wake("outbox")
        if change.recalled:
            self.wakeups.wake("cancel")
        if change.regrouped:
            self.wakeups.wake("concurrency")
        if change.ended_jobs or change.ended_runs:
            self.wakeups.wake(EVENTS)
        self.metrics.count(change)
