"""Matrix expansion and the job graph (OR-130…134, AU-40)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.engine.graph import InvalidGraph, hooks_for, plan, why_no_hooks
from kici.engine.matrix import InvalidMatrix, expand
from kici.spec.lock import (
    Concurrency,
    DynamicValue,
    LockJob,
    LockWorkflow,
    Matrix,
    Need,
    Rule,
    SourceLocation,
)
from kici.spec.states import JOB_TERMINAL

HERE = SourceLocation(file=".kici/workflows/ci.py")


def job(name: str, *needs: str | Need, **more: Any) -> LockJob:
    return LockJob(
        name=name,
        source=HERE,
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
        **more,
    )


def flow(jobs: list[LockJob], **more: Any) -> LockWorkflow:
    return LockWorkflow(
        name="ci", source=HERE, content_hash="", compile_schema_version=1, triggers=[], jobs=jobs, **more
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
        {"matrix": Matrix(values={"a": [""]})},
        {"matrix": Matrix(values={"a": ["é\n"]})},
        {"matrix": Matrix(values={"a": ["a" * 120]})},
        {"matrix": Matrix(values={"a": ["a" * 60], "b": ["b" * 60]})},
        {"matrix": Matrix(values={"a": [2**70]})},
        {"matrix": Matrix(values={"": [1]})},
        {"matrix": Matrix(values={"a b": [1]})},
        {"matrix": Matrix(values={"a": [1]}), "include": [{"a": "\t"}]},
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
    planned = plan(
        flow([job("test", "lint", matrix=matrix(n=[1, 2])), job("lint"), job("ship", "test", "lint")])
    )
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
    assert plan(flow([job("a"), job("b", *both)]))[1].needs[0].run_on == ("success",)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([job("a", "b")], "'b', which does not exist"),
        ([job("a", "a")], "a → a"),
        ([job("a", "b"), job("b", "c"), job("c", "a"), job("d", "a")], "a → b → c → a"),
        ([job("a"), job("a")], "two jobs"),
        ([job("a", Need(run_on=["success"], group="g"))], "group 'g'"),
        ([job("g", type="dynamic"), job("g", type="dynamic")], "two groups"),
        (
            [job("g", "a", type="dynamic"), job("a", Need(run_on=["success"], group="g"))],
            "a → group g → a",
        ),
    ],
)
def test_a_graph_that_cannot_run_is_refused(jobs: list[LockJob], message: str) -> None:
    with pytest.raises(InvalidGraph, match=message):
        plan(flow(jobs))


def generator(name: str, index: int, *needs: str | Need) -> LockJob:
    source = SourceLocation(file=HERE.file, index=index)
    return LockJob(
        type="dynamic",
        name=name,
        source=source,
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
    )


def test_setup_rows_stand_before_who_needs_them() -> None:
    """AU-42, OR-136: an impure field is evaluated by a row of its own, which waits only for the sake of a matrix."""
    planned = plan(
        flow(
            [
                job("lint"),
                job("test", "lint", dynamic_env=True, matrix=matrix(n=[1, 2])),
                job("ship", "lint", matrix=Matrix(type="dynamic")),
                job("last", "ship", environments=[DynamicValue(dynamic=True)]),
            ]
        )
    )
    rows = {row.name: row for row in planned}
    assert list(rows) == [
        "lint",
        "__init__ci__test",
        "test (1)",
        "test (2)",
        "__init__ci__ship",
        "ship",
        "__init__ci__last",
        "last",
    ]
    needs = {name: sorted(planned[need.upstream].name for need in row.needs) for name, row in rows.items()}
    assert needs["__init__ci__test"] == []
    assert needs["test (1)"] == needs["test (2)"] == ["__init__ci__test", "lint"]
    assert needs["__init__ci__ship"] == ["lint"]
    assert needs["ship"] == ["__init__ci__ship", "lint"]
    assert rows["__init__ci__ship"].failure_category == "matrix_expansion"
    assert rows["__init__ci__test"].failure_category == "dynamic_eval"
    assert (rows["__init__ci__test"].kind, rows["__init__ci__test"].target) == ("init", "test")
    assert [(row.fanout_index, row.fanout_total) for row in planned if row.job.name == "test"] == [
        (0, 2),
        (1, 2),
    ]


@pytest.mark.parametrize(
    "more", [{"rules": [Rule(label="asks")]}, {"concurrency": Concurrency(has_group=True)}]
)
def test_impure_workflow_functions_come_before_every_root(more: dict[str, Any]) -> None:
    """AU-34, AU-59."""
    planned = plan(flow([job("a"), job("b", "a"), generator("g", 0), job("c", dynamic_env=True)], **more))
    assert (planned[0].name, planned[0].kind, planned[0].target) == ("__init__ci", "init", "")
    assert {row.name for row in planned if [need.upstream for need in row.needs] == [0]} == {
        "a",
        "__dynamic__ci__0",
        "__init__ci__c",
    }


def test_a_generator_is_a_row_and_its_group_an_edge() -> None:
    """AU-43, AU-45."""
    planned = plan(
        flow(
            [
                job("lint"),
                generator("scans", 3, "lint"),
                job("after", Need(group="scans", run_on=["failed"])),
            ]
        )
    )
    (row,) = [row for row in planned if row.kind == "dynamic"]
    assert (row.name, row.target, row.generator_index) == ("__dynamic__ci__3", "scans", 3)
    assert [planned[need.upstream].name for need in row.needs] == ["lint"]
    (edge,) = planned[-1].needs
    assert (edge.group, edge.run_on, edge.group_run_on) == ("scans", ("failed", "success"), ("failed",))


def test_hooks_of_the_workflow_wait_for_everybody_whatever_comes() -> None:
    """AU-33."""
    planned = plan(flow([job("a"), job("b", "a")], has_cleanup=True))
    assert (planned[-1].name, planned[-1].kind) == ("__hooks__ci", "hooks")
    assert [need.upstream for need in planned[-1].needs] == [0, 1]
    assert set(planned[-1].needs[0].run_on) == JOB_TERMINAL
    assert hooks_for(["onSuccess", "onFailure", "cleanup"], "failed") == ["onFailure", "cleanup"]
    assert hooks_for(["onSuccess", "onFailure", "cleanup"], "failed", "check") == ["cleanup"]
    assert hooks_for(["onCancel"], "success") == hooks_for(["cleanup"], "skipped") == []
    assert why_no_hooks(["onSuccess"], "cancelled", began=True) == "no hook is for a run that is cancelled"
    called_off = "the run was called off before anything began"
    assert why_no_hooks(["onCancel"], "cancelled", began=False) == called_off
    assert why_no_hooks(["onCancel"], "cancelled", began=True) is None
    assert why_no_hooks(["onFailure"], "failed", began=False) is None


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
    planned = plan(flow(jobs))
    assert len(planned) == size
    assert all(need.upstream < index for index, p in enumerate(planned) for need in p.needs)
