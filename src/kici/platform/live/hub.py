"""Org events for browsers: one sequence per org, a ring to replay from, subscribers.

Sequence numbers start at the process's start time in ms, so those of an earlier process are always
older than the ring and lead to a resync, never to a silent gap. They mean nothing to another replica:
a browser that lands there is resynced too.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from kici.platform.projection.queries import Applied
from kici.protocol.browser_v1 import OrchestratorStatus, RunChanged, encode
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.clock import Clock

RING_EVENTS = 10_000
RING_MS = 5 * 60_000

OrgEvent = RunChanged | OrchestratorStatus


class Published:
    """An event with its frame, encoded once for everybody."""

    __slots__ = ("_text", "event")

    def __init__(self, event: OrgEvent) -> None:
        self.event = event
        self._text: str | None = None

    @property
    def text(self) -> str:
        if self._text is None:
            self._text = encode(self.event).decode()
        return self._text


class Subscriber(Protocol):
    def org_event(self, published: Published) -> None:
        """Must not block."""
        ...


@dataclass(slots=True)
class _Org:
    seq: int
    ring: deque[tuple[int, Published]]  # (at ms, event)
    ring_after: int  # every event after this seq is in the ring
    subscribers: set[Subscriber]


class Hub:
    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._first_seq = clock.now_ms()
        self._orgs: dict[str, _Org] = {}

    def _org(self, org_id: str) -> _Org:
        org = self._orgs.get(org_id)
        if org is None:
            org = _Org(seq=self._first_seq, ring=deque(), ring_after=self._first_seq, subscribers=set())
            self._orgs[org_id] = org
        return org

    def seq(self, org_id: str) -> int:
        return self._org(org_id).seq

    def listeners(self, org_id: str) -> int:
        return len(self._org(org_id).subscribers)

    def subscribe(self, org_id: str, subscriber: Subscriber) -> None:
        self._org(org_id).subscribers.add(subscriber)

    def unsubscribe(self, org_id: str, subscriber: Subscriber) -> None:
        self._org(org_id).subscribers.discard(subscriber)

    def since(self, org_id: str, seq: int) -> list[Published] | None:
        """Events after `seq`; None when the ring no longer has them all (or the number is not ours)."""
        org = self._org(org_id)
        self._trim(org)
        if not org.ring_after <= seq <= org.seq:
            return None
        return [published for _, published in org.ring if published.event.seq > seq]

    def _trim(self, org: _Org) -> None:
        oldest = self._clock.now_ms() - RING_MS
        while org.ring and (len(org.ring) > RING_EVENTS or org.ring[0][0] < oldest):
            org.ring_after = org.ring.popleft()[1].event.seq

    def _publish(self, org: _Org, event: OrgEvent) -> None:
        published = Published(event)
        org.ring.append((self._clock.now_ms(), published))
        self._trim(org)
        for subscriber in org.subscribers:
            subscriber.org_event(published)

    def orchestrator_changed(self, org_id: str, cluster_name: str, connected: bool) -> None:
        org = self._org(org_id)
        org.seq += 1
        event = OrchestratorStatus(
            org_id=org_id, seq=org.seq, connected=connected, cluster_name=cluster_name
        )
        self._publish(org, event)

    def projection_applied(self, org_id: str, items: Sequence[ProjectionItem], applied: Applied) -> None:
        """One event per run of the batch, with the newest snapshots that won (PD-33)."""
        org = self._org(org_id)
        for merged in merge_items(items, applied):
            org.seq += 1
            event = RunChanged(
                org_id=org_id,
                seq=org.seq,
                run_id=merged.run_id,
                is_new=applied.runs.get(merged.run_id, False),
                run=merged.run,
                jobs=merged.jobs,
                steps=merged.steps,
                events=merged.events,
            )
            self._publish(org, event)


def merge_items(items: Iterable[ProjectionItem], applied: Applied) -> list[ProjectionItem]:
    """What changed, one item per run in order of first appearance; stale snapshots left out."""
    runs: dict[str, list[ProjectionItem]] = {}
    for item in sorted(items, key=lambda item: item.rev):
        runs.setdefault(item.run_id, []).append(item)
    merged: list[ProjectionItem] = []
    for run_id, parts in runs.items():
        run = next((part.run for part in reversed(parts) if part.run is not None), None)
        jobs = {job.job_id: job for part in parts for job in part.jobs if job.job_id in applied.jobs}
        steps = {
            (step.job_id, step.attempt, step.step_index): step
            for part in parts
            for step in part.steps
            if (step.job_id, step.attempt, step.step_index) in applied.steps
        }
        events = [event for part in parts if (run_id, part.rev) in applied.events for event in part.events]
        if run is not None and run_id not in applied.runs:
            run = None
        if run is not None or jobs or steps or events:
            merged.append(
                ProjectionItem(
                    rev=parts[-1].rev,
                    run_id=run_id,
                    run=run,
                    jobs=list(jobs.values()),
                    steps=list(steps.values()),
                    events=events,
                )
            )
    return merged


def merge_events(events: Sequence[RunChanged]) -> list[RunChanged]:
    """Coalesces events that wait for one slow browser: one per run, newest objects.

    A browser that is cut off in the middle asks for everything after the last `seq` it saw. So each
    merged event carries the highest number up to which all events have been sent by then: one less than
    the first number of the next merged event. What is replayed on top is repetition, never a hole.
    """
    by_run: dict[str, list[RunChanged]] = {}
    for event in events:
        by_run.setdefault(event.run_id, []).append(event)
    groups = list(by_run.values())  # in order of their first event
    merged: list[RunChanged] = []
    for place, parts in enumerate(groups):
        jobs = {job.job_id: job for part in parts for job in part.jobs}
        steps = {(s.job_id, s.attempt, s.step_index): s for part in parts for s in part.steps}
        merged.append(
            RunChanged(
                org_id=parts[0].org_id,
                seq=groups[place + 1][0].seq - 1 if place + 1 < len(groups) else events[-1].seq,
                run_id=parts[0].run_id,
                is_new=any(part.is_new for part in parts),
                run=next((part.run for part in reversed(parts) if part.run is not None), None),
                jobs=list(jobs.values()),
                steps=list(steps.values()),
                events=[event for part in parts for event in part.events],
            )
        )
    return merged
