"""The graph stage: what the servers' own rules say about a shaped workflow. The same code decides there."""

from collections.abc import Iterator, Sequence

from msgspec import structs

from kici.compiler.exchange import Labels, ShapedWorkflow
from kici.engine.jsonpath import InvalidPath, find
from kici.engine.matrix import MAX_VARIANTS, InvalidMatrix, combinations, expand
from kici.engine.patterns import InvalidPattern, PatternSet, compile_regex, glob_to_regex
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.sdk.values import is_glob
from kici.spec import lock


def check(shaped: ShapedWorkflow) -> Iterator[Problem]:
    """Every problem of the workflow that its compiled form shows."""
    yield from _cycles(shaped.lock)
    for job, labels in zip(shaped.lock.jobs, shaped.labels, strict=True):
        yield from _matrix(job)
        yield from _labels(job, labels)
    for trigger, source in zip(shaped.lock.triggers, shaped.trigger_sources, strict=True):
        yield from _trigger(trigger, source)


def with_matchers(shaped: ShapedWorkflow) -> lock.LockWorkflow:
    """The lock entry with its label matchers; globs become anchored regexes. Call after `check`."""
    jobs = [
        structs.replace(
            job,
            runs_on=[_matcher(label) for label in labels.required],
            exclude_labels=[_matcher(label) for label in labels.excluded],
        )
        for job, labels in zip(shaped.lock.jobs, shaped.labels, strict=True)
    ]
    return structs.replace(shaped.lock, jobs=jobs)


def _matcher(label: lock.Pattern) -> lock.LabelMatcher:
    if label.type == "regex":
        return lock.LabelMatcher(kind="regex", source=label.pattern, flags=label.flags)
    if is_glob(label.pattern):
        whole = glob_to_regex(label.pattern).removeprefix(r"(?s)\A").removesuffix(r"\z")
        return lock.LabelMatcher(kind="regex", source=f"^{whole}$")
    return lock.LabelMatcher(kind="exact", value=label.pattern)


def _place(job: lock.LockJob) -> SourceLocation:
    return SourceLocation(file=job.source.file, line=job.source.line, column=job.source.column)


def _cycles(workflow: lock.LockWorkflow) -> Iterator[Problem]:
    """E102, once per circle: depth first, each job entered once."""
    upstreams = {
        job.name: [need.name for need in job.needs if need.name != job.name] for job in workflow.jobs
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


def _matrix(job: lock.LockJob) -> Iterator[Problem]:
    try:
        count = len(combinations(job))
        if job.matrix is None:
            return
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


def _labels(job: lock.LockJob, labels: Labels) -> Iterator[Problem]:
    for label in (*labels.required, *labels.excluded):
        try:
            if label.type == "regex":
                compile_regex(label.pattern, label.flags)
            elif is_glob(label.pattern):
                compile_regex(glob_to_regex(label.pattern))
        except InvalidPattern as wrong:
            yield _refused_regex(f"job {job.name!r}: label {wrong}", _place(job))


def _trigger(trigger: lock.Trigger, source: SourceLocation) -> Iterator[Problem]:
    match trigger:
        case lock.PushTrigger():
            filters = {"branches": trigger.branches, "paths": trigger.paths}
        case lock.TagTrigger():
            filters = {"patterns": trigger.patterns, "paths": trigger.paths}
        case lock.PrTrigger():
            filters = {"target": trigger.target, "source": trigger.source, "paths": trigger.paths}
        case lock.WebhookTrigger():
            return
        case lock.GenericWebhookTrigger():
            yield from _webhook_conditions(trigger, source)
            return
    for name, patterns in filters.items():
        yield from _filter(name, patterns, source)


def _filter(name: str, patterns: Sequence[lock.Pattern], source: SourceLocation) -> Iterator[Problem]:
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


def _webhook_conditions(trigger: lock.GenericWebhookTrigger, source: SourceLocation) -> Iterator[Problem]:
    for path in (*trigger.match, *trigger.not_):
        try:
            find(path, {})
        except InvalidPath as wrong:
            yield Problem(
                code="E407",
                message=str(wrong),
                help="write $.name, $.list[0] or $['odd name']",
                source=source,
            )
    yield Problem(
        code="W403",
        message="generic_webhook() starts this workflow only after its lock file reached the default branch",
        help="merge it, then send the webhook",
        source=source,
        severity="warning",
    )


def _refused_regex(message: str, source: SourceLocation) -> Problem:
    return Problem(
        code="E204",
        message=message,
        help="RE2 has no look-around and no back-references; a glob may do",
        source=source,
    )
