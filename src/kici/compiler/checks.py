"""The graph stage: what the servers' own rules say about a shaped workflow. The same code decides there."""

import re
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, cast

from kici.compiler.exchange import ShapedWorkflow
from kici.engine.jsonpath import InvalidPath, find
from kici.engine.matrix import MAX_VARIANTS, InvalidMatrix, combinations, expand
from kici.engine.patterns import InvalidPattern, PatternSet, compile_regex
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec import lock, triggers
from kici.spec.globs import is_glob

_REGISTERED = (
    triggers.GenericWebhookTrigger
    | triggers.KiciEventTrigger
    | triggers.WorkflowCompleteTrigger
    | triggers.JobCompleteTrigger
    | triggers.ScheduleTrigger
    | triggers.LifecycleTrigger
)
# Text that is compared in another way, or with nothing at all; every other text of a trigger is a name.
_NOT_A_NAME = frozenset({"description", "cron", "timezone", "body_match"})
_REGEX_TEXT = re.compile(r"/(.*)/([imsau]*)", re.DOTALL)


def check(shaped: ShapedWorkflow) -> Iterator[Problem]:
    """Every problem of the workflow that its compiled form shows."""
    yield from _cycles(shaped.lock)
    yield from _names(shaped.lock)
    for job in shaped.lock.jobs:
        yield from _matrix(job)
        yield from _labels(job)
    for trigger, source in zip(shaped.lock.triggers, shaped.trigger_sources, strict=True):
        yield from _trigger(trigger, source)


def _place(job: lock.LockJob) -> SourceLocation:
    return SourceLocation(file=job.source.file, line=job.source.line, column=job.source.column)


def _cycles(workflow: lock.LockWorkflow) -> Iterator[Problem]:
    """E102, once per circle: depth first, each job entered once."""
    upstreams = {
        job.name: [name for need in job.needs if (name := need.name or need.group) != job.name]
        for job in workflow.jobs
    }
    places = {job.name: _place(job) for job in workflow.jobs}
    done: set[str] = set()
    for start, needed in upstreams.items():
        path = [start] if start not in done else []
        pending = [(name, iter(needed)) for name in path]
        while pending:
            name, rest = pending[-1]
            following = next((other for other in rest if other in upstreams and other not in done), None)
            if following is None:
                done.add(name)
                path.pop()
                pending.pop()
            elif following in path:
                circle = [*path[path.index(following) :], following]
                yield Problem(
                    code="E102",
                    message=f"jobs need each other in a circle: {' → '.join(circle)}",
                    help="drop one of these needs",
                    source=places[following],
                )
            else:
                path.append(following)
                pending.append((following, iter(upstreams[following])))


def _names(workflow: lock.LockWorkflow) -> Iterator[Problem]:
    """E106 where a job is called like a child of another one; the constructor has compared the jobs themselves."""
    owners: dict[str, lock.LockJob] = {job.name: job for job in workflow.jobs if job.matrix is None}
    for job in workflow.jobs:
        if job.matrix is None or job.matrix.type != "static":
            continue
        try:
            names = [variant.job_name for variant in expand(job)]
        except InvalidMatrix:
            continue  # `_matrix` tells
        for name in names:
            owner = owners.setdefault(name, job)
            if owner is not job:
                yield Problem(
                    code="E106",
                    message=f"job {owner.name!r} and a child of job {job.name!r} are both named {name!r}",
                    help="give one another name",
                    source=_place(owner),
                )


def _matrix(job: lock.LockJob) -> Iterator[Problem]:
    if job.matrix is None or job.matrix.type != "static" or not all(job.matrix.values.values()):
        return  # known at run time only, or reported by the constructor already (E105)
    try:
        count = len(combinations(job))
        if 1 <= count <= MAX_VARIANTS:
            expand(job)
            return
        message = (
            f"job {job.name!r}: its matrix has {count} jobs (1 to {MAX_VARIANTS} after exclude and include)"
        )
    except InvalidMatrix as wrong:
        message = str(wrong)
    yield Problem(
        code="E104",
        message=message,
        help="change its dimensions, `exclude` or `include`",
        source=_place(job),
    )


def _labels(job: lock.LockJob) -> Iterator[Problem]:
    hosts = job.runs_on_all or lock.HostSelection()
    for label in (*job.runs_on, *job.exclude_labels, *chain(*hosts.include), *hosts.exclude):
        if label.kind == "regex":
            try:
                compile_regex(label.source, label.flags)
            except InvalidPattern as wrong:
                yield _refused_regex(f"job {job.name!r}: label {wrong}", _place(job))


def _trigger(trigger: triggers.Trigger, source: SourceLocation) -> Iterator[Problem]:
    """Every pattern, path and regex it holds, whatever kind it is."""
    for name in trigger.__struct_fields__:
        value: object = getattr(trigger, name)
        if isinstance(value, list) and value and isinstance(value[0], triggers.Pattern):
            yield from _filter(name, cast("list[triggers.Pattern]", value), source)
        elif name not in _NOT_A_NAME:
            yield from _exact(name, value, source)
    match trigger:
        case triggers.GenericWebhookTrigger() | triggers.KiciEventTrigger():
            for path, expected in (*trigger.match.items(), *trigger.not_.items()):
                yield from _condition(path, expected, source)
        case triggers.CommentTrigger():
            yield from _regex_text("body_match", trigger.body_match, source)
        case triggers.ScheduleTrigger():
            yield from _schedule(trigger, source)
        case _:
            pass
    if isinstance(trigger, triggers.DispatchTrigger | triggers.ScheduleTrigger):
        for field in trigger.inputs:
            if field.pattern is not None:
                yield from _regex(f"input {field.name!r}", field.pattern, "", source)
    if isinstance(trigger, _REGISTERED):
        name = trigger.__struct_config__.tag
        yield Problem(
            code="W403",
            message=f"{name}() starts this workflow only after its lock file reached the default branch",
            help="nothing to do until it is merged",
            source=source,
            severity="note",
        )


def _schedule(trigger: triggers.ScheduleTrigger, source: SourceLocation) -> Iterator[Problem]:
    from kici.engine import cron  # most repositories have no schedule

    for code, fields, zone, remedy in (
        ("E401", trigger.cron, "UTC", "five fields: '0 4 * * 1-5'"),
        ("E402", "* * * * *", trigger.timezone, "write 'UTC' or 'Europe/Berlin'"),
    ):
        try:
            cron.check(fields, zone)
        except cron.InvalidSchedule as wrong:
            yield Problem(code=code, message=f"schedule(): {wrong}", help=remedy, source=source)
    for field in trigger.inputs:
        if field.required:
            yield Problem(
                code="E404",
                message=f"schedule(): input {field.name!r} has no default, and nobody is there to give it",
                help="give it a default, or allow None: `| None`",
                source=source,
            )


def _filter(name: str, patterns: Sequence[triggers.Pattern], source: SourceLocation) -> Iterator[Problem]:
    try:
        PatternSet(patterns)
    except InvalidPattern as wrong:
        yield _refused_regex(f"`{name}`: {wrong}", source)
        return
    includes = [pattern for pattern in patterns if not pattern.pattern.startswith("!")]
    exclusions = PatternSet([pattern for pattern in patterns if pattern.pattern.startswith("!")])
    literal = all(pattern.type == "glob" and not is_glob(pattern.pattern) for pattern in includes)
    if includes and literal and all(exclusions.excludes_value(pattern.pattern) for pattern in includes):
        yield Problem(
            code="W402",
            message=f"`{name}` can never match: it excludes all that it includes",
            help="remove the exclusion or the filter",
            source=source,
            severity="warning",
        )


def _exact(name: str, value: object, source: SourceLocation) -> Iterator[Problem]:
    """An option of names, one or several: what looks like a pattern is compared as it stands."""
    for word in cast("list[object]", value) if isinstance(value, list) else (value,):
        if isinstance(word, str) and (is_glob(word) or word.startswith("!")):
            yield Problem(
                code="W402",
                message=f"`{name}` can never match: {word!r} looks like a pattern",
                help="names are matched exactly, without patterns and exclusions: list each of them",
                source=source,
                severity="warning",
            )


def _condition(path: str, expected: Any, source: SourceLocation) -> Iterator[Problem]:
    try:
        find(path, {})
    except InvalidPath as wrong:
        yield Problem(
            code="E407", message=str(wrong), help="write $.name, $.list[0] or $['odd name']", source=source
        )
    for value in cast("list[Any]", expected) if isinstance(expected, list) else (expected,):
        if isinstance(value, str):
            yield from _regex_text(path, value, source)


def _regex_text(name: str, text: str, source: SourceLocation) -> Iterator[Problem]:
    """Text like `/re/i` is a regex."""
    found = _REGEX_TEXT.fullmatch(text)
    if found is not None:
        yield from _regex(f"`{name}`", found[1], found[2], source)


def _regex(what: str, text: str, flags: str, source: SourceLocation) -> Iterator[Problem]:
    try:
        compile_regex(text, flags)
    except InvalidPattern as wrong:
        yield _refused_regex(f"{what}: {wrong}", source)


def _refused_regex(message: str, source: SourceLocation) -> Problem:
    return Problem(
        code="E204",
        message=message,
        help="RE2 has no look-around and no back-references; a glob may do",
        source=source,
    )
