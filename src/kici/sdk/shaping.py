"""From definitions to the lock file's Structs: jobs of a workflow file, and what generators made at run time.

`shape_job` states what the objects say; whether that makes sense is for the compiler to judge. Paths become
relative to the repository's root. Functions that are pure become expression trees; of the others `impure` hears.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

from msgspec import Struct, structs

from kici.sdk.definitions import (
    Amount,
    Approval,
    Cache,
    CacheKey,
    DynamicJobs,
    FlatStep,
    Hook,
    Hosts,
    Init,
    JobDefinition,
    Need,
    Preset,
    Resources,
    RetryPolicy,
    Rule,
    Step,
    Workflow,
    flat_steps,
)
from kici.sdk.fields import CONCURRENCY, EVENT, RULE, Fields
from kici.sdk.options import regex_flags
from kici.sdk.problems import report
from kici.sdk.purity import Purity, examine
from kici.sdk.refs import hook_reference, reference
from kici.sdk.signatures import check_parameters, has_outputs
from kici.sdk.source import SourceLocation
from kici.sdk.values import Duration, Pattern, as_patterns, duration_ms
from kici.spec import lock
from kici.spec.globs import glob_to_regex, is_glob

DEFAULT_INIT_TIMEOUT_MS = 600_000
# RE2 itself, which the compiler asks, is not at hand where generators run.
_NOT_RE2 = re.compile(r"\(\?(?:[=!>(]|<[=!]|P=)|\\[1-9]")
_HOOKS = {
    "onCancel": "on_cancel",
    "cleanup": "cleanup",
    "onSuccess": "on_success",
    "onFailure": "on_failure",
    "beforeStep": "before_step",
    "afterStep": "after_step",
}


class Impurity(Struct, frozen=True, kw_only=True):
    """A function that has to run on an agent. `what` is `environment of job 'deploy'` and the like."""

    what: str
    fn: Callable[..., Any]
    why: Purity
    source: SourceLocation

    @property
    def place(self) -> SourceLocation:
        """The line that makes it so, where that is known."""
        code = getattr(self.fn, "__code__", None)
        if self.why.line and code is not None:
            return SourceLocation(file=code.co_filename, line=self.why.line)
        return self.source


Impure = Callable[[Impurity], None]


def _unheard(_: Impurity) -> None:
    pass


def relative(root: str, file: str) -> str:
    """`file` below `root`, with `/`; only the name of a file elsewhere, no absolute path in the lock file.
    An installed package is elsewhere, though `.kici/.venv` may hold it: no commit has it, and its folder is
    another one with another Python."""
    path = os.path.relpath(os.path.realpath(file), os.path.realpath(root)).replace(os.sep, "/")
    return os.path.basename(file) if path.startswith("../") or "/site-packages/" in path else path


def place(root: str, source: SourceLocation) -> lock.SourceLocation:
    return lock.SourceLocation(file=relative(root, source.file), line=source.line, column=source.column)


def group_names(workflow: Workflow) -> dict[DynamicJobs, str]:
    """The group of every generator: its own, or `dynamic-N`, where N counts the unnamed (AU-10)."""
    names: dict[DynamicJobs, str] = {}
    unnamed = 0
    for generator in workflow.generators:
        unnamed += not generator.group
        names[generator] = generator.group or f"dynamic-{unnamed}"
    return names


def shape_job(
    job: JobDefinition,
    root: str,
    *,
    groups: Mapping[DynamicJobs, str] | None = None,
    impure: Impure = _unheard,
) -> lock.LockJob:
    """The job as the lock file has it. `groups` as from `group_names`, for needs of unnamed generators."""
    options = job.options
    shaper = _Job(job, root, impure)
    labels = as_patterns(options.runs_on.labels)
    return lock.LockJob(
        name=job.name,
        source=place(root, job.source),
        runs_on=[_matcher(label) for label in labels if not _is_negative(label)],
        exclude_labels=[
            _matcher(label)
            for label in (
                *as_patterns(options.runs_on.exclude),
                *(label for label in labels if _is_negative(label)),
            )
        ],
        runs_on_pick=options.runs_on.pick,
        runs_on_all=_hosts(options.runs_on_all),
        on_unreachable=options.on_unreachable,
        include_uninitialized=options.include_uninitialized,
        needs=shape_needs(options.needs, groups or {}),
        matrix=shaper.matrix(),
        include=[dict(entry) for entry in options.include],
        exclude=[dict(entry) for entry in options.exclude],
        max_parallel=options.max_parallel,
        fail_fast=options.fail_fast,
        steps=[_step(flat, root, job.name) for flat in flat_steps(job.steps)],
        env=dict(options.env),
        inline_env=shaper.inline_env,
        dynamic_env=options.env_function is not None and shaper.inline_env is None,
        environments=[shaper.environment(value) for value in options.environments],
        concurrency_group=shaper.concurrency_group,
        dynamic_concurrency_group=callable(options.concurrency_group) and shaper.concurrency_group is None,
        checkout=options.checkout,
        container=(
            lock.Container(image=options.container.image, env=dict(options.container.env))
            if options.container
            else None
        ),
        resources=_resources(options.resources),
        init=[_init(entry) for entry in options.init],
        init_off=options.init_off,
        cache=[shape_cache(entry) for entry in options.cache],
        approval=shape_approval(options.approval),
        timeout=options.timeout_ms,
        grace_period=options.grace_period_ms,
        rules=shape_rules(options.rules, f"job {job.name!r}", impure),
        description=options.description,
        has_on_cancel=options.on_cancel is not None,
        has_cleanup=options.cleanup is not None,
        has_on_success=options.on_success is not None,
        has_on_failure=options.on_failure is not None,
        has_before_step=options.before_step is not None,
        has_after_step=options.after_step is not None,
    )


def shape_generated(
    job: JobDefinition,
    root: str,
    *,
    group: str,
    groups: Mapping[DynamicJobs, str] | None = None,
) -> lock.LockJob:
    """A job that generator `group` returned, as data (AU-44): its steps and hooks are references.

    Reports E603 (and E118, E601) for what cannot travel: closures, lambdas, functions that only an agent
    could evaluate, parameters that are not JSON. Collect the problems; the result is of use only without.
    """

    def refuse(what: str, why: str, source: SourceLocation) -> None:
        report(
            "E603",
            f"generated job {job.name!r}: {what} cannot travel: {why}",
            "use a module-level step and .bind(...) what differs",
            source=source,
        )

    shaped = shape_job(
        job,
        root,
        groups=groups,
        impure=lambda found: refuse(
            found.what, f"its function is not pure ({found.why.reason})", found.source
        ),
    )
    for matcher in (*shaped.runs_on, *shaped.exclude_labels):
        if matcher.kind == "regex" and (found := _NOT_RE2.search(matcher.source)):
            report(
                "E204",
                f"generated job {job.name!r}: label /{matcher.source}/ uses {found[0]!r}",
                "RE2 has no look-around and no back-references; a glob may do",
                source=job.source,
            )
    if job.options.matrix_function is not None:
        refuse("its matrix", "it is a function; pass the values themselves", job.source)
    steps: list[lock.LockStep] = []
    for flat, step in zip(flat_steps(job.steps), shaped.steps, strict=True):
        check_parameters(flat.step, job.options.matrix or (), job.name)
        ref = reference(flat.step)
        if isinstance(ref, str):
            refuse(f"step {flat.step.name!r}", ref, flat.step.source)
        else:
            steps.append(structs.replace(step, ref=ref))
    hooks: dict[str, lock.StepRef] = {}
    for kind, name in _HOOKS.items():
        hook = cast("Hook | None", getattr(job.options, name))
        ref = hook_reference(hook) if hook is not None else None
        if isinstance(ref, str):
            refuse(f"hook `{name}`", ref, hook.source if hook else job.source)
        elif ref is not None:
            hooks[kind] = ref
    return structs.replace(shaped, steps=steps, hooks=hooks, generated=True, group=group)


def shape_generator(
    generator: DynamicJobs, root: str, *, index: int, groups: Mapping[DynamicJobs, str]
) -> lock.LockJob:
    """The generator's own entry. `index` is its place among the workflow's generators."""
    return lock.LockJob(
        type="dynamic",
        name=groups[generator],
        source=structs.replace(place(root, generator.source), index=index),
        needs=shape_needs(generator.needs, groups),
        group=groups[generator],
    )


def shape_needs(needs: Iterable[Need], groups: Mapping[DynamicJobs, str]) -> list[lock.Need]:
    return [
        lock.Need(run_on=sorted(need.run_on), group=groups.get(need.job, need.group) or need.group)
        if isinstance(need.job, DynamicJobs)
        else lock.Need(run_on=sorted(need.run_on), name=need.name, group=need.group)
        for need in needs
    ]


def shape_rules(rules: Iterable[Rule], where: str, impure: Impure = _unheard) -> list[lock.Rule]:
    return [
        lock.Rule(
            label=rule.label,
            negate=rule.negate,
            inline=inline(
                rule.check,
                f"rule {rule.label!r} of {where}",
                rule.source,
                impure,
                fields=RULE,
                boolean=True,
            ),
        )
        for rule in rules
    ]


def inline(
    fn: Callable[..., Any],
    what: str,
    source: SourceLocation,
    impure: Impure = _unheard,
    *,
    fields: Fields = EVENT,
    boolean: bool = False,
) -> lock.Inline | None:
    """The expression tree of a pure function of what has `fields`; `boolean` asks only whether its value is
    true. Reports E120 for one that reads what does not exist: that is no question of where it runs."""
    found = examine(fn, fields)
    if not found.pure:
        impurity = Impurity(what=what, fn=fn, why=found, source=source)
        if found.help:
            report("E120", f"{what}: {found.reason}", found.help, source=impurity.place)
        else:
            impure(impurity)
        return None
    return lock.Inline(expression=["call", "bool", found.tree] if boolean else found.tree)


def inline_group(
    workflow: Workflow, fn: Callable[..., Any], impure: Impure = _unheard
) -> lock.Inline | None:
    """The function that names a workflow's concurrency group."""
    what = f"`concurrency` of workflow {workflow.name!r}"
    return inline(fn, what, workflow.source, impure, fields=CONCURRENCY)


def shape_approval(approval: Approval | None) -> lock.Approval | None:
    if approval is None:
        return None
    timeout_ms = _milliseconds(approval.timeout)
    return lock.Approval(
        clauses=[lock.Approver(team=entry.team, user=entry.user) for entry in approval.approvers],
        when=approval.when,
        reason=approval.reason,
        timeout_seconds=None if timeout_ms is None else max(1, -(-timeout_ms // 1000)),
    )


def shape_cache(cache: Cache) -> lock.Cache:
    key = cache.key
    if isinstance(key, CacheKey):
        return lock.Cache(
            paths=list(cache.paths),
            prefix=key.prefix,
            parts=list(key.parts),
            files=list(key.files),
            restore_keys=list(cache.restore_keys),
        )
    return lock.Cache(paths=list(cache.paths), key=key, restore_keys=list(cache.restore_keys))


class _Job:
    """The functions of one job, each examined once."""

    def __init__(self, job: JobDefinition, root: str, impure: Impure) -> None:
        self._job = job
        self._impure = impure
        options = job.options
        self.inline_env = None
        if options.env_function is not None:
            self.inline_env = self._inline("env", options.env_function)
        group = options.concurrency_group
        self.concurrency_group: str | lock.Inline | None
        self.concurrency_group = self._inline("concurrency_group", group) if callable(group) else group

    def environment(self, value: str | Callable[..., Any]) -> lock.DynamicValue:
        if not callable(value):
            return lock.DynamicValue(value=value)
        found = self._inline("environment", value)
        return lock.DynamicValue(dynamic=found is None, inline=found)

    def matrix(self) -> lock.Matrix | None:
        options = self._job.options
        if options.matrix_function is not None:
            return lock.Matrix(type="dynamic")
        if options.matrix is None:
            return None
        return lock.Matrix(values={key: list(values) for key, values in options.matrix.items()})

    def _inline(self, option: str, fn: Callable[..., Any]) -> lock.Inline | None:
        return inline(fn, f"`{option}` of job {self._job.name!r}", self._job.source, self._impure)


def _step(flat: FlatStep, root: str, job_name: str) -> lock.LockStep:
    settings = flat.step.settings
    group = flat.group
    return lock.LockStep(
        name=flat.step.name,
        source_location=place(root, flat.step.source),
        has_outputs=has_outputs(flat.step, job_name),
        timeout=settings.timeout_ms,
        retry=_retry(settings.retry),
        continue_on_error=settings.continue_on_error,
        parallel_group=group.name if group else "",
        parallel_fail_fast=group.fail_fast if group else True,
        parallel_max=group.max_parallel if group else None,
        rules=_step_rules(flat.step, job_name),
        cache=[shape_cache(entry) for entry in settings.cache],
        approval=shape_approval(settings.approval),
        has_check=settings.check is not None,
        has_when_in_sync=settings.check is not None and settings.check.when_in_sync is not None,
        restarts_host=settings.restarts_host,
        has_on_cancel=settings.on_cancel is not None,
        has_cleanup=settings.cleanup is not None,
    )


def _step_rules(step: Step[Any], job_name: str) -> list[lock.Rule]:
    """An agent decides them; what they read is checked all the same."""
    return [
        structs.replace(rule, inline=None)
        for rule in shape_rules(step.settings.rules, f"step {step.name!r} of job {job_name!r}")
    ]


def _retry(policy: RetryPolicy | None) -> lock.Retry | None:
    if policy is None:
        return None
    return lock.Retry(
        attempts=policy.attempts,
        delay=policy.delay_ms,
        max_delay=policy.max_delay_ms,
        backoff=policy.backoff,
    )


def _resources(resources: Resources | None) -> lock.Resources | None:
    if resources is None:
        return None
    return lock.Resources(requests=_amount(resources.requests), limits=_amount(resources.limits))


def _amount(amount: Amount | None) -> lock.Amount | None:
    if amount is None:
        return None
    # The constructor of jobs left bytes; anything else it has reported.
    memory = amount.memory if isinstance(amount.memory, int) else None
    return lock.Amount(memory_bytes=memory, cpus=amount.cpus)


def _milliseconds(value: Duration | None) -> int | None:
    """None also for what a constructor has reported."""
    if value is None:
        return None
    try:
        return duration_ms(value)
    except ValueError:
        return None


def _init(entry: Init | Preset) -> lock.Init:
    shared = {
        "shell": entry.shell,
        "timeout": _milliseconds(entry.timeout) or DEFAULT_INIT_TIMEOUT_MS,
        "env": dict(entry.env),
        "cache": shape_cache(entry.cache) if isinstance(entry.cache, Cache) else None,
    }
    if isinstance(entry, Init):
        return lock.Init(run=entry.run, **cast("Any", shared))
    options: dict[str, Any] = {}
    if entry.python is not None:
        options["python"] = entry.python
    if entry.groups:
        options["groups"] = list(entry.groups)
    return lock.Init(
        preset=entry.name, use_cache=entry.cache is not False, options=options, **cast("Any", shared)
    )


def _hosts(hosts: Hosts | None) -> lock.HostSelection | None:
    """A leading `!` inside a group excludes for the whole selection."""
    if hosts is None:
        return None
    groups = [as_patterns(entry) for entry in hosts.include]
    negative = [label for labels in groups for label in labels if _is_negative(label)]
    return lock.HostSelection(
        include=[[_matcher(label) for label in labels if not _is_negative(label)] for labels in groups],
        exclude=[_matcher(label) for label in (*as_patterns(hosts.exclude), *negative)],
    )


def _is_negative(label: Pattern) -> bool:
    return (label if isinstance(label, str) else label.pattern).startswith("!")


def _matcher(label: Pattern) -> lock.LabelMatcher:
    """Globs compile to anchored regexes; a `!` has done its work by now."""
    if not isinstance(label, str):
        return lock.LabelMatcher(
            kind="regex", source=label.pattern.removeprefix("!"), flags=regex_flags(label)
        )
    text = label.removeprefix("!")
    if is_glob(text):
        whole = glob_to_regex(text).removeprefix(r"(?s)\A").removesuffix(r"\z")
        return lock.LabelMatcher(kind="regex", source=f"^{whole}$")
    return lock.LabelMatcher(kind="exact", value=text)
