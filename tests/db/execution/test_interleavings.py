"""Random interleavings of agents, cancels, losses, clocks and claims over real tables.

Every step is one committed transaction. After each: the invariants of `acting.invariants`, no exit from a
terminal state, attempts that only grow, and a replay of everything ever said that changes nothing.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from kici.orchestrator.agents.connection import Identity
from kici.orchestrator.agents.resume import park, resume
from kici.orchestrator.dispatch.claim import FreeAgent
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.repair import repair
from kici.orchestrator.runs.reports import Report
from kici.orchestrator.runs.sweeps import Sweeps
from kici.protocol.runner_v1 import InitResult
from kici.runtime.database import text
from kici.runtime.ids import uuid7
from kici.spec.lock import Concurrency, LockWorkflow, Matrix, Need
from kici.spec.states import JOB_TERMINAL, RUN_TERMINAL, JobStatus, StepStatus
from tests.db.execution import acting, rows
from tests.db.execution.acting import Held
from tests.db.execution.rows import Job
from tests.db.execution.starting import begin, generator, workflow
from tests.db.execution.starting import job as lock_job
from tests.support import postgres
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

T = TypeVar("T")

SHAPES: list[list[Job]] = [
    [Job("a")],
    [Job("a"), Job("b", needs=[("a", "on-success")]), Job("c", needs=[("a", "on-failure")])],
    [
        Job("m", children=4, max_parallel=2, fail_fast=True),
        Job("after", needs=[("m", "always")]),
        Job("good", needs=[("m", "on-success"), ("after", "on-skip")]),
    ],
    [
        Job("m", children=3, max_parallel=1),
        Job("n", needs=[("m", "on-success")], children=3, max_parallel=2),
    ],
    [Job("a"), Job("b"), Job("j", needs=[("a", "on-success"), ("b", "always")])],
]
# With places in groups, setup rows and hooks; twice the same group, and one that cancels.
LOCKS: list[LockWorkflow] = [
    workflow(
        lock_job("a", concurrency_group="g"),
        lock_job("b", "a"),
        concurrency=Concurrency(group="runs", cancel_in_progress=False),
        has_cleanup=True,
    ),
    workflow(lock_job("a"), lock_job("b"), concurrency=Concurrency(group="runs"), has_on_cancel=True),
    workflow(
        generator("made"),
        lock_job("t", matrix=Matrix(type="dynamic"), max_parallel=1, fail_fast=True),
        lock_job("end", "t", Need(group="made", run_on=["success"]), concurrency_group="g"),
        has_cleanup=True,
    ),
]
FOUND: dict[str, dict[str, Any]] = {
    "__dynamic__ci__0": {"generated": [lock_job("x"), lock_job("y", "x", concurrency_group="g")]},
    "__init__ci__t": {"init": InitResult(matrix={"n": [1, 2, 3]})},
}
ENDINGS = [JobStatus.SUCCESS, JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.CANCELLED]
BACK = st.integers(0, 3)  # how many dispatches ago
AGENTS = ("agent-1", "agent-2", "agent-3")


def _ended(held: Held, ending: JobStatus, **fields: Any) -> Report:
    found = FOUND.get(held.job_name, {}) if ending is JobStatus.SUCCESS else {}
    return held.job(ending, **fields, **found)


class Interleavings(RuleBasedStateMachine):
    """`server` and `template` are set by the test."""

    server: postgres.Server
    template: str

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clone = self.server.clone(self.template, pool_size=2)
        self.db: Database = self.do(self.clone.__aenter__())
        self.ex = acting.execution(self.db, max_job_attempts=3)
        self.said: list[Report] = []
        self.runs: list[rows.Run] = []
        self.agents: dict[str, FreeAgent] = {}
        self.held: list[Held] = []  # everything ever dispatched, newest last
        self.ended: dict[str, str] = {}
        self.attempts: dict[str, int] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        try:
            if self.runs:
                self.do(self._let_everything_end())
        finally:
            self.do(self.clone.__aexit__(None, None, None))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            self.loop.close()

    @initialize(shapes=st.lists(st.integers(0, len(SHAPES) + len(LOCKS) - 1), min_size=1, max_size=3))
    def begin(self, shapes: list[int]) -> None:
        for agent_id in AGENTS:
            self.agents[agent_id] = self.do(rows.add_agent(self.db.engine, agent_id))
        for shape in shapes:
            if shape < len(SHAPES):
                self.runs.append(self.do(rows.add_run(self.db.engine, SHAPES[shape])))
            else:
                started = self.do(begin(self.db, LOCKS[shape - len(SHAPES)]))
                self.runs.append(rows.Run(started.run_id, {}))
        self.settle_groups()
        self.dispatch_all()

    @rule()
    def settle_groups(self) -> None:
        self.do(Groups(self.ex).settle_all())

    @rule()
    def dispatch_all(self) -> None:
        self.held += self.do(acting.dispatch(self.db, *self.agents.values()))

    @rule(agent_id=st.sampled_from(AGENTS))
    def dispatch(self, agent_id: str) -> None:
        self.held += self.do(acting.dispatch(self.db, self.agents[agent_id]))

    @rule()
    def all_run(self) -> None:
        for job in self.held:
            self._say(job.ack(), job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING))

    @rule(back=BACK)
    def ack_and_run(self, back: int) -> None:
        for job in self._pick(back):
            self._say(job.ack(), job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING))

    @rule(back=BACK, step=st.integers(0, 2), state=st.sampled_from(list(StepStatus)))
    def step(self, back: int, step: int, state: StepStatus) -> None:
        for job in self._pick(back):
            self._say(job.step(step, state))

    @rule(back=BACK, ending=st.sampled_from(ENDINGS))
    def end(self, back: int, ending: JobStatus) -> None:
        for job in self._pick(back):
            self._say(_ended(job, ending, error_message="why" if ending is JobStatus.FAILED else None))

    @rule(ending=st.sampled_from(ENDINGS))
    def all_end_in_one_batch(self, ending: JobStatus) -> None:
        if self.held:
            self._say(
                *(
                    _ended(job, ending if index else JobStatus.SUCCESS)
                    for index, job in enumerate(self.held)
                )
            )

    @rule(first=BACK, second=BACK, ending=st.sampled_from(ENDINGS))
    def two_end_at_once(self, first: int, second: int, ending: JobStatus) -> None:
        """Two processes, one row lock."""
        reports = [_ended(job, JobStatus.SUCCESS) for job in self._pick(first)]
        reports += [_ended(job, ending) for job in self._pick(second)]
        self.said += reports

        async def both() -> None:
            async with asyncio.TaskGroup() as tasks:
                for report in reports:
                    tasks.create_task(acting.report(self.ex, report))

        self.do(both())

    @rule(back=BACK, reason=st.sampled_from(["busy", "draining"]))
    def reject(self, back: int, reason: str) -> None:
        for job in self._pick(back):
            self._say(job.reject(reason))

    def _pick(self, back: int) -> list[Held]:
        """One of the newest, if there is any."""
        return self.held[-1 - back :][:1]

    @rule(index=st.integers(0, 2), force=st.booleans())
    def cancel(self, index: int, force: bool) -> None:
        if index < len(self.runs):
            run_id = self.runs[index].id
            self.do(self._cancel(run_id, force))

    async def _cancel(self, run_id: str, force: bool) -> None:
        async with self.ex.change() as change:
            await cancel_runs(change, {run_id: Request(reason="enough", by="Ann", force=force)})

    @rule(agent_id=st.sampled_from(AGENTS))
    def cut(self, agent_id: str) -> None:
        self.do(self._park(agent_id))

    async def _park(self, agent_id: str) -> None:
        async with self.ex.change() as change:
            await park(change, self._identity(agent_id), self.ex.limits)

    @rule(agent_id=st.sampled_from(AGENTS), same_process=st.booleans(), forgets=st.booleans())
    def come_back(self, agent_id: str, same_process: bool, forgets: bool) -> None:
        if not same_process:
            agent = self.agents[agent_id]
            self.agents[agent_id] = FreeAgent(
                agent_id=agent_id, session_id=uuid7(), org_id=agent.org_id, labels=agent.labels
            )
        mine = {(job.job_id, job.attempt) for job in self.held if job.agent.agent_id == agent_id}
        self.do(self._resume(agent_id, mine if same_process and not forgets else set()))

    async def _resume(self, agent_id: str, held: set[tuple[str, int]]) -> None:
        async with self.ex.change() as change:
            await resume(change, self._identity(agent_id), held, self.ex.limits)

    def _identity(self, agent_id: str) -> Identity:
        agent = self.agents[agent_id]
        return Identity(
            agent_id=agent_id,
            session_id=agent.session_id,
            org_id=agent.org_id,
            token_id=uuid7(),
            connection_id=uuid7(),
            labels=agent.labels,
        )

    @rule(
        back=BACK,
        clock=st.sampled_from(
            ["ack_deadline", "recovery_deadline", "queue_expires_at", "last_heartbeat_at", "cancel_sent_at"]
        ),
    )
    def a_clock_runs_out(self, back: int, clock: str) -> None:
        for job in self._pick(back):
            self.do(self._run_out(job.job_id, clock))

    async def _run_out(self, job_id: str, clock: str) -> None:
        async with self.db.engine.begin() as tx:
            await tx.execute(
                text(
                    f"UPDATE execution_jobs SET {clock} = now() - interval '1 day' WHERE id = :id"
                    f" AND {clock} IS NOT NULL"
                ),
                {"id": job_id},
            )
        sweeps = Sweeps(self.ex, lambda _sessions: None)
        await sweeps.quick()
        await sweeps.scan()
        assert await sweeps.quick() == 0  # twice is once

    def _say(self, *reports: Report) -> None:
        self.said += reports
        self.do(acting.report(self.ex, *reports))

    @invariant()
    def all_is_well(self) -> None:
        if self.runs:
            self.do(self._check())

    async def _check(self) -> None:
        await acting.invariants(self.db, [run.id for run in self.runs])
        for row in await rows.fetch(self.db.engine, "SELECT id, status, attempt FROM execution_jobs"):
            known = self.ended.get(row["id"])
            assert known is None or known == row["status"], "left a terminal state"
            assert row["attempt"] >= self.attempts.get(row["id"], 0)
            self.attempts[row["id"]] = row["attempt"]
            if row["status"] in JOB_TERMINAL:
                self.ended[row["id"]] = row["status"]
        for row in await rows.fetch(self.db.engine, "SELECT id, status FROM execution_runs"):
            known = self.ended.get(row["id"])
            assert known is None or known == row["status"], "left a terminal state"
            if row["status"] in RUN_TERMINAL:
                self.ended[row["id"]] = row["status"]
        twice = await rows.fetch(
            self.db.engine,
            "SELECT event_name, payload->>'jobId', payload->>'runId' FROM kici_events"
            " GROUP BY 1, 2, 3 HAVING count(*) > 1",
        )
        assert twice == []
        assert await repair(self.ex) == 0, "something needed repair"
        assert await Groups(self.ex).repair() == 0, "a place needed repair"
        crowded = await rows.fetch(
            self.db.engine,
            "SELECT group_name FROM concurrency_slots WHERE acquired_at IS NOT NULL GROUP BY scope, group_name"
            " HAVING count(*) > 1",
        )
        assert crowded == [], "two in one place"

    async def _let_everything_end(self) -> None:
        """Whatever happened before, the rest can be worked off, and then nothing is left."""
        before = await self._states()
        for report in self.said:
            if report.message.job_id in self.ended:
                await acting.report(self.ex, report)
        assert await self._states() == before, "a replay changed an ended job"
        for agent_id in AGENTS:
            await self._resume(agent_id, set())
        async with self.db.engine.begin() as tx:
            await tx.execute(
                text(
                    "UPDATE execution_jobs SET recovery_deadline = now() - interval '1 s'"
                    " WHERE completed_at IS NULL AND agent_id IS NOT NULL"
                )
            )
        await Sweeps(self.ex, lambda _sessions: None).quick()
        await acting.work_off(self.ex, self.db)
        await self._check()
        left = await rows.fetch(self.db.engine, "SELECT * FROM execution_runs WHERE completed_at IS NULL")
        assert left == []

    async def _states(self) -> list[dict[str, Any]]:
        return await rows.fetch(
            self.db.engine,
            "SELECT id, status, attempt, error_message, outputs::text FROM execution_jobs"
            " WHERE completed_at IS NOT NULL ORDER BY id",
        )


def test_any_interleaving_keeps_the_rules(
    postgres_server: postgres.Server, orchestrator_template: str
) -> None:
    """OR-4, OR-5, OR-120, OR-122, OR-132, OR-136, OR-150, OR-181."""

    class Bound(Interleavings):
        server = postgres_server
        template = orchestrator_template

    run_state_machine_as_test(
        Bound,
        settings=settings(
            max_examples=10,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[
                HealthCheck.too_slow,
                HealthCheck.filter_too_much,
                HealthCheck.data_too_large,
            ],
        ),
    )
