"""Constructors make frozen values that compiler and runner can read (AU-2, AU-3, AU-10…13, AU-24, AU-32)."""

import asyncio
import functools
import threading
from typing import Any, cast

import pytest

from kici import (
    Context,
    DefinitionError,
    Job,
    MultiJob,
    ParallelGroup,
    Retry,
    Step,
    hook,
    job,
    need,
    parallel,
    push,
    step,
    workflow,
)
from kici.sdk import problems
from kici.sdk.definitions import find_job, find_workflow, flat_steps
from kici.spec.states import JOB_TERMINAL, JobStatus

NO_CONTEXT = cast("Context", None)  # these steps never look at it


@step
async def build_all(ctx: Context) -> int:
    return 1


@step("named", timeout="5m", retry=3, continue_on_error=True)
def blocking(ctx: Context, *, x: int = 0) -> int:
    return threading.get_ident() if x < 0 else x


def test_names_come_from_the_argument_or_the_function() -> None:
    @job(runs_on="linux")
    async def run_it(ctx: Context) -> None: ...

    @job("other", runs_on="linux")
    async def run_too(ctx: Context) -> None: ...

    assert (build_all.name, blocking.name, run_it.name, other_name(run_too)) == (
        "build-all",
        "named",
        "run-it",
        "other",
    )
    assert run_too.steps[0].name == "run-too"


def other_name(found: Job[Any]) -> str:
    return found.name


def test_step_settings_are_milliseconds() -> None:
    settings = blocking.settings
    assert settings.timeout_ms == 300_000
    assert settings.continue_on_error is True
    assert settings.retry is not None
    assert (settings.retry.attempts, settings.retry.delay_ms, settings.retry.max_delay_ms) == (
        3,
        1_000,
        30_000,
    )


def test_bare_functions_and_lambdas_are_numbered_across_groups() -> None:
    async def one(ctx: Context) -> None: ...

    found = job(
        "j", runs_on="linux", steps=[one, build_all, parallel(lambda ctx: None, blocking), lambda ctx: None]
    )

    assert [flat.step.name for flat in flat_steps(found.steps)] == [
        "step-1",
        "build-all",
        "step-2",
        "named",
        "step-3",
    ]
    assert [(flat.index, flat.group.name if flat.group else None) for flat in flat_steps(found.steps)] == [
        (0, None),
        (1, None),
        (2, "parallel-1"),
        (3, "parallel-1"),
        (4, None),
    ]
    group = found.steps[2]
    assert isinstance(group, ParallelGroup)
    assert (group.fail_fast, group.max_parallel) == (True, None)


def test_a_decorated_step_can_be_a_job() -> None:
    @job("j", runs_on="linux")
    @step(retry=2)
    async def work(ctx: Context) -> int:
        return 5

    assert work.steps[0].settings.retry is not None
    assert asyncio.run(work.steps[0](NO_CONTEXT)) == 5


def test_definitions_are_frozen_and_compare_by_identity() -> None:
    with pytest.raises(AttributeError):
        build_all.name = "other"  # type: ignore[misc]

    assert build_all != build_all.bind(x=1)
    assert len({build_all, build_all.bind(), blocking}) == 3


async def test_steps_are_callable_like_functions() -> None:
    assert await build_all(NO_CONTEXT) == 1
    assert await blocking(NO_CONTEXT, x=4) == 4
    assert await blocking.bind(x=4)(NO_CONTEXT) == 4
    assert await blocking.bind(x=4)(NO_CONTEXT, x=5) == 5
    assert await blocking(NO_CONTEXT, x=-1) != threading.get_ident()


async def test_callables_of_every_kind() -> None:
    class Callable:
        async def __call__(self, ctx: Context) -> str:
            return "object"

    async def with_two(prefix: str, ctx: Context) -> str:
        return prefix

    found = job("j", runs_on="linux", steps=[Callable(), functools.partial(with_two, "partial")])
    steps = [flat.step for flat in flat_steps(found.steps)]

    assert [entry.name for entry in steps] == ["step-1", "step-2"]
    assert [entry.is_async for entry in steps] == [True, True]
    assert [await entry(NO_CONTEXT) for entry in steps] == ["object", "partial"]


def test_result_annotations() -> None:
    @step
    async def quoted(ctx: Context) -> "Step[int]": ...

    @step
    async def nothing(ctx: Context) -> None: ...

    @step
    async def unsaid(ctx: Context): ...

    assert quoted.returns == Step[int]
    assert (nothing.returns, unsaid.returns) == (None, None)
    assert build_all.returns is int


def test_needs() -> None:
    package = job("package", runs_on="linux", steps=[build_all])
    found = job(
        "j",
        runs_on="linux",
        steps=[build_all],
        needs=[package, "by-name", need("x", when="always"), need("y", when=["failed", "success"])],
    )

    assert [(edge.name, edge.job) for edge in found.options.needs] == [
        ("package", package),
        ("by-name", None),
        ("x", None),
        ("y", None),
    ]
    assert [edge.run_on for edge in found.options.needs] == [
        {JobStatus.SUCCESS},
        {JobStatus.SUCCESS},
        JOB_TERMINAL,
        {JobStatus.FAILED, JobStatus.SUCCESS},
    ]


def test_hooks_in_both_forms() -> None:
    def tell(ctx: Context) -> None: ...

    found = job(
        "j",
        runs_on="linux",
        steps=[build_all],
        cleanup=tell,
        on_failure=hook(tell, timeout="1s"),
        timeout="1h",
    )

    assert found.options.cleanup is not None
    assert (found.options.cleanup.name, found.options.cleanup.timeout_ms) == ("tell", 300_000)
    assert found.options.on_failure is not None
    assert (found.options.on_failure.timeout_ms, found.options.on_failure.is_async) == (1_000, False)
    assert found.options.timeout_ms == 3_600_000
    assert found.options.on_cancel is None


def test_retry_as_struct_and_as_mapping() -> None:
    by_struct = step(retry=Retry(attempts=2, delay="1m", max_delay=5))(lambda ctx: None)
    by_mapping = step(retry={"attempts": 2, "delay": "1m", "max_delay": 5})(lambda ctx: None)

    assert by_struct.settings.retry == by_mapping.settings.retry
    assert by_struct.settings.retry is not None
    assert (by_struct.settings.retry.delay_ms, by_struct.settings.retry.max_delay_ms) == (60_000, 5_000)


def test_finding_by_name() -> None:
    first = job("first", runs_on="linux", steps=[build_all])
    one = workflow("one", on=push(), jobs=[first])
    two = workflow("two", on=[push()], jobs=[first])
    namespace = {"one": one, "both": [one, two], "other": 5}

    assert find_job(one, "first") is first
    assert find_job(one, "missing") is None
    assert find_workflow(namespace, "#one", "one") is one
    assert find_workflow(namespace, "both", "two") is two
    assert find_workflow(namespace, "other", "one") is None
    assert find_workflow(namespace, "missing", "one") is None


def test_a_mistake_raises_where_nobody_collects() -> None:
    with pytest.raises(DefinitionError) as raised:
        job("j", runs_on="linux", steps=[], timeout="soon")

    assert raised.value.problem.code == "E115"
    assert raised.value.problem.source is not None
    assert raised.value.problem.source.file == __file__
    assert "help: list at least one step" in str(raised.value)


def test_collected_mistakes_leave_usable_values() -> None:
    with problems.collect() as found:
        broken = job("j", runs_on=5, steps=5, env=5, matrix=5, needs="x", timeout=[], retries=1)  # type: ignore[call-overload]
        flow = workflow("w", jobs=[broken, None, parallel], on=[5], hash_files=["../x"])  # type: ignore[list-item]

    assert isinstance(broken, MultiJob)
    assert flow.jobs == (broken,)
    assert sorted({problem.code for problem in found}) == ["E105", "E119", "E309"]
    assert all(problem.source is not None and problem.source.file == __file__ for problem in found)


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("a", True),
        ("Lint & test", True),
        ("x" * 100, True),
        ("x" * 101, False),
        ("", False),
        ("__x", False),
        (" x", False),
        ("a\nb", False),
    ],
)
def test_names(name: str, fine: bool) -> None:
    with problems.collect() as found:
        job(name, runs_on="linux", steps=[build_all])

    assert [problem.code for problem in found] == ([] if fine else ["E117"])
