"""Edges between jobs: what must have ended, and how, before another starts (AU-24)."""

from collections.abc import Collection
from typing import Any, Literal, TypeAlias, cast

from kici.sdk.definitions import DynamicJobs, Job, JobDefinition, MultiJob, Need
from kici.sdk.options import Options, Pending, check_name
from kici.sdk.problems import nearest, report
from kici.sdk.source import SourceLocation, caller
from kici.spec.states import JOB_TERMINAL, WHEN, JobStatus

JobLike: TypeAlias = Job[Any] | MultiJob | DynamicJobs
NeedLike: TypeAlias = JobLike | str | Need
FinalStatus: TypeAlias = Literal[
    "success", "failed", "cancelled", "skipped", "timed_out_stale", "drift_dropped"
]
When: TypeAlias = Literal["on-success", "always", "on-skip", "on-failure"] | Collection[FinalStatus]


def need(ref: JobLike | str, /, *, when: When = "on-success") -> Need:
    """An edge with a condition on how the upstream job ended.

    >>> @job(runs_on="kici:os:linux", needs=[need(package, when="always")])
    ... async def report(ctx: Context) -> None: ...
    """
    source = caller()
    run_on = _run_on(when, source)
    if isinstance(ref, str):
        return Need(name=ref, run_on=run_on, source=source)
    return _edge(ref, run_on, source)


def group(name: str, /, *, when: When = "on-success") -> Need:
    """An edge to a generator of another module, by the name of its group.

    >>> summary = job("summary", runs_on="kici:os:linux", needs=[group("reports")], steps=[build])
    """
    source = caller()
    return Need(
        name="", group=check_name(name, "group", source), run_on=_run_on(when, source), source=source
    )


def _edge(ref: object, run_on: frozenset[JobStatus], source: SourceLocation) -> Need:
    if isinstance(ref, DynamicJobs):
        return Need(name="", group=ref.group, run_on=run_on, source=source, job=ref)
    found = cast("JobDefinition", ref)
    return Need(name=found.name, run_on=run_on, source=source, job=found)


def _run_on(when: object, source: SourceLocation) -> frozenset[JobStatus]:
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
    return run_on


def _statuses(names: object) -> frozenset[JobStatus] | None:
    if not isinstance(names, Collection):
        return None
    known = {status.value: status for status in JOB_TERMINAL}
    chosen = [known.get(str(name)) for name in cast("Collection[object]", names)]
    found = frozenset(status for status in chosen if status is not None)
    return found if found and None not in chosen else None


def read_needs(given: Options, own_name: str = "") -> tuple[Need, ...]:
    edges: list[Need] = []
    for entry in given.sequence("needs", given.given.get("needs", ())):
        match entry:
            case Need():
                edge = entry
            case Job() | MultiJob() | DynamicJobs():
                edge = _edge(cast("object", entry), WHEN["on-success"], given.source)
            case str():
                edge = Need(name=entry, run_on=WHEN["on-success"], source=given.source)
            case Pending():
                given.report(
                    "E115", "a needed job has no steps", "decorate a function with it, or pass steps"
                )
                continue
            case _:
                given.wrong_type("needs", "a list of jobs, names and need(...)", entry)
                continue
        if edge.job is None and edge.name and edge.name == own_name:
            given.report("E103", "needs itself", "remove it from `needs`")
        elif any(
            (edge.name, edge.group) == (other.name, other.group) and edge.job is other.job
            for other in edges
        ):
            given.report(
                "E119", f"`needs` lists {edge.name or edge.group!r} twice", "one need(...) per job"
            )
        else:
            edges.append(edge)
    return tuple(edges)
