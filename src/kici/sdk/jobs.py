"""Constructors of jobs and of the edges between them."""

import math
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import (
    Any,
    Concatenate,
    Literal,
    ParamSpec,
    Protocol,
    TypeAlias,
    TypedDict,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from msgspec import structs

from kici.sdk.context import Context
from kici.sdk.definitions import (
    Job,
    JobDefinition,
    JobSettings,
    MultiJob,
    Need,
    ParallelGroup,
    Runner,
    Step,
)
from kici.sdk.options import Options, check_name, regex_flags
from kici.sdk.problems import nearest, report
from kici.sdk.source import SourceLocation, caller
from kici.sdk.steps import HookLike, StepLike, as_step, make_step
from kici.sdk.values import Duration, Matrix, Pattern, Patterns, Scalar, as_patterns
from kici.spec.states import JOB_TERMINAL, WHEN, JobStatus

P = ParamSpec("P")
R = TypeVar("R")

JobLike: TypeAlias = Job[Any] | MultiJob
NeedLike: TypeAlias = JobLike | str | Need
RunsOn: TypeAlias = Pattern | Sequence[Pattern] | Runner | Mapping[str, Any]
FinalStatus: TypeAlias = Literal[
    "success", "failed", "cancelled", "skipped", "timed_out_stale", "drift_dropped"
]
When: TypeAlias = Literal["on-success", "always", "on-skip", "on-failure"] | Collection[FinalStatus]

BARE_MATRIX_KEY = "value"
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class JobOptions(TypedDict, total=False):
    runs_on: RunsOn
    needs: Sequence[NeedLike]
    description: str
    matrix: Matrix
    include: Sequence[Mapping[str, Scalar]]
    exclude: Sequence[Mapping[str, Scalar]]
    max_parallel: int
    fail_fast: bool
    checkout: bool
    env: Mapping[str, str]
    timeout: Duration
    grace_period: Duration
    on_cancel: HookLike
    cleanup: HookLike
    on_success: HookLike
    on_failure: HookLike
    before_step: HookLike
    after_step: HookLike


class JobDecorator(Protocol):
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], Awaitable[R]], /) -> Job[R]: ...
    @overload
    def __call__(self, fn: Callable[Concatenate[Context, P], R], /) -> Job[R]: ...


class PendingJob:
    """What `job(...)` without `steps` returns: it waits for the function it decorates."""

    def __init__(self, name: str | None, options: Mapping[str, Any], source: SourceLocation) -> None:
        self.name = name
        self.options = options
        self.source = source

    def __call__(self, fn: object, /) -> Job[Any]:
        only = cast("Step[Any]", fn) if isinstance(fn, Step) else make_step(fn, None, {}, self.source)
        name = check_name(self.name, "job", self.source) if self.name is not None else only.name
        return Job(
            name=name,
            steps=(only if only.name else structs.replace(only, name="step-1"),),
            options=_settings(name, self.options, self.source),
            source=self.source,
        )


@overload
def job(name: str, /, *, steps: Sequence[StepLike], **options: Unpack[JobOptions]) -> MultiJob: ...
@overload
def job(name: str | None = None, /, **options: Unpack[JobOptions]) -> JobDecorator: ...
def job(name: Any = None, /, *, steps: Any = None, **options: Any) -> Any:
    """A unit of work that one agent takes: many steps by call, or one function by decorator.

    >>> package = job("package", runs_on="kici:os:linux", steps=[build])
    >>> @job(runs_on="kici:os:linux", needs=[package])
    ... async def deploy(ctx: Context) -> None:
    ...     await ctx.sh('./deploy.sh "$v"', v=ctx.job_outputs(package).of(build))
    """
    source = caller()
    if callable(name):
        report("E201", "@job is used without options", 'write @job(runs_on="kici:os:linux")', source=source)
        return PendingJob(None, {"runs_on": "kici:os:linux"}, source)(name)
    if steps is None:
        return PendingJob(name, options, source)
    final = check_name(name, "job", source)
    given = Options(f"job {final!r}", {}, (), source)
    entries = given.sequence("steps", steps)
    if not entries:
        given.report("E115", "no steps", "list at least one step, or decorate a function with @job(...)")
    return MultiJob(
        name=final,
        steps=_named(entries, given),
        options=_settings(final, options, source),
        source=source,
    )


def need(ref: JobLike | str, /, *, when: When = "on-success") -> Need:
    """An edge with a condition on how the upstream job ended.

    >>> @job(runs_on="kici:os:linux", needs=[need(package, when="always")])
    ... async def report(ctx: Context) -> None: ...
    """
    source = caller()
    run_on = WHEN.get(when) if isinstance(when, str) else _statuses(when)
    if run_on is None:
        names = [*WHEN, *sorted(JOB_TERMINAL)]
        guess = nearest(when, names) if isinstance(when, str) else None
        report(
            "E112",
            f"unknown `when` {when!r}",
            f"did you mean {guess!r}?" if guess else f"one of {', '.join(WHEN)}, or a set of job statuses",
            source=source,
        )
        run_on = WHEN["on-success"]
    if isinstance(ref, str):
        return Need(name=ref, run_on=run_on, source=source)
    return Need(name=ref.name, run_on=run_on, source=source, job=ref)


def _statuses(names: object) -> frozenset[JobStatus] | None:
    if not isinstance(names, Collection):
        return None
    known = {status.value: status for status in JOB_TERMINAL}
    chosen = [known.get(str(name)) for name in cast("Collection[object]", names)]
    found = frozenset(status for status in chosen if status is not None)
    return found if found and None not in chosen else None


def _named(entries: Sequence[object], given: Options) -> tuple[Step[Any] | ParallelGroup, ...]:
    """Fill in `step-N` and `parallel-N`; step names are unique, they key outputs (AU-10, AU-11)."""
    unnamed = groups = 0
    seen: set[str] = set()

    def name_step(entry: object) -> Step[Any]:
        nonlocal unnamed
        found = as_step(entry, given)
        if not found.name:
            unnamed += 1
            found = structs.replace(found, name=f"step-{unnamed}")
        if found.name in seen:
            given.report(
                "E108", f"two steps are named {found.name!r}", "give one another name: @step('other-name')"
            )
        seen.add(found.name)
        return found

    named: list[Step[Any] | ParallelGroup] = []
    for entry in entries:
        if isinstance(entry, ParallelGroup):
            groups += not entry.name
            children = tuple(name_step(child) for child in entry.steps)
            named.append(structs.replace(entry, name=entry.name or f"parallel-{groups}", steps=children))
        elif isinstance(entry, Job | MultiJob | PendingJob):
            given.report("E119", "a job stands among the steps", "list jobs in workflow(jobs=[...])")
        else:
            named.append(name_step(entry))
    return tuple(named)


def _settings(name: str, options: Mapping[str, Any], source: SourceLocation) -> JobSettings:
    given = Options(f"job {name!r}", options, JobOptions.__annotations__, source)
    matrix = _matrix(given)
    return JobSettings(
        runs_on=_runner(given),
        needs=_needs(given, name),
        matrix=matrix,
        include=_selections(given, "include", matrix),
        exclude=_selections(given, "exclude", matrix),
        max_parallel=given.at_least_one("max_parallel"),
        fail_fast=given.flag("fail_fast", default=False),
        checkout=given.flag("checkout", default=True),
        env=_environment(given),
        timeout_ms=given.duration("timeout"),
        grace_period_ms=given.duration("grace_period"),
        description=given.text("description"),
        on_cancel=given.hook("on_cancel"),
        cleanup=given.hook("cleanup"),
        on_success=given.hook("on_success"),
        on_failure=given.hook("on_failure"),
        before_step=given.hook("before_step"),
        after_step=given.hook("after_step"),
    )


def _runner(given: Options) -> Runner:
    value = given.given.get("runs_on")
    chosen = (
        given.struct("runs_on", Runner, value)
        if isinstance(value, Runner | Mapping)
        else Runner(labels=cast("Patterns", value if value is not None else ()))
    ) or Runner(labels="*")
    labels = _labels(given, "runs_on", chosen.labels)
    excluded = _labels(given, "exclude", chosen.exclude)
    if not any(not _text(label).startswith("!") for label in labels):
        given.report("E201", "`runs_on` is missing", 'say which agents may run it: runs_on="kici:os:linux"')
    unwanted = {_text(label).removeprefix("!") for label in excluded}
    unwanted |= {_text(label)[1:] for label in labels if _text(label).startswith("!")}
    for label in labels:
        if _text(label) in unwanted:
            given.report(
                "E203", f"label {_text(label)!r} is both required and excluded", "drop one of the two"
            )
    if chosen.pick not in {"deterministic", "any"}:
        given.report("E119", f"unknown `pick` {chosen.pick!r}", "deterministic or any")
    return Runner(labels=labels, exclude=excluded, pick=chosen.pick)


def _labels(given: Options, name: str, value: object) -> tuple[Pattern, ...]:
    if not isinstance(value, str | re.Pattern | Sequence):
        given.wrong_type(name, "a label, a regex or a list of them", value)
        return ("*",)
    patterns = as_patterns(cast("Patterns", value))
    for pattern in cast("Sequence[object]", patterns):
        if not isinstance(pattern, str | re.Pattern):
            given.wrong_type(name, "a label, a regex or a list of them", pattern)
            return ("*",)
        if isinstance(pattern, re.Pattern):
            regex_flags(cast("re.Pattern[str]", pattern), given, name)
        if _text(cast("Pattern", pattern)).removeprefix("!").strip() == "":
            given.report("E201", f"`{name}` holds an empty label", "remove it")
            return ("*",)
    return patterns


def _text(pattern: Pattern) -> str:
    return pattern if isinstance(pattern, str) else pattern.pattern


def _needs(given: Options, name: str) -> tuple[Need, ...]:
    edges: list[Need] = []
    for entry in given.sequence("needs", given.given.get("needs", ())):
        match entry:
            case Need():
                edge = entry
            case Job() | MultiJob():
                found = cast("JobDefinition", entry)
                edge = Need(name=found.name, run_on=WHEN["on-success"], source=given.source, job=found)
            case str():
                edge = Need(name=entry, run_on=WHEN["on-success"], source=given.source)
            case PendingJob():
                given.report(
                    "E115", "a needed job has no steps", "decorate a function with it, or pass steps"
                )
                continue
            case _:
                given.wrong_type("needs", "a list of jobs, names and need(...)", entry)
                continue
        if edge.job is None and edge.name == name:
            given.report("E103", "needs itself", "remove it from `needs`")
        elif any(edge.name == other.name and edge.job is other.job for other in edges):
            given.report("E119", f"`needs` lists {edge.name!r} twice", "one need(...) per job")
        else:
            edges.append(edge)
    return tuple(edges)


def _matrix(given: Options) -> Mapping[str, tuple[Scalar, ...]] | None:
    value = given.given.get("matrix")
    if value is None:
        return None
    table: dict[str, object]
    if isinstance(value, Mapping):
        table = dict(cast("Mapping[str, object]", value))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        table = {BARE_MATRIX_KEY: value}
    else:
        given.report("E105", f"`matrix` is a list or a mapping of lists, not {type(value).__name__}")
        return None
    if not table:
        given.report("E105", "`matrix` has no dimension", "remove it, or name at least one")
        return None
    clean: dict[str, tuple[Scalar, ...]] = {}
    for key, values in table.items():
        if not isinstance(values, Sequence) or isinstance(values, str):
            given.report("E105", f"matrix dimension {key!r} is a list, not {type(values).__name__}")
            continue
        entries = cast("Sequence[object]", values)
        if not entries:
            given.report("E105", f"matrix dimension {key!r} is empty", "give it a value, or remove it")
        for entry in entries:
            if not _is_scalar(entry):
                given.report(
                    "E105", f"matrix dimension {key!r} holds {entry!r}", "text, numbers and booleans only"
                )
        clean[str(key)] = tuple(cast("Scalar", entry) for entry in entries if _is_scalar(entry))
    return clean or None


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def _selections(
    given: Options, name: str, matrix: Mapping[str, object] | None
) -> tuple[Mapping[str, Scalar], ...]:
    kept: list[Mapping[str, Scalar]] = []
    for entry in given.sequence(name, given.given.get(name, ())):
        if not isinstance(entry, Mapping):
            given.wrong_type(name, "a list of mappings", entry)
            continue
        selection = dict(cast("Mapping[str, Scalar]", entry))
        for key, value in selection.items():
            if key not in (matrix or {}):
                dimensions = ", ".join(matrix) if matrix else "the job has no matrix"
                given.report(
                    "E113", f"`{name}` key {key!r} is not a dimension", f"dimensions: {dimensions}"
                )
            elif not _is_scalar(value):
                given.report("E105", f"`{name}` holds {value!r}", "text, numbers and booleans only")
        if not selection:
            given.report("E113", f"`{name}` holds an empty mapping", "remove it")
        kept.append(selection)
    return tuple(kept)


def _environment(given: Options) -> Mapping[str, str]:
    value = given.given.get("env", {})
    if not isinstance(value, Mapping):
        given.wrong_type("env", "a mapping of names to text", value)
        return {}
    clean: dict[str, str] = {}
    for name, text in cast("Mapping[object, object]", value).items():
        if not isinstance(name, str) or not _VARIABLE.fullmatch(name):
            given.report(
                "E310", f"{name!r} is no name for a variable", "letters, digits and _, no digit first"
            )
        elif name.startswith("KICI_"):
            given.report(
                "E310", f"variable {name!r} starts with `KICI_`", "that prefix is ours; take another"
            )
        elif not isinstance(text, str) or "\0" in text:
            given.report(
                "E119", f"variable {name!r} is text, not {type(text).__name__}", f"write str({text!r})"
            )
        else:
            clean[name] = text
    return clean
