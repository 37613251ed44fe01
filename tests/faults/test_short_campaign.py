"""A short, fixed selection of the fault suite; `make faults` runs the long one."""

import pytest

from tests.faults.campaign import Fault, campaign, plan

SELECTION = [
    Fault("kill", "orchestrator", "agent", "job.dispatch", "before"),
    Fault("kill", "orchestrator", "agent", "job.ack", "after"),
    Fault("kill", "agent", "agent", "LOG_BLOCK", "after"),
    Fault("kill", "orchestrator", "agent", "step.status", "before"),
    Fault("cut", "", "agent", "job.status", "before"),
    Fault("kill", "platform", "platform", "projection.batch", "after"),
    Fault("kill", "postgres", seconds=0.4),
    Fault("pause", "orchestrator", seconds=1.0),
]


@pytest.mark.process
@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_nothing_is_lost_or_doubled():
    """OR-5, AG-20, AG-133: every accepted delivery has its run, every job its one execution per attempt, and the
    final record and log equal an undisturbed run's."""
    async with campaign(seed=1) as running:
        report = await running.run(SELECTION, print)
    assert report.verdict.problems == [], "\n".join(report.lines())
    assert report.verdict.runs == len(SELECTION) + 1
    assert report.kills.total() == 6


def test_a_plan_is_a_pure_function_of_its_seed():
    assert plan(7, 40) == plan(7, 40)
    assert plan(7, 40) != plan(8, 40)
    assert sum(fault.action == "kill" for fault in plan(7, 40)) == 40
