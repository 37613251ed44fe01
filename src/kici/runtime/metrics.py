"""One registry per process; `/metrics` in Prometheus text. Names as OP-30 lists them."""

import asyncio
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OVERFLOW = "__overflow__"


class Metrics:
    """Counter, gauge and histogram makers bound to one registry and one prefix."""

    def __init__(self, prefix: str) -> None:
        self.registry = CollectorRegistry()
        self.prefix = prefix
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.loop_lag = Histogram(
            "kici_runtime_event_loop_lag_seconds",
            "How late the event loop wakes",
            buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5),
            registry=self.registry,
        )
        self.tasks = Gauge("kici_runtime_tasks", "Tasks alive in the event loop", registry=self.registry)

    def counter(self, name: str, text: str, labels: Iterable[str] = ()) -> Counter:
        return Counter(self.prefix + name, text, tuple(labels), registry=self.registry)

    def gauge(self, name: str, text: str, labels: Iterable[str] = ()) -> Gauge:
        return Gauge(self.prefix + name, text, tuple(labels), registry=self.registry)

    def histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: Iterable[str] = ()
    ) -> Histogram:
        return Histogram(self.prefix + name, text, tuple(labels), buckets=buckets, registry=self.registry)

    def exposition(self) -> bytes:
        return generate_latest(self.registry)

    async def watch_loop(self, period_seconds: float = 5.0) -> None:
        """Feeds the two runtime series; runs for ever."""
        while True:
            started = time.monotonic()
            await asyncio.sleep(period_seconds)
            self.loop_lag.observe(max(0.0, time.monotonic() - started - period_seconds))
            self.tasks.set(len(asyncio.all_tasks()))


class CappedLabel:
    """The first `size` values of a user-chosen label; the rest become `__overflow__` (OP-31)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.seen: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self.seen:
            return value
        if len(self.seen) < self.size:
            self.seen.add(value)
            return value
        return OVERFLOW
