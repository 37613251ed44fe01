"""Matrix expansion and the job graph (OR-130…134, AU-40)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.engine.graph import InvalidGraph, plan
from kici.engine.matrix import InvalidMatrix, expand
from kici.spec.lock import LockJob, Matrix, Need, SourceLocation

HERE = SourceLocation(file=".kici/workflows/ci.py")


def job(name: str, *needs: str | Need, **more: Any) -> LockJob:
    return LockJob(
        name=name,
        source=HERE,
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
        **more,
    )


def matrix(**values: list[Any]) -> Matrix:
    return Matrix(values=values)


def names(job: LockJob) -> list[str]:
    return [variant.job_name for variant in expand(job)]


def test_a_job_without_matrix_is_itself() -> None:
    (only,) = expand(job("build"))
    assert (only.job_name, only.base_job_name, only.label, only.values) == ("build", "build", None, {})


def test_names_labels_and_values() -> None:
    variants = expand(job("test", matrix=matrix(os=["linux", "mac"], python=[3.12, True])))
    assert [variant.job_name for variant in variants] == [
        "test (linux, 3.12)",
        "test (linux, true)",
        "test (mac, 3.12)",
        "test (mac, true)",
    ]
    assert variants[0].label == "linux, 3.12"
    assert variants[0].display == "os:linux, python:3.12"
    assert variants[0].values == {"os": "linux", "python": 3.12}
    assert variants[1].values["python"] is True


def test_exclude_first_then_include() -> None:
    cells = job(
        "test",
        matrix=matrix(os=["linux", "mac"], python=["3.11", "3.12"]),
        exclude=[{"os": "mac"}, {"os": "linux", "python": "3.11"}],
        include=[{"os": "mac", "python": "3.12"}, {"os": "bsd", "python": "3.12"}],
    )
    assert names(cells) == ["test (linux, 3.12)", "test (mac, 3.12)", "test (bsd, 3.12)"]


def test_an_exclusion_compares_types_and_an_empty_one_removes_nothing() -> None:
    assert names(job("t", matrix=matrix(n=[1, 2]), exclude=[{"n": "1"}, {}])) == ["t (1)", "t (2)"]


def test_an_included_combination_that_exists_is_not_doubled() -> None:
    assert names(job("t", matrix=matrix(n=[1]), include=[{"n": 1}])) == ["t (1)"]


@pytest.mark.parametrize(
    "cells",
    [
        {"matrix": Matrix(values={})},
        {"matrix": Matrix(values={"a": []})},
        {"matrix": Matrix(values={"a": list(range(17)), "b": list(range(16))})},
        {"matrix": Matrix(values={"a": list(range(1000)), "b": list(range(1000)), "c": list(range(1000))})},
        {"matrix": Matrix(values={"a": [1, "1"]})},
        {"matrix": Matrix(type="dynamic")},
        {"matrix": Matrix(values={"a": [1]}), "exclude": [{"a": 1}]},
    ],
)
def test_a_matrix_of_no_or_too_many_or_equally_named_jobs_is_refused(cells: dict[str, Any]) -> None:
    with pytest.raises(InvalidMatrix, match="'t'"):
        expand(job("t", **cells))


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.lists(st.integers(0, 5), min_size=1, max_size=5, unique=True), min_size=1
    )
)
def test_the_product_is_complete_and_has_no_doubles(values: dict[str, list[int]]) -> None:
    total = 1
    for options in values.values():
        total *= len(options)
    found = names(job("t", matrix=matrix(**values)))
    assert len(found) == len(set(found)) == total


def test_needs_of_a_matrix_wait_for_every_child() -> None:
    planned = plan([job("test", "lint", matrix=matrix(n=[1, 2])), job("lint"), job("ship", "test", "lint")])
    assert [(p.variant.job_name, p.position) for p in planned] == [
        ("test (1)", 0),
        ("test (2)", 0),
        ("lint", 1),
        ("ship", 2),
    ]
    assert [[need.upstream for need in p.needs] for p in planned] == [[2], [2], [], [0, 1, 2]]
    assert planned[3].needs[0].run_on == ("success",)


def test_an_upstream_named_twice_must_satisfy_both() -> None:
    both = [Need(name="a", run_on=["success", "failed"]), Need(name="a", run_on=["success", "skipped"])]
    assert plan([job("a"), job("b", *both)])[1].needs[0].run_on == ("success",)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("a", "b")], "'b', which does not exist"),
        ([job("a", "a")], "a → a"),
        ([job("a", "b"), job("b", "c"), job("c", "a"), job("d", "a")], "a → b → c → a"),
        ([job("a"), job("a")], "two jobs"),
        ([job("a", Need(run_on=["success"], group="g"))], "group 'g'"),
        ([job("a", type="dynamic")], "generated"),
    ],
)
def test_a_graph_that_cannot_run_is_refused(jobs: list[LockJob], message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        plan(jobs)


@given(
    st.integers(1, 12).flatmap(
        lambda size: st.tuples(
            st.just(size), st.sets(st.tuples(st.integers(0, size - 1), st.integers(0, size - 1)))
        )
    )
)
def test_edges_that_point_backwards_always_plan(case: tuple[int, set[tuple[int, int]]]) -> None:
    size, pairs = case
    jobs = [job(f"j{i}", *{f"j{b}" for a, b in pairs if a == i and b < i}) for i in range(size)]
    planned = plan(jobs)
    assert len(planned) == size
    assert all(need.upstream < index for index, p in enumerate(planned) for need in p.needs)
