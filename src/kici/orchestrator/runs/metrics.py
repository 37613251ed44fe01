"""Series of the orchestrator about runs, jobs, agents and the queue (OP-30)."""

from kici.orchestrator.runs.change import Change
from kici.runtime.metrics import Metrics


class ExecutionMetrics:
    """Built once per process, on the registry behind `/metrics` (prefix `kici_orch_`)."""

    def __init__(self, metrics: Metrics) -> None:
        counter, gauge, histogram = metrics.counter, metrics.gauge, metrics.histogram
        minutes = (1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0, 1800.0)
        self.executions = counter("executions_total", "Runs that ended", ["status"])
        self.execution_duration = histogram("execution_duration_seconds", "Start to end of a run", minutes)
        self.jobs = counter("jobs_total", "Jobs that ended", ["status"])
        self.steps = counter("steps_total", "Step states received", ["status"])
        self.queue_wait = histogram(
            "job_queue_wait_seconds",
            "Ready to sent to an agent",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1800.0),
        )
        self.queue_depth = gauge("dispatch_queue_depth", "Queued jobs", ["status"])
        self.queue_depth_by_label = gauge(
            "dispatch_queue_depth_by_label", "Queued jobs that ask for a label", ["status", "label"]
        )
        self.agents_active = gauge("agents_active", "Agents connected to this orchestrator")
        self.agent_messages = counter("agent_messages_total", "Frames from agents", ["type"])
        self.agent_messages_dropped = counter(
            "agent_messages_dropped_total", "Frames from agents that changed nothing", ["reason"]
        )
        self.stale_detected = counter("stale_runs_detected_total", "Jobs ended for lack of life signs")
        self.stale_current = gauge("stale_runs_current", "Jobs found without life signs by the last scan")
        self.stale_duration = histogram(
            "stale_detection_duration_seconds",
            "Last life sign to detection",
            (10.0, 30.0, 60.0, 120.0, 180.0, 300.0, 600.0),
        )
        self.repairs = counter("run_repairs_total", "Rows that a scan had to set right", ["kind"])
        self.outbox_depth = gauge("outbox_depth", "Rows not yet acknowledged", ["topic"])
        self.outbox_oldest = gauge("outbox_oldest_seconds", "Age of the oldest such row", ["topic"])

    def count(self, change: Change) -> None:
        """After the commit of `change`."""
        for run in change.ended_runs:
            self.executions.labels(run.status).inc()
            if run.duration_ms is not None:
                self.execution_duration.observe(run.duration_ms / 1000)
        for job in change.ended_jobs:
            self.jobs.labels(job.status).inc()
        for status in change.step_states:
            self.steps.labels(status).inc()
