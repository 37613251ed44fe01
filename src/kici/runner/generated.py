"""A generated job as definitions again, from the data that it travelled as (AU-44).

What a step does and how is read from the step object that its reference leads to; what the job is, from
its LockJob.
"""

from collections.abc import Sequence
from typing import Any, cast

from msgspec import structs

from kici.sdk.definitions import (
    Cache,
    CacheKey,
    Init,
    JobSettings,
    MultiJob,
    Need,
    ParallelGroup,
    Preset,
    Rule,
    Runner,
    Step,
)
from kici.sdk.refs import hook_of, step_of
from kici.sdk.source import SourceLocation
from kici.spec import lock
from kici.spec.errors import KiciError
from kici.spec.states import JobStatus


class BadReferenceError(KiciError):
    """A generated job has a step without a reference."""

    code = "bad_reference"


def job_of(made: lock.LockJob) -> MultiJob:
    """Imports the modules of its steps. Raises KiciError when one is not to be found."""
    source = _place(made.source)
    hooks = {_HOOKS[kind]: hook_of(ref) for kind, ref in made.hooks.items() if kind in _HOOKS}
    return MultiJob(
        name=made.name,
        steps=tuple(_steps(made.steps)),
        source=source,
        options=JobSettings(
            runs_on=Runner(labels=()),  # an agent has it already
            needs=tuple(_need(need, source) for need in made.needs),
            rules=tuple(_rule(rule, source) for rule in made.rules),
            init=tuple(_init(entry) for entry in made.init),
            init_off=made.init_off,
            cache=tuple(_cache(entry) for entry in made.cache),
            env=made.env,
            timeout_ms=made.timeout,
            grace_period_ms=made.grace_period,
            description=made.description,
            **cast("Any", hooks),
        ),
    )


_HOOKS = {
    "onCancel": "on_cancel",
    "cleanup": "cleanup",
    "onSuccess": "on_success",
    "onFailure": "on_failure",
    "beforeStep": "before_step",
    "afterStep": "after_step",
}


def _steps(locked: Sequence[lock.LockStep]) -> list[Step[Any] | ParallelGroup]:
    """Neighbours of one parallel group become one entry again."""
    found: list[Step[Any] | ParallelGroup] = []
    for entry in locked:
        if entry.ref is None:
            raise BadReferenceError(f"step {entry.name!r} of a generated job has no reference")
        step = step_of(entry.ref, name=entry.name)
        last = found[-1] if found else None
        if not entry.parallel_group:
            found.append(step)
        elif isinstance(last, ParallelGroup) and last.name == entry.parallel_group:
            found[-1] = structs.replace(last, steps=(*last.steps, step))
        else:
            found.append(
                ParallelGroup(
                    name=entry.parallel_group,
                    steps=(step,),
                    source=_place(entry.source_location),
                    fail_fast=entry.parallel_fail_fast,
                    max_parallel=entry.parallel_max,
                )
            )
    return found


def _need(need: lock.Need, source: SourceLocation) -> Need:
    return Need(
        name=need.name,
        group=need.group,
        run_on=frozenset(JobStatus(status) for status in need.run_on),
        source=source,
    )


def _rule(rule: lock.Rule, source: SourceLocation) -> Rule:
    """Rules of generated jobs are pure and were decided before dispatch; only their number matters."""

    def decided(_ctx: object) -> bool:
        return not rule.negate

    return Rule(label=rule.label, check=decided, source=source, negate=rule.negate)


def _cache(entry: lock.Cache) -> Cache:
    key: str | CacheKey = entry.key
    if entry.prefix:
        key = CacheKey(prefix=entry.prefix, parts=tuple(entry.parts), files=tuple(entry.files))
    return Cache(key=key, paths=entry.paths, restore_keys=entry.restore_keys)


def _init(entry: lock.Init) -> Init | Preset:
    own = None if entry.cache is None else _cache(entry.cache)
    timeout = entry.timeout / 1_000
    if not entry.preset:
        return Init(run=entry.run, shell=entry.shell, cache=own, timeout=timeout, env=entry.env)
    return Preset(
        name=entry.preset,
        cache=own or entry.use_cache,
        timeout=timeout,
        env=entry.env,
        shell=entry.shell,
        python=entry.options.get("python"),
        groups=tuple(entry.options.get("groups", ())),
    )


def _place(source: lock.SourceLocation) -> SourceLocation:
    return SourceLocation(file=source.file, line=source.line, column=source.column)
