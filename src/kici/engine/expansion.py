"""What joins a run after it has begun: the jobs that generators make (AU-43…45, OR-136). Pure."""

from collections.abc import Sequence

from msgspec import Struct, structs

from kici.engine.graph import (
    ALWAYS,
    SUCCESS,
    InvalidGraph,
    Kind,
    PlannedJob,
    PlannedNeed,
    check_circles,
    edges_of,
    needs_init,
    variants_of,
    with_needs,
)
from kici.spec.lock import LockJob, Need

MAX_GENERATED = 100


class Node(Struct, frozen=True, kw_only=True):
    """A job of a run that has begun, as far as new ones may clash with it or need it."""

    name: str
    base: str
    kind: Kind
    position: int
    needs: tuple[PlannedNeed, ...]
    group: str = ""  # that it belongs to, or (dynamic) makes

    @classmethod
    def of(cls, planned: PlannedJob) -> "Node":
        return cls(
            name=planned.name,
            base=planned.variant.base_job_name,
            kind=planned.kind,
            position=planned.position,
            needs=planned.needs,
            group=planned.target if planned.kind == "dynamic" else planned.job.group,
        )


class Expansion(Struct, frozen=True, kw_only=True):
    """What a generator adds. Indexes count on from the nodes that were there: `added[0]` is `len(nodes)`.

    `edges`: further needs of nodes that were there, as (index, need)."""

    added: list[PlannedJob]
    edges: list[tuple[int, PlannedNeed]]


def expand_generated(jobs: Sequence[LockJob], generator: int, nodes: Sequence[Node]) -> Expansion:
    """The jobs that `nodes[generator]` made, as rows of the run, and the edges of those who need its group
    (AU-43, AU-45). Raises InvalidGraph or InvalidMatrix: the generator then fails as a whole."""
    made_by = nodes[generator]
    group = made_by.group
    if len(jobs) > MAX_GENERATED:
        raise InvalidGraph(f"the generator made {len(jobs)} jobs; {MAX_GENERATED} are allowed")
    _check_names(jobs, nodes)
    added: list[PlannedJob] = []
    wanted: list[Sequence[Need]] = []
    children: dict[str, list[int]] = {}
    members: dict[str, list[int]] = {}
    generators = {node.group: index for index, node in enumerate(nodes) if node.kind == "dynamic"}
    for index, node in enumerate(nodes):
        if node.kind == "job":
            children.setdefault(node.base, []).append(index)
            if node.group:
                members.setdefault(node.group, []).append(index)
    for job in jobs:
        for row in variants_of(made_by.position, structs.replace(job, group=group, generated=True)):
            children.setdefault(job.name, []).append(len(nodes) + len(added))
            added.append(row)
            wanted.append(job.needs)
    for job in jobs:
        for need in job.needs:
            if need.name and need.name not in children:
                raise InvalidGraph(f"job {job.name!r} needs {need.name!r}, which does not exist")
            if not need.name and need.group == group:
                raise InvalidGraph(f"job {job.name!r} needs the group {group!r}, of which it is one")
            if not need.name and need.group not in generators:
                raise InvalidGraph(
                    f"job {job.name!r} needs the group {need.group!r}, which no generator makes"
                )
    rows = [
        with_needs(
            row,
            (
                PlannedNeed(upstream=generator, run_on=SUCCESS),
                *(edge for _, edge in edges_of(asked, children, generators, members)),
            ),
        )
        for row, asked in zip(added, wanted, strict=True)
    ]
    edges = [
        (
            index,
            PlannedNeed(upstream=len(nodes) + place, run_on=need.group_run_on, group=group),
        )
        for index, node in enumerate(nodes)
        for need in node.needs
        if need.upstream == generator and need.group_run_on
        for place in range(len(rows))
    ]
    edges += [
        (index, PlannedNeed(upstream=len(nodes) + place, run_on=ALWAYS))
        for index, node in enumerate(nodes)
        if node.kind == "hooks"
        for place in range(len(rows))
    ]
    _check_expanded(nodes, rows, edges)
    return Expansion(added=rows, edges=edges)


def _check_names(jobs: Sequence[LockJob], nodes: Sequence[Node]) -> None:
    taken = {node.base for node in nodes} | {node.name for node in nodes}
    for job in jobs:
        if job.type == "dynamic" or needs_init(job):
            raise InvalidGraph(
                f"the generated job {job.name!r} has a function, which only a job in the file may"
            )
        if not job.name or job.name.startswith("__"):
            raise InvalidGraph(f"a generated job cannot be named {job.name!r}")
        if job.name in taken:
            raise InvalidGraph(f"the run has a job named {job.name!r} already")
        taken.add(job.name)


def _check_expanded(
    nodes: Sequence[Node], added: Sequence[PlannedJob], edges: Sequence[tuple[int, PlannedNeed]]
) -> None:
    names = [node.name for node in nodes] + [row.name for row in added]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidGraph(f"two jobs are named {twice!r}")
    waiting: dict[str, set[str]] = {name: set() for name in names}
    for index, row in enumerate([*nodes, *added]):
        waiting[names[index]] = {names[need.upstream] for need in row.needs}
    for index, need in edges:
        waiting[names[index]].add(names[need.upstream])
    check_circles(waiting)
