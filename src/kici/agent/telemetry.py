"""The agent's own series (OP-30), at `/metrics` and pushed to the orchestrator."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.registry import Collector

from kici.runtime.metrics import Metrics
from kici.spec.states import JobStatus, StepStatus


class Telemetry:
    def __init__(self) -> None:
        metrics = Metrics("kici_agent_")
        self.metrics = metrics
        self.jobs = metrics.counter("jobs", "Jobs ended, by status", ["status"])
        self.jobs_active = metrics.gauge("jobs_active", "Jobs running now")
        self.steps = metrics.counter("steps", "Steps ended, by status", ["status"])
        self.step_duration = metrics.histogram(
            "step_duration_seconds", "Time of a step", (0.1, 1, 5, 30, 60, 300, 600, 1800)
        )
        self.clone_duration = metrics.histogram(
            "clone_duration_seconds", "Time of a checkout", (0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60)
        )
        self.log_bytes = metrics.counter("log_bytes", "Bytes that steps printed")
        self.log_lines_dropped = metrics.counter(
            "log_lines_dropped", "Lines that found no room in the spool"
        )
        self.pressure_events = metrics.counter(
            "log_backpressure_events", "Times that output was held back, or dropped", ["mode"]
        )
        self.pressure_active = metrics.gauge("log_backpressure_active", "1 while the mode is on", ["mode"])
        self.connection = metrics.gauge("connection_status", "1 while registered at the orchestrator")
        for mode in ("pause", "drop"):
            self.pressure_events.labels(mode)
            self.pressure_active.labels(mode).set(0)
        for job_status in (JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED):
            self.jobs.labels(job_status)
        for step_status in (StepStatus.SUCCESS, StepStatus.FAILED, StepStatus.SKIPPED):
            self.steps.labels(step_status)

    def pressure(self, mode: str) -> None:
        for name in ("pause", "drop"):
            self.pressure_active.labels(name).set(name == mode)
        if mode in ("pause", "drop"):
            self.pressure_events.labels(mode).inc()

    def own_series(self) -> str:
        """Our `kici_agent_*` series alone, as text: what the orchestrator shows for this agent."""
        collected = CollectorRegistry()
        collected.register(_Ours(self.metrics.registry))
        return generate_latest(collected).decode()


class _Ours(Collector):
    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return [family for family in self._registry.collect() if family.name.startswith("kici_agent_")]
