"""The jobs of a run with their edges, every matrix expanded (OR-130…134). Pure."""

from collections.abc import Sequence
from typing import ClassVar

from msgspec import Struct

from kici.engine.matrix import Variant, expand
from kici.spec.errors import InvalidInput
from kici.spec.lock import LockJob


class InvalidGraph(InvalidInput):
    """The run fails with category `lock_resolution`: the compiler would have refused this lock file."""

    code: ClassVar[str] = "invalid_graph"


class PlannedNeed(Struct, frozen=True, kw_only=True):
    upstream: int  # index into the plan
    run_on: tuple[str, ...]  # upstream statuses that satisfy the edge


class PlannedJob(Struct, frozen=True, kw_only=True):
    """`position` counts jobs as written; the variants of one share it."""

    position: int
    job: LockJob
    variant: Variant
    needs: tuple[PlannedNeed, ...]


def check_graph(jobs: Sequence[LockJob]) -> None:
    """Raises InvalidGraph for a duplicate name, an unknown upstream or a cycle."""
    by_name: dict[str, LockJob] = {}
    for job in jobs:
        if job.type != "static":
            raise InvalidGraph(f"job {job.name!r} is generated at run time, which this version cannot do")
        if job.name in by_name:
            raise InvalidGraph(f"two jobs are named {job.name!r}")
        by_name[job.name] = job
    for job in jobs:
        for need in job.needs:
            if not need.name:
                raise InvalidGraph(
                    f"job {job.name!r} needs the group {need.group!r}, which no job belongs to"
                )
            if need.name not in by_name:
                raise InvalidGraph(f"job {job.name!r} needs {need.name!r}, which does not exist")
    # Remove jobs whose upstreams are all gone; what remains stands on a cycle or behind one.
    waiting = {job.name: {need.name for need in job.needs} for job in jobs}
    ready = [name for name, upstreams in waiting.items() if not upstreams]
    downstreams: dict[str, list[str]] = {name: [] for name in by_name}
    for name, upstreams in waiting.items():
        for upstream in upstreams:
            downstreams[upstream].append(name)
    while ready:
        done = ready.pop()
        del waiting[done]
        for name in downstreams[done]:
            waiting[name].discard(done)
            if not waiting[name]:
                ready.append(name)
    if waiting:
        raise InvalidGraph(f"jobs need each other in a circle: {' → '.join(_cycle(waiting))}")


def _cycle(waiting: dict[str, set[str]]) -> list[str]:
    """One circle among jobs that all wait for another of them."""
    path = [min(waiting)]
    while True:
        following = min(waiting[path[-1]])
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def plan(jobs: Sequence[LockJob]) -> list[PlannedJob]:
    """All jobs to run, in order of the lock file, matrices expanded; `needs: <base>` waits for every
    child. Raises InvalidGraph or InvalidMatrix."""
    check_graph(jobs)
    expanded = [(position, job, variant) for position, job in enumerate(jobs) for variant in expand(job)]
    children: dict[str, list[int]] = {}
    for index, (_, job, _) in enumerate(expanded):
        children.setdefault(job.name, []).append(index)
    return [
        PlannedJob(
            position=position,
            job=job,
            variant=variant,
            needs=tuple(
                PlannedNeed(upstream=upstream, run_on=run_on)
                for name, run_on in _edges(job).items()
                for upstream in children[name]
            ),
        )
        for position, job, variant in expanded
    ]


def _edges(job: LockJob) -> dict[str, tuple[str, ...]]:
    """Upstream → statuses that satisfy. One upstream named twice must satisfy both edges."""
    edges: dict[str, tuple[str, ...]] = {}
    for need in job.needs:
        earlier = edges.get(need.name)
        run_on = sorted(need.run_on if earlier is None else set(earlier) & set(need.run_on))
        edges[need.name] = tuple(run_on)
    return edges
