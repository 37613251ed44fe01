"""From definitions to the lock file's Structs, in the child process, and what only the objects can tell about
them: needs, groups, options without effect, functions that are not pure."""

import inspect
from collections.abc import Iterable, Sequence

from msgspec import structs

from kici.compiler.exchange import AccessorUse, ShapedWorkflow
from kici.sdk.definitions import (
    DynamicJobs,
    FlatStep,
    Job,
    JobDefinition,
    MultiJob,
    Need,
    ParallelGroup,
    Workflow,
    flat_steps,
)
from kici.sdk.problems import Problem, nearest, report
from kici.sdk.shaping import (
    Impurity,
    group_names,
    inline_group,
    place,
    relative,
    shape_approval,
    shape_generator,
    shape_job,
    shape_rules,
)
from kici.sdk.signatures import check_parameters
from kici.sdk.source import SourceLocation
from kici.spec import lock


class Shaper:
    """Shapes the workflows of one repository. `uses` are accessor calls by function (W604)."""

    def __init__(self, root: str, uses: Sequence[AccessorUse]) -> None:
        self.root = root
        self.uses: dict[tuple[str, int], list[AccessorUse]] = {}
        for use in uses:
            self.uses.setdefault((use.file, use.function_line), []).append(use)

    def workflow(self, found: Workflow, module_file: str, export: str) -> ShapedWorkflow:
        groups = group_names(found)
        triggers = [(locked, trigger.source) for trigger in found.on for locked in trigger.locked]
        if not triggers:
            _warn(
                "W401",
                f"workflow {found.name!r} has no trigger: no event starts it",
                "add on=[...]",
                found.source,
            )
        for job in found.jobs:
            self._judge(job, found, groups)
        for generator in found.generators:
            _needs_are_known(
                generator.needs, f"generator {groups[generator]!r}", generator.source, found, groups
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
                jobs=[
                    *(shape_job(job, self.root, groups=groups, impure=_impure) for job in found.jobs),
                    *(
                        shape_generator(generator, self.root, index=index, groups=groups)
                        for index, generator in enumerate(found.generators)
                    ),
                ],
                description=found.description,
                hash_files=list(found.hash_files),
                timeout=found.timeout_ms,
                rules=shape_rules(found.rules, f"workflow {found.name!r}", _impure),
                registries=[
                    lock.Registry(
                        url=entry.url,
                        token_secret=entry.token_secret,
                        name=entry.name or "",
                        username=entry.username,
                    )
                    for entry in found.registries
                ],
                install_env=list(found.install_env),
                concurrency=_concurrency(found),
                approval=shape_approval(found.approval),
                has_on_cancel=found.on_cancel is not None,
                has_cleanup=found.cleanup is not None,
                has_on_success=found.on_success is not None,
                has_on_failure=found.on_failure is not None,
            ),
            source=source,
            trigger_sources=[self.location(where) for _, where in triggers],
        )

    def location(self, source: SourceLocation) -> SourceLocation:
        found = place(self.root, source)
        return SourceLocation(file=found.file, line=found.line, column=found.column)

    def problem(self, problem: Problem) -> Problem:
        """The same with a path as people know it."""
        return structs.replace(problem, source=self.location(problem.source) if problem.source else None)

    def _judge(self, job: JobDefinition, workflow: Workflow, groups: dict[DynamicJobs, str]) -> None:
        _needs_are_known(job.options.needs, f"job {job.name!r}", job.source, workflow, groups)
        _effect(job)
        _restart_is_last(job)
        for entry in job.steps:
            if isinstance(entry, ParallelGroup) and len(entry.steps) == 1:
                _warn(
                    "W605",
                    f"job {job.name!r}: parallel group {entry.name!r} has one step",
                    "list the step itself",
                    entry.source,
                )
        supplied = None if job.options.matrix_function is not None else job.options.matrix or ()
        for flat in flat_steps(job.steps):
            check_parameters(flat.step, supplied, job.name)
            self._undeclared_needs(flat, job, groups)

    def _undeclared_needs(self, flat: FlatStep, job: JobDefinition, groups: dict[DynamicJobs, str]) -> None:
        code = getattr(flat.step.fn, "__code__", None)
        if code is None:
            return
        declared = {edge.name for edge in job.options.needs} | {
            _group_of(edge, groups) for edge in job.options.needs
        }
        for use in self.uses.get((code.co_filename, code.co_firstlineno), ()):
            target = flat.step.fn.__globals__.get(use.name)
            name = target.name if isinstance(target, Job | MultiJob) else ""
            if isinstance(target, DynamicJobs):
                name = groups.get(target, target.group)
            if name and name not in declared:
                _warn(
                    "W604",
                    f"job {job.name!r} reads {use.accessor}({use.name}) without needing {name!r}",
                    f"add it: needs=[{use.name}]",
                    SourceLocation(file=use.file, line=use.line, column=use.column),
                )


def _warn(code: str, message: str, help: str, source: SourceLocation) -> None:
    report(code, message, help, source=source, severity="warning")


def _impure(found: Impurity) -> None:
    """W301: it costs an agent and some seconds."""
    report(
        "W301",
        f"{found.what} is evaluated on an agent: {found.why.reason}",
        "pure functions use only their parameter and are decided at once; see `kici explain W301`",
        source=found.place,
        # Who writes `async def` wants an agent to be asked: worth a word, and no reason for --strict to fail.
        severity="note" if inspect.iscoroutinefunction(found.fn) else "warning",
    )


def _concurrency(found: Workflow) -> lock.Concurrency | None:
    settings = found.concurrency
    if settings is None:
        return None
    group = inline_group(found, settings.group, _impure) if callable(settings.group) else settings.group
    return lock.Concurrency(group=group, cancel_in_progress=settings.cancel_in_progress, max=settings.max)


def _group_of(edge: Need, groups: dict[DynamicJobs, str]) -> str:
    if isinstance(edge.job, DynamicJobs):
        return groups.get(edge.job, edge.group)
    return edge.group


def _needs_are_known(
    needs: Iterable[Need], who: str, source: SourceLocation, found: Workflow, groups: dict[DynamicJobs, str]
) -> None:
    """E101, E103, E111."""
    names = [job.name for job in found.jobs]
    for edge in needs:
        if edge.group or isinstance(edge.job, DynamicJobs):
            name = _group_of(edge, groups)
            if name not in groups.values() or (
                isinstance(edge.job, DynamicJobs) and edge.job not in groups and not edge.group
            ):
                guess = nearest(name, groups.values())
                report(
                    "E111",
                    f"{who} needs the group {name!r}, which no generator of this workflow makes",
                    f"did you mean {guess!r}?"
                    if guess
                    else f"add its generator to jobs=[...]; groups: {', '.join(groups.values()) or 'none'}",
                    source=source,
                )
        elif edge.name not in names:
            own = who == f"job {edge.name!r}"
            guess = (
                None if edge.job else nearest(edge.name, [name for name in names if who != f"job {name!r}"])
            )
            if edge.name in groups.values():
                remedy = f"it is a group: needs=[group({edge.name!r})]"
            elif guess:
                remedy = f"did you mean {guess!r}?"
            else:
                remedy = f"add it to jobs=[...]; there are: {', '.join(names)}"
            if not own:
                report(
                    "E101",
                    f"{who} needs {edge.name!r}, which is not in this workflow",
                    remedy,
                    source=source,
                )
        elif who == f"job {edge.name!r}":
            report("E103", f"{who} needs itself", "remove it from `needs`", source=source)


def _effect(job: JobDefinition) -> None:
    """W201…W204: options that do nothing, or not what was meant."""
    options = job.options
    everywhere = options.runs_on_all is not None
    fans_out = everywhere or options.matrix is not None or options.matrix_function is not None
    if not everywhere and options.on_unreachable != "hold":
        _warn(
            "W201",
            f"job {job.name!r}: on_unreachable does nothing without runs_on_all",
            "remove it, or use runs_on_all",
            job.source,
        )
    if not everywhere and options.include_uninitialized:
        _warn(
            "W202",
            f"job {job.name!r}: include_uninitialized does nothing without runs_on_all",
            "remove it, or use runs_on_all",
            job.source,
        )
    if not fans_out and (options.max_parallel is not None or options.fail_fast):
        _warn(
            "W203",
            f"job {job.name!r}: max_parallel and fail_fast do nothing without fan-out",
            "remove them, or add a matrix",
            job.source,
        )
    if everywhere and options.include_uninitialized:
        unchecked = [flat.step.name for flat in flat_steps(job.steps) if flat.step.settings.check is None]
        if unchecked:
            _warn(
                "W204",
                f"job {job.name!r}: include_uninitialized, but step {unchecked[0]!r} has no `check`",
                "give every step check= and summarize=, so that setting up twice changes nothing",
                job.source,
            )


def _restart_is_last(job: JobDefinition) -> None:
    """E207 (AU-51): nothing follows, and nothing runs beside it."""
    every = list(flat_steps(job.steps))
    for flat in every:
        if flat.step.settings.restarts_host and (flat is not every[-1] or flat.group is not None):
            report(
                "E207",
                f"job {job.name!r}: restart_host() is not the last step",
                "move what follows into a job that needs this one",
                source=job.source,
            )
