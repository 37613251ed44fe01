"""What a generator's end adds to a run (AU-43…45, OR-136)."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.engine.expansion import MAX_GENERATED, Node, expand_generated
from kici.engine.graph import InvalidGraph, plan
from kici.engine.matrix import InvalidMatrix, expand_matrix
from kici.spec.lock import LockJob, LockWorkflow, Matrix, Need, SourceLocation
from kici.spec.states import JOB_TERMINAL

HERE = SourceLocation(file=".kici/workflows/ci.py", index=0)


def job(name: str, *needs: str | Need, **more: Any) -> LockJob:
    return LockJob(
        name=name,
        source=HERE,
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
        **more,
    )


def group(name: str, *run_on: str) -> Need:
    return Need(group=name, run_on=list(run_on) or ["success"])


def nodes(*jobs: LockJob, **more: Any) -> list[Node]:
    workflow = LockWorkflow(
        name="ci",
        source=HERE,
        content_hash="",
        compile_schema_version=1,
        triggers=[],
        jobs=list(jobs),
        **more,
    )
    return [Node.of(row) for row in plan(workflow)]


def place(found: Sequence[Node], name: str) -> int:
    return next(index for index, node in enumerate(found) if node.name == name)


def test_generated_jobs_join_with_their_edges_and_those_of_their_group() -> None:
    """AU-45."""
    there = nodes(
        job("lint"),
        job("scans", type="dynamic"),
        job("report", group("scans", "failed")),
        has_cleanup=True,
    )
    found = expand_generated(
        [job("scan", "lint", matrix=Matrix(values={"n": [1, 2]})), job("sum", "scan")], 1, there
    )
    assert [row.name for row in found.added] == ["scan (1)", "scan (2)", "sum"]
    assert all(row.job.generated and row.job.group == "scans" for row in found.added)
    first = len(there)
    assert [[need.upstream for need in row.needs] for row in found.added] == [
        [1, 0],
        [1, 0],
        [1, first, first + 1],
    ]
    assert [(row.fanout_index, row.fanout_total) for row in found.added] == [(0, 2), (1, 2), (0, 1)]
    report, hooks = place(there, "report"), place(there, "__hooks__ci")
    of_report = [edge for index, edge in found.edges if index == report]
    assert [(edge.upstream, edge.run_on, edge.group) for edge in of_report] == [
        (first + at, ("failed",), "scans") for at in range(3)
    ]
    of_hooks = [edge for index, edge in found.edges if index == hooks]
    assert [set(edge.run_on) for edge in of_hooks] == [set(JOB_TERMINAL)] * 3


def test_an_empty_group_adds_nothing() -> None:
    """AU-24, OR-137."""
    there = nodes(job("g", type="dynamic"), job("after", group("g")))
    found = expand_generated([], 0, there)
    assert (found.added, found.edges) == ([], [])


def test_a_group_that_is_there_already_can_be_needed() -> None:
    """AU-45."""
    there = nodes(job("early", type="dynamic"))
    first = expand_generated([job("a")], 0, there)
    later = [
        *there,
        *(Node.of(row) for row in first.added),
        *nodes(LockJob(name="late", type="dynamic", source=SourceLocation(file="ci.py", index=1))),
    ]
    found = expand_generated([job("b", group("early"))], 2, later)
    assert sorted(need.upstream for need in found.added[0].needs) == [0, 1, 2]


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("lint")], "already"),
        ([job("x"), job("x")], "already"),
        ([job("test (1)")], "already"),
        ([job("__init__")], "cannot be named"),
        ([job("x", "y"), job("y", "x")], "circle"),
        ([job("x", "report")], "circle"),
        ([job("x", group("scans"))], "of which it is one"),
        ([job("x", group("other"))], "no generator"),
        ([job("x", "nobody")], "does not exist"),
        ([job("x", dynamic_env=True)], "function"),
        ([job(f"x{n}") for n in range(MAX_GENERATED + 1)], "101 jobs; 100 are allowed"),
    ],
)
def test_what_cannot_join_is_refused_as_a_whole(jobs: list[LockJob], message: str) -> None:
    """AU-43, AU-45, OR-133, OR-136."""
    there = nodes(
        job("lint"),
        job("test", matrix=Matrix(values={"n": [1]})),
        job("scans", type="dynamic"),
        job("report", group("scans")),
    )
    with pytest.raises(InvalidGraph, match=message):
        expand_generated(jobs, 2, there)


@given(st.lists(st.lists(st.integers(0, 6), max_size=3), min_size=1, max_size=7))
def test_whatever_joins_can_run_to_its_end(wanted: list[list[int]]) -> None:
    """AU-45: generated jobs either join without a circle, or none of them does."""
    there = nodes(job("g", type="dynamic"), job("after", group("g")), has_cleanup=True)
    made = [
        job(f"j{at}", *{f"j{need}" for need in needs if need < len(wanted)})
        for at, needs in enumerate(wanted)
    ]
    try:
        found = expand_generated(made, 0, there)
    except InvalidGraph:
        return
    upstreams = [{need.upstream for need in node.needs} for node in [*there, *found.added]]
    for index, edge in found.edges:
        upstreams[index].add(edge.upstream)
    ended: set[int] = set()
    while ready := {at for at, needs in enumerate(upstreams) if at not in ended and needs <= ended}:
        ended |= ready
    assert len(ended) == len(there) + len(made)


def test_a_matrix_known_at_run_time_obeys_the_same_rules() -> None:
    """AU-40: exclude, include and the limits hold; none at all is an error."""
    asked = job("t", matrix=Matrix(type="dynamic"), exclude=[{"os": "mac"}], include=[{"os": "bsd"}])
    assert [v.job_name for v in expand_matrix(asked, {"os": ["linux", "mac"]})] == ["t (linux)", "t (bsd)"]
    with pytest.raises(InvalidMatrix, match="257 combinations"):
        expand_matrix(job("t", matrix=Matrix(type="dynamic")), {"n": list(range(257))})
    with pytest.raises(InvalidMatrix, match="0 combinations"):
        expand_matrix(job("t", matrix=Matrix(type="dynamic")), {})
