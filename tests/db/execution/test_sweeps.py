"""Every clock that may run out, and everything a crash may leave behind."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from kici.orchestrator.runs.attention import Attention
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.repair import after_restart, repair
from kici.orchestrator.runs.sweeps import AgentSession, Sweeps
from kici.runtime.database import text
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import acting, rows
from tests.db.execution.acting import Held, Woken, dispatch, execution, report
from tests.db.execution.rows import Job
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


class SetClock:
    ms = 1_000_000_000

    def now_ms(self) -> int:
        return self.ms


class Bench:
    """An execution, its sweeps, and one agent."""

    def __init__(self, db: Database, **limits: int) -> None:
        self.db = db
        self.engine = db.engine
        self.ex = execution(db, **limits)
        self.closed: list[AgentSession] = []
        self.sweeps = Sweeps(self.ex, self.closed.extend)

    async def set_back(self, column: str, *, minutes: int = 60, table: str = "execution_jobs") -> None:
        """The clock of every row that has it ran out long ago."""
        async with self.engine.begin() as tx:
            await tx.execute(
                text(
                    f"UPDATE {table} SET {column} = now() - make_interval(mins => :minutes)"
                    f" WHERE {column} IS NOT NULL AND completed_at IS NULL"
                ),
                {"minutes": minutes},
            )

    async def started(self, run: rows.Run) -> Held:
        (job,) = await dispatch(self.db, await rows.add_agent(self.engine, f"agent-of-{run.id}"))
        assert job.run_id == run.id
        await report(self.ex, job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING))
        return job

    async def job(self, job_id: str) -> dict[str, Any]:
        return await rows.job(self.engine, job_id)

    async def events(self) -> list[str]:
        found = await rows.fetch(self.engine, "SELECT event_type FROM run_events ORDER BY id")
        return [row["event_type"].removeprefix("orchestrator.") for row in found]


@pytest.fixture
def bench(orchestrator_db: Database) -> Bench:
    return Bench(orchestrator_db)


async def test_nothing_is_due_in_a_healthy_system(bench: Bench) -> None:
    await bench.started(await rows.add_run(bench.engine))
    await rows.add_run(
        bench.engine, [Job("a"), Job("m", needs=[("a", "always")], children=3, max_parallel=1)]
    )
    assert (await bench.sweeps.quick(), await bench.sweeps.scan()) == (0, 0)


async def test_an_unanswered_dispatch_is_taken_back(bench: Bench) -> None:
    """OR-150, AG-15, AG-16."""
    run = await rows.add_run(bench.engine)
    (job,) = await dispatch(bench.db, await rows.add_agent(bench.engine))
    await bench.set_back("ack_deadline")
    assert await bench.sweeps.quick() == 1
    row = await bench.job(run["build"])
    assert (row["status"], row["agent_id"], row["attempt"], row["infra_failures"]) == ("queued", None, 1, 1)
    assert bench.closed == [(job.agent.agent_id, job.agent.session_id)]
    assert isinstance(bench.ex.wakeups, Woken)
    assert "queue" in bench.ex.wakeups.taken()
    assert await bench.sweeps.quick() == 0


async def test_an_agent_that_stays_away_costs_an_attempt_then_the_job(orchestrator_db: Database) -> None:
    """OR-151, AG-23."""
    bench = Bench(orchestrator_db, max_job_attempts=2)
    run = await rows.add_run(bench.engine)
    for attempt in (1, 2):
        job = await bench.started(run)
        assert job.attempt == attempt
        async with bench.engine.begin() as tx:
            await tx.execute(
                text(
                    "UPDATE execution_jobs SET status = 'recovering', recovery_deadline = now() - interval '1 s'"
                )
            )
        async with bench.engine.begin() as tx:
            await tx.execute(text("DELETE FROM agents"))
        assert await bench.sweeps.quick() == 1
    row = await bench.job(run["build"])
    assert row["status"] == "failed"
    assert row["error_message"].startswith("agent did not return in the recovery window")
    assert (await bench.events()).count("job.orphan_recovered") == 2
    steps = await rows.fetch(bench.engine, "SELECT attempt, status FROM execution_steps ORDER BY 1")
    assert [tuple(step.values()) for step in steps] == [(1, "cancelled"), (2, "failed")]


async def test_a_job_waits_for_an_agent_only_so_long(bench: Bench) -> None:
    """OR-149."""
    run = await rows.add_run(
        bench.engine, [Job("gpu", runs_on=["gpu"]), Job("after", needs=[("gpu", "on-success")])]
    )
    await bench.set_back("queue_expires_at")
    assert await bench.sweeps.quick() == 1
    row = await bench.job(run["gpu"])
    expected = "Queue timeout expired (job was never dispatched to an agent)"
    assert (row["status"], row["error_message"]) == ("timed_out_stale", expected)
    assert row["init_failure"]["category"] == "no_agent"
    found = await rows.run(bench.engine, run.id)
    assert (found["status"], found["failure_reason"]) == ("failed", expected)
    assert found["init_failure"]["category"] == "no_agent"
    assert (await bench.job(run["after"]))["status"] == "skipped"
    assert "job.queue_expired" in await bench.events()


async def test_without_a_queue_limit_jobs_wait_for_ever(orchestrator_db: Database) -> None:
    """OR-149."""
    bench = Bench(orchestrator_db, queue_timeout_ms=0)
    run = await rows.add_run(bench.engine, [Job("a"), Job("b", needs=[("a", "always")])])
    job = await bench.started(run)
    await report(bench.ex, job.job(JobStatus.SUCCESS))
    row = await bench.job(run["b"])
    assert (row["status"], row["queue_expires_at"]) == ("queued", None)


async def test_a_silent_agent_is_let_go_and_its_job_waits_for_it(bench: Bench) -> None:
    run = await rows.add_run(bench.engine)
    job = await bench.started(run)
    await bench.set_back("last_heartbeat_at", minutes=3)
    assert await bench.sweeps.scan() == 1
    assert bench.closed == [(job.agent.agent_id, job.agent.session_id)]
    assert (await bench.job(run["build"]))["status"] == "recovering"
    assert "job.stale_detected" in await bench.events()
    assert await bench.sweeps.scan() == 0
    await bench.set_back("recovery_deadline")
    assert await bench.sweeps.quick() == 1
    row = await bench.job(run["build"])
    assert (row["status"], row["attempt"], row["infra_failures"]) == ("queued", 1, 1)


async def test_a_process_that_could_not_listen_blames_no_agent(bench: Bench) -> None:
    """OR-160: after an outage of ours the clocks of agents begin anew."""
    run = await rows.add_run(bench.engine)
    await bench.started(run)
    clock = SetClock()
    sweeps = Sweeps(bench.ex, bench.closed.extend, Attention(clock))
    clock.ms += 600_000
    await bench.set_back("last_heartbeat_at")
    assert await sweeps.scan() == 0
    assert (await bench.job(run["build"]))["status"] == "running"
    assert bench.closed == []


async def test_a_silent_job_ends_as_timed_out_when_no_try_is_left(orchestrator_db: Database) -> None:
    """OR-160, OR-161."""
    bench = Bench(orchestrator_db, max_job_attempts=1)
    run = await rows.add_run(bench.engine)
    await bench.started(run)
    await bench.set_back("last_heartbeat_at", minutes=1)
    assert await bench.sweeps.scan() == 0  # 120 s are allowed
    await bench.set_back("last_heartbeat_at", minutes=3)
    assert await bench.sweeps.scan() == 1
    row = await bench.job(run["build"])
    assert row["status"] == "timed_out_stale"
    assert row["error_message"].startswith("No heartbeat received for 180")
    found = await rows.run(bench.engine, run.id)
    assert (found["status"], found["timeout_reason"]) == ("failed", "stale")
    assert "job.stale_detected" in await bench.events()
    assert isinstance(bench.ex.wakeups, Woken)
    assert "cancel" in bench.ex.wakeups.taken()  # its agent, should it live, is told to stop


async def test_a_life_sign_keeps_a_job(bench: Bench) -> None:
    """OR-160, AG-26."""
    from kici.protocol.agent_v1 import JobHeartbeat

    job = await bench.started(await rows.add_run(bench.engine))
    await bench.set_back("last_heartbeat_at")
    beat = JobHeartbeat(run_id=job.run_id, job_id=job.job_id, attempt=job.attempt, timestamp=1)
    assert await report(bench.ex, job.report(beat)) == []
    assert await bench.sweeps.scan() == 0


async def test_a_job_past_its_timeout_is_ended_when_its_agent_does_not(bench: Bench) -> None:
    """OR-162."""
    run = await rows.add_run(bench.engine, [Job("slow", timeout_ms=1000)])
    job = await bench.started(run)
    await bench.set_back("started_at", minutes=2)
    assert await bench.sweeps.scan() == 0  # 1 s + 2 life signs of 60 s
    await bench.set_back("started_at", minutes=3)
    assert await bench.sweeps.scan() == 1
    found = await rows.run(bench.engine, run.id)
    assert (found["status"], found["timeout_reason"]) == ("failed", "job_timeout")
    assert await report(bench.ex, job.job(JobStatus.SUCCESS)) == ["job_ended"]


async def test_a_run_past_its_deadline_is_cancelled_and_says_so(bench: Bench) -> None:
    """OR-123, OR-162."""
    run = await rows.add_run(bench.engine, [Job("a"), Job("b", needs=[("a", "always")])], timeout_ms=60_000)
    job = await bench.started(run)
    assert await bench.sweeps.quick() == 0
    await bench.set_back("deadline_at", table="execution_runs")
    assert await bench.sweeps.quick() == 1
    assert await rows.statuses(bench.engine, run) == {"a": "cancelling", "b": "cancelled"}
    assert await bench.sweeps.quick() == 0
    await report(bench.ex, job.job(JobStatus.CANCELLED))
    found = await rows.run(bench.engine, run.id)
    assert (found["status"], found["timeout_reason"]) == ("cancelled", "workflow_timeout")
    assert found["failure_reason"] == "workflow_timeout: the run took longer than 1m"


async def test_a_stuck_cancel_is_forced_then_ended(bench: Bench) -> None:
    """OR-163."""
    run = await rows.add_run(bench.engine)
    await bench.started(run)
    async with bench.ex.change() as change:
        await cancel_runs(change, {run.id: Request(reason="enough", by="Ann")})
    await bench.set_back("cancel_sent_at", minutes=11)
    assert await bench.sweeps.scan() == 0  # 30 s of grace, 10 min of hooks, 1 min
    await bench.set_back("cancel_sent_at", minutes=12)
    assert await bench.sweeps.scan() == 1
    row = await bench.job(run["build"])
    assert (row["status"], row["cancel_force"]) == ("cancelling", True)
    assert await bench.sweeps.scan() == 0
    await bench.set_back("cancel_sent_at", minutes=2)
    assert await bench.sweeps.scan() == 1
    assert (await rows.run(bench.engine, run.id))["status"] == "cancelled"


async def test_a_cancelled_job_whose_agent_is_gone_ends_cancelled(bench: Bench) -> None:
    """OR-171."""
    run = await rows.add_run(bench.engine)
    await bench.started(run)
    async with bench.ex.change() as change:
        await cancel_runs(change, {run.id: Request(reason="enough", by="Ann")})
    await bench.set_back("last_heartbeat_at")
    assert await bench.sweeps.scan() == 1
    assert (await rows.run(bench.engine, run.id))["status"] == "cancelled"


async def test_a_restart_gives_everything_its_full_time_again(bench: Bench) -> None:
    """OR-160, AG-15, AG-25."""
    runs = [await rows.add_run(bench.engine) for _ in range(2)]
    job = await bench.started(runs[0])
    await dispatch(bench.db, await rows.add_agent(bench.engine, "agent-2"))  # sent, not answered
    for column in ("last_heartbeat_at", "ack_deadline"):
        await bench.set_back(column)
    await after_restart(bench.ex)
    await bench.sweeps.scan()
    assert await bench.sweeps.quick() == 0
    first, second = [await bench.job(run["build"]) for run in runs]
    assert (first["status"], second["status"], second["attempt"]) == ("recovering", "queued", 1)
    found = await rows.fetch(bench.engine, "SELECT instance_id FROM agents")
    assert [row["instance_id"] for row in found] == [None, None]
    assert await report(bench.ex, job.job(JobStatus.SUCCESS)) == []
    await after_restart(bench.ex)  # twice is once
    assert (await bench.job(runs[1]["build"]))["attempt"] == 1


async def test_wrong_counters_are_found_and_set_right(bench: Bench) -> None:
    """OR-132."""
    jobs = [
        Job("a"),
        Job("b", needs=[("a", "on-success")]),
        Job("m", needs=[("a", "always")], children=2, max_parallel=1),
    ]
    run = await rows.add_run(bench.engine, jobs)
    job = await bench.started(run)
    await report(bench.ex, job.step(0, StepStatus.SUCCESS))
    async with bench.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET needs_pending = 7 WHERE status = 'pending'"))
        await tx.execute(
            text("UPDATE execution_jobs SET status = 'success', completed_at = now() WHERE id = :id"),
            {"id": job.job_id},
        )
    assert await repair(bench.ex) > 0
    assert await rows.statuses(bench.engine, run) == {
        "a": "success",
        "b": "queued",
        "m (0)": "queued",
        "m (1)": "pending",
    }
    assert await repair(bench.ex) == 0
    await acting.invariants(bench.db, [run.id])


async def test_a_run_that_forgot_to_end_is_ended(bench: Bench) -> None:
    """OR-126, OR-161."""
    run = await rows.add_run(bench.engine)
    async with bench.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET status = 'failed', completed_at = now()"))
    assert await repair(bench.ex) == 1
    assert (await rows.run(bench.engine, run.id))["status"] == "failed"
    assert "run.orphan_finalized" in await bench.events()
    assert await repair(bench.ex) == 0


async def test_the_queue_is_measured_by_state_and_label(bench: Bench) -> None:
    """OP-30, OP-31."""
    for labels in (["linux", "gpu"], ["linux"]):
        await rows.add_run(bench.engine, [Job("a", runs_on=labels)])
    await dispatch(bench.db, await rows.add_agent(bench.engine, labels=["linux", "gpu"]))
    await bench.sweeps.measure_queue()
    depth, by_label = bench.ex.metrics.queue_depth, bench.ex.metrics.queue_depth_by_label
    assert (_value(depth, "pending"), _value(depth, "dispatched")) == (1, 1)
    assert (_value(by_label, "pending", "linux"), _value(by_label, "dispatched", "gpu")) == (1, 1)
    async with bench.engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET status = 'cancelled', completed_at = now()"))
    await bench.sweeps.measure_queue()
    assert (_value(depth, "pending"), _value(by_label, "dispatched", "gpu")) == (0, 0)


def _value(gauge: Any, *labels: str) -> float:
    return gauge.labels(*labels)._value.get()


async def test_a_long_queue_is_warned_of_once_until_it_is_short_again(orchestrator_db: Database) -> None:
    """OR-148."""
    bench = Bench(orchestrator_db, queue_backpressure_threshold=1)
    for _ in range(2):
        await rows.add_run(bench.engine)
    with capture_logs() as lines:
        for _ in range(4):
            await bench.sweeps.measure_queue()
        assert [line["event"] for line in lines] == ["queue.backpressure.sustained"]
        assert (lines[0]["waiting"], lines[0]["threshold"]) == (2, 1)
        await dispatch(bench.db, await rows.add_agent(bench.engine))
        await bench.sweeps.measure_queue()
        await rows.add_run(bench.engine)
        await bench.sweeps.measure_queue()
        assert len(lines) == 1
        await bench.sweeps.measure_queue()
        assert len(lines) == 2
