"""The parts of ingress put together once per process: `load`, then `run`; `stop`, then cancel."""

import asyncio

from kici.orchestrator.events.assembly import Events
from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.inbox.acceptance import Acceptor
from kici.orchestrator.inbox.decide import Decider
from kici.orchestrator.inbox.service import Deliveries
from kici.orchestrator.inbox.worker import InboxWorker, RetryPolicy
from kici.orchestrator.inbox.writer import InboxWriter
from kici.orchestrator.lockfiles.commits import CommitCache
from kici.orchestrator.lockfiles.git import Repositories
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.registry.manual import ManualStarts
from kici.orchestrator.registry.service import Registrations
from kici.orchestrator.runs.start import StartPolicy
from kici.orchestrator.sources.index import SourceIndex
from kici.orchestrator.sources.sealing import Sealer
from kici.orchestrator.sources.service import Sources
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.ids import uuid7
from kici.runtime.metrics import Metrics

MATCH_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
RELOAD_S = 30.0  # OR-72; OR-10 allows a minute


class Ingress:
    def __init__(
        self,
        engine: AsyncEngine,
        wakeups: Wakeups,
        metrics: Metrics,
        clock: Clock,
        *,
        secret_key: bytes,
        instance_id: str,
        start_policy: StartPolicy,
        retry_policy: RetryPolicy,
        lockfile_cache_max: int = 500,
        lockfile_cache_ttl_ms: int = 3_600_000,
        event_policy: EventPolicy | None = None,
    ) -> None:
        claimed_by = f"{instance_id}/{uuid7()}"
        sealer = Sealer(secret_key, "source-verification")
        self._wakeups = wakeups
        self.index = SourceIndex(engine, sealer)
        self.sources = Sources(engine, sealer, self.index, wakeups)
        self.registry = RegistryIndex(engine)
        self.registrations = Registrations(engine, self.registry, wakeups, clock)
        self.repositories = Repositories()
        self.commits = CommitCache(
            self.repositories, clock, max_entries=lockfile_cache_max, ttl_ms=lockfile_cache_ttl_ms
        )
        self.manual = ManualStarts(engine, self.registry, self.index, wakeups, start_policy)
        self.deliveries = Deliveries(engine)
        self.events = Events(
            engine,
            self.registry,
            self.index,
            wakeups,
            metrics,
            clock,
            instance_id=instance_id,
            claimed_by=claimed_by,
            start_policy=start_policy,
            retry_policy=retry_policy,
            policy=event_policy or EventPolicy(),
        )
        decider = Decider(
            self.index,
            self.registry,
            self.commits,
            metrics.histogram(
                "trigger_match_duration_seconds", "Matching one delivery's workflows", MATCH_BUCKETS
            ),
        )
        self.worker = InboxWorker(
            engine,
            decider,
            self.registry,
            wakeups,
            metrics,
            clock,
            instance_id=instance_id,
            claimed_by=claimed_by,
            start_policy=start_policy,
            retry_policy=retry_policy,
        )
        self.writer = InboxWriter(
            engine,
            claimed_by=claimed_by,
            reserve=self.worker.reserve,
            release=self.worker.release,
            deliver=self.worker.deliver,
            wake=self.unclaimed,
        )
        self.acceptor = Acceptor(self.index, self.writer, metrics)

    def unclaimed(self) -> None:
        """The inbox has rows that nobody holds."""
        self.worker.look()
        self._wakeups.wake("inbox")

    async def load(self) -> None:
        """Before the first delivery is taken."""
        await self.index.load()
        await self.registry.load()
        await self.worker.recover()
        await self.events.recover()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.writer.run(), name="inbox.writer")
            tasks.create_task(self.worker.run(), name="inbox.worker")
            tasks.create_task(self.events.run(), name="events")
            tasks.create_task(supervised("ingress.reload", self._reload), name="ingress.reload")

    async def _reload(self) -> None:
        """Both are woken by `registry`: a changed source changes what its registrations can do."""
        while True:
            await self._wakeups.wait("registry", sweep_seconds=RELOAD_S)
            await self.index.load()
            await self.registry.load()

    async def stop(self) -> None:
        await self.worker.stop()
        await self.events.stop()

    async def close(self) -> None:
        await self.repositories.close()
