"""Sends queued jobs to free agents, the moment there is one of each (OR-147)."""

from collections.abc import Sequence

from msgspec import MsgspecError, Struct

from kici.orchestrator.agents.connection import Connection
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.dispatch.claim import Claim, ClaimedJob, Match, claim, patterned
from kici.orchestrator.dispatch.extras import DispatchExtras, Extras
from kici.orchestrator.dispatch.frame import dispatch_frame
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.retries import attempt_lost
from kici.protocol import agent_v1
from kici.runtime.clock import Clock
from kici.runtime.database import Wakeups
from kici.runtime.logging import get_logger
from kici.spec.states import JobStatus

log = get_logger(__name__)

SWEEP_S = 5.0


class _Unsent(Struct, frozen=True):
    job: ClaimedJob
    cause: str
    counts: bool


class Dispatcher:
    """One per process; any number of processes may claim from the same table."""

    def __init__(
        self,
        execution: Execution,
        hub: Hub,
        wakeups: Wakeups,
        clock: Clock,
        extras: DispatchExtras | None = None,
    ) -> None:
        self._execution = execution
        self._hub = hub
        self._wakeups = wakeups
        self._clock = clock
        self._extras = extras
        self._patterns_wait = False

    async def run(self) -> None:
        """For ever: on the hint `queue`, when an agent becomes free, and every few seconds."""
        while True:
            await self._wakeups.wait("queue", sweep_seconds=self._hub.next_pause_ends_s(SWEEP_S))
            while await self.round():
                pass

    async def round(self) -> bool:
        """One claim over all free agents. True when another one could find more."""
        free = self._hub.free()
        if not free:
            return False
        for connection in free:
            connection.reserved = True
        try:
            found, had_patterns, extras = await self._claim(free)
            unsent = self._send(
                found.jobs, {connection.identity.agent_id: connection for connection in free}, extras
            )
        finally:
            for connection in free:
                connection.reserved = False
        if unsent:
            await self._take_back(unsent)
        self._patterns_wait = found.patterned
        missed_patterns = found.patterned and not had_patterns
        return bool(unsent) or found.seen > len(found.jobs) > 0 or missed_patterns

    async def _claim(self, free: Sequence[Connection]) -> tuple[Claim, bool, Extras]:
        agents = [connection.as_free() for connection in free]
        limits = self._execution.limits
        had_patterns = self._patterns_wait
        async with self._execution.change() as change:
            matches: list[Match] = await patterned(change.tx, agents) if had_patterns else []
            found = await claim(change.tx, agents, matches, ack_timeout_ms=limits.dispatch_ack_timeout_ms)
            change.touch_jobs(job.job_id for job in found.jobs)
            for job in found.jobs:
                change.event(
                    job.run_id, "agent.assigned", job.job_id, agentId=job.agent_id, attempt=job.attempt
                )
            extras: Extras = {}
            if self._extras is not None and found.jobs:
                extras = await self._extras.extras(change.tx, found.jobs)
        return found, had_patterns, extras

    def _send(
        self, jobs: Sequence[ClaimedJob], agents: dict[str, Connection], extras: Extras
    ) -> list[_Unsent]:
        unsent: list[_Unsent] = []
        for job in jobs:
            connection = agents[job.agent_id]
            connection.hold((job.job_id, job.attempt), job.run_id)
            fields = extras.get(job.job_id, {})
            if fields is None:
                connection.let_go((job.job_id, job.attempt))
                unsent.append(_Unsent(job, "what its run brought along is lost", counts=True))
                continue
            try:
                frame = dispatch_frame(
                    job,
                    now_ms=self._clock.now_ms(),
                    max_log_size_bytes=self._execution.limits.max_log_size_bytes,
                    extras=fields,
                )
            except MsgspecError as error:
                log.error("job.not_dispatchable", job_id=job.job_id, exc_info=error)
                connection.let_go((job.job_id, job.attempt))
                unsent.append(_Unsent(job, f"its dispatch could not be made: {error}", counts=True))
                continue
            if not connection.post(agent_v1.encode(frame)):
                unsent.append(_Unsent(job, f"agent {job.agent_id} left before the dispatch", counts=False))
                continue
            self._execution.metrics.queue_wait.observe(job.waited_ms / 1000)
            log.info(
                "job.dispatched",
                run_id=job.run_id,
                job_id=job.job_id,
                job=job.job_name,
                attempt=job.attempt,
                agent_id=job.agent_id,
                request_id=job.request_id,
                waited_ms=job.waited_ms,
            )
        return unsent

    async def _take_back(self, unsent: Sequence[_Unsent]) -> None:
        by_id = {each.job.job_id: each for each in unsent}
        async with self._execution.change() as change:
            jobs = await change.lock_jobs(by_id)
            await change.write(
                [
                    attempt_lost(
                        job,
                        by_id[job.job_id].cause,
                        max_attempts=self._execution.limits.max_job_attempts,
                        counts=by_id[job.job_id].counts,
                    )
                    for job in jobs.values()
                    if job.status is JobStatus.QUEUED
                    and job.dispatched
                    and job.attempt == by_id[job.job_id].job.attempt
                ]
            )
