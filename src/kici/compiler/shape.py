"""From definitions to the lock file's Structs, in the child process: what only the objects can tell."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kici.compiler.exchange import AccessorUse, Labels, ShapedWorkflow
from kici.compiler.signatures import check_parameters, has_outputs
from kici.sdk.definitions import (
    FlatStep,
    Job,
    JobDefinition,
    MultiJob,
    ParallelGroup,
    RetryPolicy,
    Workflow,
    flat_steps,
)
from kici.sdk.options import regex_flags
from kici.sdk.problems import Problem, nearest, report
from kici.sdk.source import SourceLocation
from kici.sdk.values import Pattern, as_patterns
from kici.spec import lock


def relative(root: str, file: str) -> str:
    """`file` below `root`, with `/`; only the name of a file elsewhere, no absolute path in the lock file."""
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(root))
    return os.path.basename(file) if path.startswith("..") else path.replace(os.sep, "/")


class Shaper:
    """Shapes the workflows of one repository. `uses` are accessor calls by function (W604)."""

    def __init__(self, root: str, uses: Sequence[AccessorUse]) -> None:
        self.root = root
        self.uses: dict[tuple[str, int], list[AccessorUse]] = {}
        for use in uses:
            self.uses.setdefault((use.file, use.function_line), []).append(use)

    def workflow(self, found: Workflow, module_file: str, export: str) -> ShapedWorkflow:
        names = [job.name for job in found.jobs]
        triggers = [(locked, trigger.source) for trigger in found.on for locked in trigger.locked]
        if not triggers:
            _warn(
                "W401",
                f"workflow {found.name!r} has no trigger: no event starts it",
                "add on=[...]",
                found.source,
            )
        file = relative(self.root, module_file)
        source = self.location(found.source)
        return ShapedWorkflow(
            lock=lock.LockWorkflow(
                name=found.name,
                source=lock.SourceLocation(
                    file=file,
                    line=source.line if source.file == file else 1,
                    column=source.column if source.file == file else 1,
                    export="#" + export,
                ),
                content_hash="",
                compile_schema_version=lock.COMPILE_SCHEMA_VERSION,
                triggers=[locked for locked, _ in triggers],
                jobs=[self.job(job, names) for job in found.jobs],
                description=found.description,
                hash_files=list(found.hash_files),
                timeout=found.timeout_ms,
            ),
            source=source,
            labels=[_labels(job) for job in found.jobs],
            trigger_sources=[self.location(where) for _, where in triggers],
        )

    def job(self, job: JobDefinition, names: Sequence[str]) -> lock.LockJob:
        options = job.options
        for edge in options.needs:
            if edge.name not in names:
                guess = (
                    None if edge.job else nearest(edge.name, [name for name in names if name != job.name])
                )
                remedy = (
                    f"did you mean {guess!r}?"
                    if guess
                    else f"add it to jobs=[...]; there are: {', '.join(names)}"
                )
                report(
                    "E101",
                    f"job {job.name!r} needs {edge.name!r}, which is not in this workflow",
                    remedy,
                    source=job.source,
                )
            elif edge.name == job.name:
                report(
                    "E103", f"job {job.name!r} needs itself", "remove it from `needs`", source=job.source
                )
        if options.matrix is None and (options.max_parallel is not None or options.fail_fast):
            _warn(
                "W203",
                f"job {job.name!r}: max_parallel and fail_fast do nothing without a matrix",
                "remove them, or add a matrix",
                job.source,
            )
        for entry in job.steps:
            if isinstance(entry, ParallelGroup) and len(entry.steps) == 1:
                _warn(
                    "W605",
                    f"job {job.name!r}: parallel group {entry.name!r} has one step",
                    "list the step itself",
                    entry.source,
                )
        for flat in flat_steps(job.steps):
            check_parameters(flat.step, options.matrix or (), job.name)
            self._undeclared_needs(flat, job)
        where = self.location(job.source)
        return lock.LockJob(
            name=job.name,
            source=lock.SourceLocation(file=where.file, line=where.line, column=where.column),
            runs_on_pick=options.runs_on.pick,
            needs=[lock.Need(name=edge.name, run_on=sorted(edge.run_on)) for edge in options.needs],
            matrix=_matrix(options.matrix),
            include=[dict(entry) for entry in options.include],
            exclude=[dict(entry) for entry in options.exclude],
            max_parallel=options.max_parallel,
            fail_fast=options.fail_fast,
            steps=[self.step(flat, job.name) for flat in flat_steps(job.steps)],
            env=dict(options.env),
            checkout=options.checkout,
            timeout=options.timeout_ms,
            grace_period=options.grace_period_ms,
            description=options.description,
            has_on_cancel=options.on_cancel is not None,
            has_cleanup=options.cleanup is not None,
            has_on_success=options.on_success is not None,
            has_on_failure=options.on_failure is not None,
            has_before_step=options.before_step is not None,
            has_after_step=options.after_step is not None,
        )

    def step(self, flat: FlatStep, job_name: str) -> lock.LockStep:
        settings = flat.step.settings
        where = self.location(flat.step.source)
        return lock.LockStep(
            name=flat.step.name,
            source_location=lock.SourceLocation(file=where.file, line=where.line, column=where.column),
            has_outputs=has_outputs(flat.step, job_name),
            timeout=settings.timeout_ms,
            retry=_retry(settings.retry),
            continue_on_error=settings.continue_on_error,
            parallel_group=flat.group.name if flat.group else "",
        )

    def location(self, source: SourceLocation) -> SourceLocation:
        return SourceLocation(file=relative(self.root, source.file), line=source.line, column=source.column)

    def problem(self, problem: Problem) -> Problem:
        """The same with a path as people know it."""
        where = self.location(problem.source) if problem.source else None
        return Problem(
            code=problem.code,
            message=problem.message,
            help=problem.help,
            source=where,
            severity=problem.severity,
        )

    def _undeclared_needs(self, flat: FlatStep, job: JobDefinition) -> None:
        code = getattr(flat.step.fn, "__code__", None)
        if code is None:
            return
        declared = {edge.name for edge in job.options.needs}
        for use in self.uses.get((code.co_filename, code.co_firstlineno), ()):
            target = flat.step.fn.__globals__.get(use.name)
            if isinstance(target, Job | MultiJob) and target.name and target.name not in declared:
                _warn(
                    "W604",
                    f"job {job.name!r} reads {use.accessor}({use.name}) without needing {target.name!r}",
                    f"add it: needs=[{use.name}]",
                    SourceLocation(file=use.file, line=use.line, column=use.column),
                )


def _warn(code: str, message: str, help: str, source: SourceLocation) -> None:
    report(code, message, help, source=source, severity="warning")


def _matrix(values: Mapping[str, Iterable[Any]] | None) -> lock.Matrix | None:
    return (
        None
        if values is None
        else lock.Matrix(values={key: list(entries) for key, entries in values.items()})
    )


def _retry(policy: RetryPolicy | None) -> lock.Retry | None:
    if policy is None:
        return None
    return lock.Retry(
        attempts=policy.attempts,
        delay=policy.delay_ms,
        max_delay=policy.max_delay_ms,
        backoff=policy.backoff,
    )


def _labels(job: JobDefinition) -> Labels:
    """A leading `!` moves a label to the other side."""
    runner = job.options.runs_on
    required = [_pattern(label) for label in as_patterns(runner.labels)]
    excluded = [_pattern(label) for label in as_patterns(runner.exclude)]
    return Labels(
        required=[label for label in required if not label.pattern.startswith("!")],
        excluded=[
            lock.Pattern(type=label.type, pattern=label.pattern.removeprefix("!"), flags=label.flags)
            for label in (*excluded, *(label for label in required if label.pattern.startswith("!")))
        ],
    )


def _pattern(pattern: Pattern) -> lock.Pattern:
    if isinstance(pattern, re.Pattern):
        return lock.Pattern(type="regex", pattern=pattern.pattern, flags=regex_flags(pattern))
    return lock.Pattern(type="glob", pattern=pattern)
