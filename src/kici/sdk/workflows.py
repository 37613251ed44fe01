"""The constructor of workflows."""

from collections.abc import Sequence
from typing import Any, cast

from msgspec import structs

from kici.sdk.definitions import Job, JobDefinition, MultiJob, Trigger, Workflow
from kici.sdk.jobs import JobLike, PendingJob
from kici.sdk.options import Options, check_name
from kici.sdk.source import caller
from kici.sdk.values import Duration


def workflow(
    name: str,
    /,
    *,
    jobs: Sequence[JobLike],
    on: Trigger | Sequence[Trigger] = (),
    description: str = "",
    hash_files: Sequence[str] = (),
    timeout: Duration | None = None,
) -> Workflow:
    """Jobs, and the events that start them. It exists because a module-level name holds it.

    >>> ci = workflow("ci", on=[push(branches="main"), pr(target="main")], jobs=[package, deploy])
    """
    source = caller()
    final = check_name(name, "workflow", source)
    given = Options(
        f"workflow {final!r}",
        {"description": description, "timeout": timeout},
        ("description", "timeout"),
        source,
    )
    return Workflow(
        name=final,
        jobs=_jobs(given, jobs),
        source=source,
        on=_triggers(given, on),
        description=given.text("description"),
        hash_files=_hash_files(given, hash_files),
        timeout_ms=given.duration("timeout"),
    )


def _jobs(given: Options, jobs: object) -> tuple[JobDefinition, ...]:
    listed: list[JobDefinition] = []
    for entry in given.sequence("jobs", jobs):
        if isinstance(entry, Job | MultiJob):
            listed.append(cast("JobDefinition", entry))
        elif isinstance(entry, PendingJob):
            given.report(
                "E115",
                f"job {entry.name or '(unnamed)'!r} has no steps",
                "pass steps=[...] or decorate a function",
            )
        else:
            given.report(
                "E119", f"`jobs` holds {type(entry).__name__}", "decorate the function with @job(...)"
            )
    if not listed:
        given.report("E114", "no jobs", "list at least one job")
    named = _name_all(listed)
    seen: set[str] = set()
    for found in named:
        if found.name in seen:
            given.report("E106", f"two jobs are named {found.name!r}", "give one another name")
        seen.add(found.name)
    return named


def _name_all(listed: Sequence[JobDefinition]) -> tuple[JobDefinition, ...]:
    """Give unnamed jobs `job-N` and let edges to them follow (AU-10)."""
    fresh: dict[int, JobDefinition] = {}
    for found in listed:
        if not found.name:
            fresh[id(found)] = structs.replace(found, name=f"job-{len(fresh) + 1}")
    if not fresh:
        return tuple(listed)
    named: list[JobDefinition] = []
    for found in listed:
        renamed = fresh.get(id(found), found)
        edges = tuple(
            structs.replace(edge, job=target, name=target.name)
            if (target := fresh.get(id(edge.job)))
            else edge
            for edge in renamed.options.needs
        )
        named.append(structs.replace(renamed, options=structs.replace(renamed.options, needs=edges)))
    return tuple(named)


def _triggers(given: Options, on: object) -> tuple[Trigger, ...]:
    if isinstance(on, Trigger):
        return (on,)
    kept: list[Trigger] = []
    for entry in given.sequence("on", on if not callable(on) else (on,)):
        if isinstance(entry, Trigger):
            kept.append(entry)
        elif callable(entry):
            called = getattr(cast("Any", entry), "__name__", "push")
            given.report("E119", f"`on` holds the function {called}", f"call it: {called}()")
        else:
            given.wrong_type("on", "a trigger or a list of triggers", entry)
    return tuple(kept)


def _hash_files(given: Options, patterns: object) -> tuple[str, ...]:
    kept: list[str] = []
    for entry in given.sequence("hash_files", patterns):
        if not isinstance(entry, str):
            given.wrong_type("hash_files", "a list of paths and globs", entry)
        elif (
            entry.removeprefix("!").startswith("/")
            or ".." in entry.split("/")
            or not entry.removeprefix("!")
        ):
            given.report(
                "E119", f"`hash_files` entry {entry!r} leaves the repository", "use paths below its root"
            )
        else:
            kept.append(entry)
    return tuple(kept)
