"""The parts of the event system put together once per process: `recover`, then `run`; `stop`, then cancel."""

import asyncio

from kici.orchestrator.events.decide import EventDecider
from kici.orchestrator.events.emit import Emitter
from kici.orchestrator.events.policy import EventMetrics, EventPolicy
from kici.orchestrator.events.router import EventRouter
from kici.orchestrator.events.service import EventLog
from kici.orchestrator.events.trust import Trust
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.runs.start import StartPolicy
from kici.orchestrator.schedules.ticker import ScheduleTicker
from kici.orchestrator.sources.index import SourceIndex
from kici.runtime.clock import Clock
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.metrics import Metrics


class Events:
    """`emitter.emit` is the handler of `event.emit`; `log` and `trust` answer operators."""

    def __init__(
        self,
        engine: AsyncEngine,
        registry: RegistryIndex,
        sources: SourceIndex,
        wakeups: Wakeups,
        metrics: Metrics,
        clock: Clock,
        *,
        instance_id: str,
        claimed_by: str,
        start_policy: StartPolicy,
        retry_policy: RetryPolicy,
        policy: EventPolicy,
    ) -> None:
        counters = EventMetrics(metrics)
        self.emitter = Emitter(engine, wakeups, policy, counters)
        self.trust = Trust(engine, sources)
        self.log = EventLog(engine, wakeups, policy)
        self.ticker = ScheduleTicker(engine, wakeups, clock)
        self.router = EventRouter(
            engine,
            registry,
            EventDecider(registry, sources, max_chain_depth=policy.max_chain_depth),
            wakeups,
            counters,
            clock,
            instance_id=instance_id,
            claimed_by=claimed_by,
            start_policy=start_policy,
            retry_policy=retry_policy,
            policy=policy,
        )

    async def recover(self) -> None:
        await self.router.recover()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.router.run(), name="events.router")
            tasks.create_task(self.ticker.run(), name="schedules")

    async def stop(self) -> None:
        await self.router.stop()
