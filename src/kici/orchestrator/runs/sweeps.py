"""Scans that watch clocks (OR-149, 150, 160…163, AG-16, AG-23).

Each scan finds a bounded number of rows, locks them, looks again, and writes as anybody else would. Running
one twice, or in two processes, changes nothing more.
"""

import asyncio
from collections.abc import Callable, Collection

from kici.orchestrator.runs import repair
from kici.orchestrator.runs.attention import Attention
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.clocks import Clocks, judge
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.reasons import WaitingReasons
from kici.orchestrator.runs.state import JobPatch
from kici.runtime.database import text
from kici.runtime.logging import get_logger
from kici.runtime.metrics import CappedLabel
from kici.spec.durations import in_words

log = get_logger(__name__)

AT_ONCE = 500
QUICK_S = 1.0  # acknowledgements, recoveries, run deadlines
QUEUE_S = 5.0
CROWDED_TICKS = 2

AgentSession = tuple[str, str]  # agent id, session id

_QUICK = text(f"""
    SELECT id FROM execution_jobs
    WHERE ack_deadline < now() AND ack_deadline IS NOT NULL AND completed_at IS NULL
    UNION SELECT id FROM execution_jobs
    WHERE recovery_deadline < now() AND agent_id IS NOT NULL AND completed_at IS NULL
    LIMIT {AT_ONCE}
""")
_EXPIRED = text(f"""
    SELECT id FROM execution_jobs
    WHERE status = 'queued' AND dispatched_at IS NULL AND queue_expires_at < now() LIMIT {AT_ONCE}
""")
_SLOW = text(f"""
    SELECT j.id FROM execution_jobs j
    WHERE j.status IN ('running', 'recovering', 'cancelling') AND j.completed_at IS NULL AND (
        coalesce(j.last_heartbeat_at, j.started_at) < now() - make_interval(secs => CAST(:silent_s AS float8))
        OR j.started_at + make_interval(secs => (j.timeout_ms + CAST(:slack_ms AS bigint))::float8 / 1000) < now()
        OR j.status = 'cancelling')
    ORDER BY j.id LIMIT {AT_ONCE}
""")
_CLOCKS = text("""
    SELECT j.id,
        coalesce(j.ack_deadline < now(), false), coalesce(j.recovery_deadline < now(), false),
        coalesce(j.queue_expires_at < now(), false),
        coalesce(j.started_at + make_interval(secs => (j.timeout_ms + CAST(:slack_ms AS bigint))::float8 / 1000)
                 < now(), false),
        (extract(epoch FROM now() - coalesce(j.last_heartbeat_at, j.started_at)) * 1000)::bigint,
        (extract(epoch FROM now() - j.cancel_sent_at) * 1000)::bigint,
        CASE WHEN j.status = 'cancelling' THEN
            (SELECT (s.spec->>'gracePeriod')::bigint FROM execution_job_specs s WHERE s.job_id = j.id) END
    FROM execution_jobs j WHERE j.id = ANY(CAST(:ids AS uuid[]))
""")
_OVERDUE_RUNS = text(f"""
    SELECT id, workflow_timeout_ms FROM execution_runs
    WHERE deadline_at < now() AND deadline_at IS NOT NULL AND completed_at IS NULL AND status <> 'cancelling'
    ORDER BY id LIMIT {AT_ONCE}
""")
_DEPTH = text("""
    SELECT j.sub, l.label, grouping(l.label) = 1, count(DISTINCT j.id)
    FROM (SELECT id, runs_on, CASE WHEN dispatched_at IS NULL THEN 'pending' ELSE 'dispatched' END AS sub
          FROM execution_jobs WHERE status = 'queued') j
        LEFT JOIN LATERAL unnest(j.runs_on) AS l (label) ON true
    GROUP BY GROUPING SETS ((j.sub, l.label), (j.sub)) ORDER BY count(*) DESC
""")


class Sweeps:
    """`close_unanswered` ends the sockets of agents that did not answer a dispatch or fell silent (close 4031).
    Without `attention` this process is taken to have heard everything."""

    def __init__(
        self,
        execution: Execution,
        close_unanswered: Callable[[Collection[AgentSession]], None],
        attention: Attention | None = None,
    ) -> None:
        self._execution = execution
        self._limits = execution.limits
        self._close_unanswered = close_unanswered
        self._attention = attention
        self._reasons = WaitingReasons(execution)
        self._groups = Groups(execution)
        self._labels = CappedLabel(200)
        self._shown: set[tuple[str, str]] = set()
        self._crowded_ticks = 0

    async def at_start(self) -> None:
        """Once, before agents may register."""
        await repair.after_restart(self._execution)
        await self.scan()

    async def quick_loop(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(QUICK_S)
            await self.quick()

    async def slow_loop(self) -> None:
        """For ever."""
        while True:
            await asyncio.sleep(self._limits.stale_detector_scan_interval_ms / 1000)
            await self.scan()

    async def queue_loop(self) -> None:
        """For ever."""
        while True:
            await self.measure_queue()
            await self._reasons.refresh()
            await asyncio.sleep(QUEUE_S)

    async def quick(self) -> int:
        """Unanswered dispatches, agents that stay away, queue time-outs, run deadlines. Rows written."""
        async with self._execution.engine.connect() as tx:
            due = {*(await tx.execute(_QUICK)).scalars(), *(await tx.execute(_EXPIRED)).scalars()}
            overdue = {row[0]: row[1] for row in await tx.execute(_OVERDUE_RUNS)}
        return await self._judge(due) + await self._cancel_overdue(overdue)

    async def scan(self) -> int:
        """Silent jobs, stuck cancels, and what needs repair. Rows written."""
        silent_ms = (
            self._limits.job_heartbeat_interval_ms * self._limits.stale_detector_threshold_multiplier
        )
        async with self._execution.engine.connect() as tx:
            rows = await tx.execute(_SLOW, {"silent_s": silent_ms / 1000, "slack_ms": self._slack_ms})
            due = set(rows.scalars())
        found = await self._judge(due)
        self._execution.metrics.stale_current.set(found)
        return found + await repair.repair(self._execution) + await self._groups.repair()

    @property
    def _slack_ms(self) -> int:
        """The agent enforces a job's time-out; this much later we do (OR-162)."""
        return 2 * self._limits.job_heartbeat_interval_ms

    async def _judge(self, job_ids: Collection[str]) -> int:
        if not job_ids:
            return 0
        metrics, closed = self._execution.metrics, set[AgentSession]()
        patches: list[JobPatch] = []
        async with self._execution.change() as change:
            jobs = await change.lock_jobs(job_ids)
            rows = await change.tx.execute(_CLOCKS, {"ids": list(jobs), "slack_ms": self._slack_ms})
            heard_ms = None if self._attention is None else self._attention.for_ms()
            for job_id, *clocks in rows:
                job = jobs[job_id]
                verdict = judge(job, Clocks(*clocks), self._limits, heard_ms=heard_ms)
                if verdict is None:
                    continue
                log.warning(
                    "job.clock_ran_out",
                    run_id=job.run_id,
                    job_id=job_id,
                    attempt=job.attempt,
                    agent_id=job.agent_id,
                    cause=verdict.cause,
                    status=job.status,
                )
                patches.append(verdict.patch)
                change.recalled = change.recalled or verdict.recall
                if verdict.event is not None:
                    change.event(
                        job.run_id,
                        verdict.event,
                        job_id,
                        attempt=job.attempt,
                        agentId=job.agent_id,
                        cause=verdict.cause,
                    )
                if verdict.close_agent and job.agent_id and job.agent_session:
                    closed.add((job.agent_id, job.agent_session))
                if verdict.stale_ms is not None:
                    metrics.stale_detected.inc()
                    metrics.stale_duration.observe(verdict.stale_ms / 1000)
            await change.write(patches)
        if closed:
            self._close_unanswered(closed)
        return len(patches)

    async def _cancel_overdue(self, overdue: dict[str, int | None]) -> int:
        if not overdue:
            return 0
        requests = {
            run_id: Request(
                reason=f"workflow_timeout: the run took longer than {in_words(timeout_ms or 0)}",
                timeout_reason="workflow_timeout",
            )
            for run_id, timeout_ms in overdue.items()
        }
        async with self._execution.change() as change:
            return len(await cancel_runs(change, requests))

    async def measure_queue(self) -> None:
        """`kici_orch_dispatch_queue_depth` and its split by label."""
        async with self._execution.engine.connect() as tx:
            rows = (await tx.execute(_DEPTH)).all()
        metrics = self._execution.metrics
        totals = {"pending": 0, "dispatched": 0}
        by_label: dict[tuple[str, str], int] = {}
        for status, label, is_total, count in rows:
            if is_total:
                totals[status] = count
            elif label is not None:
                key = (status, self._labels(label))
                by_label[key] = by_label.get(key, 0) + count
        for status, count in totals.items():
            metrics.queue_depth.labels(status).set(count)
        for key in self._shown - by_label.keys():
            metrics.queue_depth_by_label.labels(*key).set(0)
        for key, count in by_label.items():
            metrics.queue_depth_by_label.labels(*key).set(count)
        self._shown |= by_label.keys()
        self._warn(totals["pending"])

    def _warn(self, waiting: int) -> None:
        """Once, when two looks in a row find too much (OR-148)."""
        threshold = self._limits.queue_backpressure_threshold
        self._crowded_ticks = self._crowded_ticks + 1 if threshold and waiting > threshold else 0
        if self._crowded_ticks == CROWDED_TICKS:
            log.warning("queue.backpressure.sustained", waiting=waiting, threshold=threshold)
