"""The constructor of workflows."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias, cast

from msgspec import structs

from kici.sdk import readers
from kici.sdk.definitions import (
    Concurrency,
    DynamicJobs,
    Job,
    JobDefinition,
    MultiJob,
    Registry,
    Rule,
    Trigger,
    Workflow,
)
from kici.sdk.edges import JobLike
from kici.sdk.options import Options, Pending, check_name
from kici.sdk.readers import ApprovalLike
from kici.sdk.source import caller
from kici.sdk.steps import HookLike
from kici.sdk.values import Duration

ConcurrencyLike: TypeAlias = Concurrency | Mapping[str, Any] | None
RegistryLike: TypeAlias = Registry | Mapping[str, Any]

_SECRET = re.compile(r"[^\s:]+:[^\s:]+")
_URL = re.compile(
    r"(?P<scheme>https?)://(?:[^/@\s]*@)?(?P<host>\[[0-9a-fA-F:]+\]|[^/:\s]+)(?::\d+)?(?:/\S*)?"
)
_LOCAL = re.compile(r"localhost|127(?:\.\d{1,3}){3}|\[::1\]|(?:[^.]+\.)+local")


def workflow(
    name: str,
    /,
    *,
    jobs: Sequence[JobLike],
    on: Trigger | Sequence[Trigger] = (),
    rules: Sequence[Rule] = (),
    description: str = "",
    hash_files: Sequence[str] = (),
    registries: Sequence[RegistryLike] = (),
    install_env: Sequence[str] = (),
    concurrency: ConcurrencyLike = None,
    timeout: Duration | None = None,
    approval: ApprovalLike = None,
    on_cancel: HookLike | None = None,
    cleanup: HookLike | None = None,
    on_success: HookLike | None = None,
    on_failure: HookLike | None = None,
) -> Workflow:
    """Jobs, and the events that start them. It exists because a module-level name holds it.

    >>> ci = workflow("ci", on=[push(branches="main"), pr(target="main")], jobs=[package, deploy])
    """
    source = caller()
    final = check_name(name, "workflow", source)
    options: dict[str, Any] = {
        "rules": rules,
        "description": description,
        "timeout": timeout,
        "approval": approval,
        "on_cancel": on_cancel,
        "cleanup": cleanup,
        "on_success": on_success,
        "on_failure": on_failure,
    }
    given = Options(f"workflow {final!r}", options, options, source)
    static, generators = _jobs(given, jobs)
    return Workflow(
        name=final,
        jobs=static,
        generators=generators,
        source=source,
        on=_triggers(given, on),
        rules=readers.rules(given),
        description=given.text("description"),
        hash_files=_hash_files(given, hash_files),
        registries=_registries(given, registries),
        install_env=_install_env(given, install_env),
        concurrency=_concurrency(given, concurrency),
        timeout_ms=given.duration("timeout"),
        approval=readers.approval(given),
        on_cancel=given.hook("on_cancel"),
        cleanup=given.hook("cleanup"),
        on_success=given.hook("on_success"),
        on_failure=given.hook("on_failure"),
    )


def _jobs(given: Options, jobs: object) -> tuple[tuple[JobDefinition, ...], tuple[DynamicJobs, ...]]:
    listed: list[JobDefinition] = []
    generators: list[DynamicJobs] = []
    if isinstance(jobs, Job | MultiJob | DynamicJobs | Pending):
        given.wrong_type("jobs", "a list of jobs", jobs, "put it into brackets: jobs=[...]")
        jobs = None  # said
    for entry in given.sequence("jobs", jobs):
        if isinstance(entry, Job | MultiJob):
            listed.append(cast("JobDefinition", entry))
        elif isinstance(entry, DynamicJobs):
            generators.append(entry)
        elif isinstance(entry, Pending):
            given.report(
                "E115",
                f"job {entry.name or '(unnamed)'!r} has no steps",
                "pass steps=[...] or decorate a function",
            )
        elif isinstance(entry, str):
            given.report(
                "E119", f"`jobs` holds the text {entry!r}", "list the job itself: what job(...) returned"
            )
        else:
            given.report(
                "E119", f"`jobs` holds {type(entry).__name__}", "decorate the function with @job(...)"
            )
    if isinstance(jobs, Sequence) and not jobs:
        given.report("E114", "no jobs", "list at least one job")
    named = _name_all(listed)
    seen: set[str] = set()
    for found in named:
        if found.name in seen:
            given.report("E106", f"two jobs are named {found.name!r}", "give one another name")
        seen.add(found.name)
    return named, tuple(generators)


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
    for entry in given.sequence("on", (on,) if callable(on) or isinstance(on, str) else on):
        if isinstance(entry, Trigger):
            kept.append(entry)
        elif callable(entry):
            called = getattr(cast("Any", entry), "__name__", "push")
            given.report("E119", f"`on` holds the function {called}", f"call it: {called}()")
        elif isinstance(entry, str):
            word = entry.strip().replace("-", "_")
            name = word if word.isidentifier() else "push"
            given.report(
                "E119", f"`on` holds the text {entry!r}", f"import the trigger and write on={name}()"
            )
        else:
            given.wrong_type("on", "a trigger or a list of triggers", entry, "write on=push()")
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


def _registries(given: Options, registries: object) -> tuple[Registry, ...]:
    """E301…E303: https, a secret by reference, names that differ (AU-61)."""
    kept: list[Registry] = []
    seen: set[str | None] = set()
    for entry in given.sequence("registries", registries):
        found = given.struct("registries", Registry, entry)
        if found is None:
            continue
        match = _URL.fullmatch(found.url) if isinstance(cast("object", found.url), str) else None
        if match is None or (match["scheme"] != "https" and not _LOCAL.fullmatch(match["host"])):
            given.report(
                "E302", f"`registries`: {found.url!r} is no https URL", "http is for local hosts only"
            )
        _check_secret(given, "registries", found.token_secret)
        if found.name in seen:
            what = f"two are named {found.name!r}" if found.name else "two have no name"
            given.report("E303", f"`registries`: {what}", "give each one a name of its own")
        seen.add(found.name)
        kept.append(found)
    return tuple(kept)


def _install_env(given: Options, references: object) -> tuple[str, ...]:
    entries = given.sequence("install_env", references)
    return tuple(entry for entry in entries if _check_secret(given, "install_env", entry))


def _check_secret(given: Options, name: str, reference: object) -> bool:
    if isinstance(reference, str) and _SECRET.fullmatch(reference):
        return True
    given.report("E301", f"`{name}`: {reference!r} names no secret", "write '<environment>:<secret>'")
    return False


def _concurrency(given: Options, value: object) -> Concurrency | None:
    if value is None:
        return None
    found = given.struct("concurrency", Concurrency, value)
    if found is None:
        return None
    if not callable(found.group) and not (isinstance(cast("object", found.group), str) and found.group):
        given.wrong_type("concurrency.group", "a name or a function", found.group)
        return None
    limit = Options(given.subject, {"concurrency.max": found.max}, ("concurrency.max",), given.source)
    most = limit.at_least_one("concurrency.max") or 1
    return structs.replace(found, max=most)
