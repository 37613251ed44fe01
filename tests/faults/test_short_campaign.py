"""A short, fixed selection of the fault suite; `make faults` runs the long one."""

import pytest

from tests.faults.campaign import campaign
from tests.faults.plan import Fault, Sending, plan, points

RELAY = Sending("relay")

SELECTION = [
    Fault("kill", "orchestrator", "agent", "job.dispatch", "before", then=(RELAY, RELAY)),
    Fault("kill", "agent", "agent", "LOG_BLOCK", "after", sends=(Sending("direct"),)),
    Fault("cut", "", "agent", "job.status", "before", sends=(RELAY,)),
    Fault("kill", "platform", "platform", "projection.batch", "after", cancel_after=0.1),
    Fault("kill", "runner", kind="step.status", when="after", nth=2),
    Fault("kill", "postgres", seconds=0.4, sends=(RELAY,)),
    Fault("pause", "orchestrator", seconds=1.0, sends=(Sending("direct", "groups"),) * 2),
    Fault("kill", "orchestrator", "agent", "blobs.half", sends=(Sending("direct", "dressed"),)),
    Fault("kill", "agent", "agent", "agent.response", "before", sends=(Sending("direct", "dressed"),)),
    Fault("kill", "orchestrator", "agent", "job.status", nth=3, sends=(Sending("relay", "shapes"),)),
    Fault("kill", "postgres", "platform", "remote.trigger", "after", sends=(Sending("remote", "check"),)),
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
    assert report.verdict.runs >= len(report.accepted) >= len(SELECTION) + 3
    assert report.kills.total() == 9


def test_a_plan_is_a_pure_function_of_its_seed():
    assert plan(7, 40) == plan(7, 40)
    assert plan(7, 40) != plan(8, 40)
    assert sum(fault.kills for fault in plan(7, 40)) in {40, 41}


def test_a_long_plan_strikes_at_every_point_and_every_process():
    """Before and after each message kind, each end of its link."""
    faults = plan(1, 300)
    assert {fault.point for fault in points()} <= {fault.point for fault in faults}
    killed = {fault.target for fault in faults if fault.action == "kill"}
    assert killed == {"orchestrator", "platform", "agent", "postgres", "runner", "zygote", "supervisor"}
    sends = {sending for fault in faults for sending in fault.sends}
    assert {sending.route for sending in sends} == {
        "push",
        "direct",
        "relay",
        "remote",
        "rerun",
        "registration",
    }
    assert {sending.scenario for sending in sends} == {
        "faults",
        "shapes",
        "dressed",
        "groups",
        "apply",
        "check",
    }
