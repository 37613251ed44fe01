"""Coalescing for slow browsers: no hole, whatever the moment of the cut (PD-71, PD-72)."""

import random
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from kici.platform.live.hub import Hub, Published, merge_events
from kici.platform.live.outgoing import Outgoing
from kici.platform.projection.queries import Applied
from kici.protocol.browser_v1 import Resync, RunChanged, decode_to_browser
from tests.support import platform as kit

RUNS = [kit.run_projection() for _ in range(4)]
JOBS = {run.run_id: [kit.job_projection(run.run_id) for _ in range(2)] for run in RUNS}


def change(seq: int, chance: random.Random) -> RunChanged:
    run = chance.choice(RUNS)
    jobs = [
        kit.job_projection(run.run_id, job.job_id, attempt=seq)
        for job in JOBS[run.run_id]
        if chance.random() < 0.5
    ]
    whole = kit.run_projection(run.run_id, job_count=seq) if chance.random() < 0.6 else None
    return RunChanged(
        org_id=kit.ORG, seq=seq, run_id=run.run_id, is_new=False, run=whole, jobs=jobs, steps=[], events=[]
    )


def state_after(events: Iterable[RunChanged]):
    """What a browser's cache holds."""
    state: dict[str, object] = {}
    for event in events:
        if event.run is not None:
            state[event.run_id] = event.run
        for job in event.jobs:
            state[job.job_id] = job
    return state


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(1, 25), data=st.data())
def test_a_cut_anywhere_and_a_replay_lead_to_the_full_state(seed: int, count: int, data: st.DataObject):
    chance = random.Random(seed)
    events = [change(seq, chance) for seq in range(100, 100 + count)]
    merged = merge_events(events)
    numbers = [event.seq for event in merged]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == events[-1].seq
    assert len({event.run_id for event in merged}) == len(merged)
    assert state_after(merged) == state_after(events)
    cut = data.draw(st.integers(0, len(merged)))
    received = merged[:cut]
    last = received[-1].seq if received else 99
    replayed = [event for event in events if event.seq > last]
    assert state_after([*received, *replayed]) == state_after(events)


def test_too_much_to_merge_becomes_a_resync():
    outgoing = Outgoing()
    for seq in range(1, 2_000):
        run = kit.run_projection(commit_message="x" * 2_000)
        outgoing.org_event(
            Published(
                RunChanged(
                    org_id=kit.ORG,
                    seq=seq,
                    run_id=run.run_id,
                    is_new=True,
                    run=run,
                    jobs=[],
                    steps=[],
                    events=[],
                )
            )
        )
    frames = []
    while batch := outgoing.take():
        frames += [decode_to_browser(text) for text in batch]
    assert isinstance(frames[0], Resync)
    assert sum(len(str(frame)) for frame in frames) < 5 << 20
    assert max(frame.seq for frame in frames if isinstance(frame, Resync | RunChanged)) == 1_999


def test_stale_parts_never_reach_browsers():
    hub = Hub(kit.TestClock())
    run, job = RUNS[0], JOBS[RUNS[0].run_id][0]
    items = [kit.item(5, run.run_id, run=run, jobs=[job])]
    nothing = Applied(runs={}, jobs=frozenset(), steps=frozenset(), events=frozenset())
    before = hub.seq(kit.ORG)
    hub.projection_applied(kit.ORG, items, nothing)
    assert hub.seq(kit.ORG) == before
    hub.projection_applied(
        kit.ORG,
        items,
        Applied(runs={}, jobs=frozenset({job.job_id}), steps=frozenset(), events=frozenset()),
    )
    (published,) = hub.since(kit.ORG, before) or []
    assert isinstance(published.event, RunChanged)
    assert (published.event.run, published.event.jobs) == (None, [job])


def test_the_ring_is_bounded():
    hub = Hub(kit.TestClock())
    first = hub.seq(kit.ORG)
    for _ in range(10_500):
        hub.orchestrator_changed(kit.ORG, "default", True)
    assert hub.since(kit.ORG, first) is None
    assert hub.since(kit.ORG, first + 499) is None
    assert len(hub.since(kit.ORG, first + 500) or []) == 10_000
