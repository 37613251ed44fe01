"""Makes messages pass that would not pass by themselves in time."""

import contextlib
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

from websockets.sync.client import connect

from tests.faults.deliveries import Deliveries
from tests.faults.plan import PUSH, SENT_BY
from tests.support.stack import Stack

# Only on a new connection.
OPENING = frozenset(
    {
        "auth.request",
        "auth.success",
        "agent.register",
        "register.ack",
        "config.ack",
        "source.register",
        "source.register.ack",
    }
)
# Every run brings these, one agent or the other.
OF_RUNS = frozenset(
    {
        "job.dispatch",
        "job.ack",
        "job.status",
        "job.context",
        "job.heartbeat",
        "step.status",
        "run.event",
        "agent.metrics",
        "LOG_BLOCK",
        "ack",
        "projection.batch",
        "projection.ack",
    }
)


class Provocations:
    """`finished`: the detail view of a run that has ended. What is called here blocks, and may fail."""

    def __init__(self, stack: Stack, deliveries: Deliveries, finished: dict[str, Any]) -> None:
        self._stack = stack
        self._deliveries = deliveries
        self._run_id = finished["run"]["runId"]
        self._job_id = next(
            job["jobId"] for job in finished["jobs"] if job["jobName"].startswith("count (5000")
        )

    def for_kind(self, kind: str) -> Callable[[], object] | None:
        """What to do for such a message; None when it comes by itself or never."""
        if kind in {"rpc.request", "rpc.response"}:
            return self._ask
        if kind == "RPC_BYTES":
            return self._download
        if kind == "log.unwatch":
            patience = itertools.cycle((0.0, 0.01, 0.03))
            return lambda: self._watch(turn_away_after=next(patience))
        if kind.startswith("log.") or kind == "WATCHED_BLOCK":
            return self._watch
        if kind in SENT_BY:
            return lambda: self._deliveries.send(SENT_BY[kind])
        if kind == "job.cancel":
            moments = itertools.cycle((0.0, 0.2, 0.4))
            return lambda: self._deliveries.cancel(self._deliveries.send(PUSH), next(moments))
        if kind in OF_RUNS:
            return lambda: self._deliveries.send(PUSH)
        return None

    def _ask(self) -> None:
        with contextlib.suppress(Exception):
            self._stack.api("GET", "/diagnostics")

    def _download(self) -> None:
        with contextlib.suppress(Exception):
            self._stack.log(self._run_id, self._job_id, 0)

    def _watch(self, turn_away_after: float | None = None) -> None:
        """Follow a log as a browser does, to its end unless it turns away."""
        url = self._stack.platform_url.replace("http://", "ws://") + "/ws/dashboard"
        org_id = self._stack.org_id
        step = {"jobId": self._job_id, "stepIndex": 0}
        with contextlib.suppress(Exception), connect(url, proxy=None, open_timeout=5) as browser:
            frames = (
                {"type": "auth.request", "token": self._stack.token},
                {"type": "log.subscribe", "orgId": org_id, "runId": self._run_id, **step},
            )
            for frame in frames:
                browser.send(json.dumps(frame))
            if turn_away_after is not None:
                time.sleep(turn_away_after)
                browser.send(json.dumps({"type": "log.unsubscribe", **step}))
            while json.loads(browser.recv(timeout=2))["type"] not in {"log.stream.terminated", "error"}:
                continue
