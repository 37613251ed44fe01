"""How statuses, times and durations look in a terminal."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

COLOURS = {
    "success": "green",
    "failed": "red",
    "error": "red",
    "timed_out": "red",
    "timed_out_stale": "red",
    "drift_dropped": "red",
    "running": "yellow",
    "recovering": "yellow",
    "cancelling": "yellow",
    "queued": "bright_yellow",
    "waiting": "bright_yellow",
    "held": "bright_yellow",
    "pending": "bright_black",
    "cancelled": "bright_black",
    "skipped": "bright_black",
}
MARKS = {
    "success": "✓",
    "failed": "✗",
    "error": "✗",
    "timed_out": "✗",
    "timed_out_stale": "✗",
    "drift_dropped": "✗",
    "cancelled": "■",
    "skipped": "–",
    "pending": "○",
    "queued": "○",
    "waiting": "○",
    "held": "‖",
}


def mark(status: str) -> str:
    return MARKS.get(status, "●")


def colour(status: str) -> str:
    return COLOURS.get(status, "default")


def duration(ms: int | None) -> str:
    """Three characters or so: `4.2s`, `58s`, `3m 07s`, `2h 15m`."""
    if ms is None:
        return "–"
    if ms < 10_000:
        return f"{ms / 1000:.1f}s"
    seconds = ms // 1000
    if seconds < 60:
        return f"{seconds}s"
    if seconds < 3600:
        return f"{seconds // 60}m {seconds % 60:02d}s"
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m"


def ago(moment: str | None, now: datetime) -> str:
    if moment is None:
        return "–"
    seconds = max(0, int((now - datetime.fromisoformat(moment)).total_seconds()))
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit} ago"
    return f"{seconds}s ago"


def elapsed_ms(started_at: str | None, now: datetime) -> int | None:
    """Of something that still runs."""
    if started_at is None:
        return None
    return max(0, int((now - datetime.fromisoformat(started_at)).total_seconds() * 1000))


def lost_attempt(detail: Mapping[str, Any], job: Mapping[str, Any]) -> str | None:
    """Why a job runs again, for people; None at its first attempt."""
    if job["attempt"] < 2:
        return None
    causes = [
        event["metadata"].get("cause")
        for event in detail["events"]
        if event["jobId"] == job["jobId"] and event["eventType"].endswith("job.orphan_recovered")
    ]
    because = f": {causes[-1]}" if causes and causes[-1] else ""
    return f"{job['displayName']}: attempt {job['attempt']}, the one before was lost{because}"


def utc_now() -> datetime:
    return datetime.fromtimestamp(time.time(), UTC)
