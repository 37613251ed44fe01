"""Limits of internal events (OR-95) and what is counted about them."""

from msgspec import Struct

from kici.runtime.metrics import CappedLabel, Metrics

MAX_PAYLOAD_BYTES = 256 << 10  # OR-90
_ATTEMPT_BUCKETS = (1, 2, 3, 4, 5, 7, 10)


class EventPolicy(Struct, frozen=True, kw_only=True):
    """The `KICI_EVENT_ROUTER_*` settings that attempts, leases and backoff do not cover."""

    max_chain_depth: int = 10
    rate_limit_per_minute: int = 100  # of one name from one repository
    ttl_s: int = 604_800
    retry_scan_interval_ms: int = 10_000
    cleanup_interval_ms: int = 3_600_000


class EventMetrics:
    def __init__(self, metrics: Metrics) -> None:
        self.dlq_depth = metrics.gauge("event_dlq_depth", "Internal events among the dead letters")
        self.dlq = metrics.counter(
            "event_dlq_total", "Internal events moved to the dead letters", ("event_name", "reason")
        )
        self.lease_expirations = metrics.counter(
            "event_lease_expirations_total", "Leases of internal events whose holder was lost"
        )
        self.retries = metrics.counter(
            "event_retry_total", "Internal events put back for another try", ("event_name",)
        )
        self.successes = metrics.counter(
            "event_dispatch_success_total", "Internal events that were dispatched", ("event_name",)
        )
        self.attempts = metrics.histogram(
            "event_attempts",
            "Attempts that an internal event took",
            _ATTEMPT_BUCKETS,
            ("event_name", "result"),
        )
        self.dropped = metrics.counter(
            "events_dropped_total", "Internal events that a breaker refused", ("reason",)
        )
        for reason in ("chain_depth", "rate_limit"):
            self.dropped.labels(reason)
        self.name = CappedLabel(200)  # OR-243
