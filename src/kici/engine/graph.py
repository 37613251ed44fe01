"""The jobs of a run with their edges, matrices expanded and setup rows in place (OR-130…137). Pure.

Setup rows are jobs like any other: `init` evaluates functions that only author code can tell, `dynamic` runs
a generator, `hooks` runs those of the workflow. Who needs what they find out has an edge on them. Whether a run
also has a `build` is known only when it starts (see `engine.builds`).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import ClassVar, Literal

from msgspec import Struct

from kici.engine.matrix import Variant, expand, is_dynamic
from kici.spec.errors import InvalidInput
from kici.spec.lock import LabelMatcher, LockJob, LockStep, LockWorkflow, Need
from kici.spec.states import JOB_TERMINAL, JobStatus

Kind = Literal["job", "init", "build", "dynamic", "hooks"]

SETUP_TIMEOUT_MS = 600_000  # of a whole setup row; each function has its own, shorter one (AU-42, AU-43)

SUCCESS = (str(JobStatus.SUCCESS),)
ALWAYS = tuple(sorted(JOB_TERMINAL))
_ANY_AGENT = LabelMatcher(kind="exact", value="kici:os:linux")


class InvalidGraph(InvalidInput):
    """The run fails with category `lock_resolution`: the compiler would have refused this lock file."""

    code: ClassVar[str] = "invalid_graph"


class PlannedNeed(Struct, frozen=True, kw_only=True):
    """`group`: the upstream is needed as part of it. On a generator, `run_on` has `success` besides what the
    author asked for, and `group_run_on` is what satisfies the edges to the jobs that it makes."""

    upstream: int  # index into the plan
    run_on: tuple[str, ...]  # upstream statuses that satisfy the edge
    group: str = ""
    group_run_on: tuple[str, ...] = ()


class PlannedJob(Struct, frozen=True, kw_only=True):
    """`position` counts jobs as written; the variants of one and its setup row share it.

    `target`: init: the base job whose functions it evaluates, "" for the workflow's; dynamic: the group.
    `failure_category`: init: what its failure is called where it is needed; build: what its own is called.
    """

    position: int
    job: LockJob
    variant: Variant
    needs: tuple[PlannedNeed, ...]
    kind: Kind = "job"
    target: str = ""
    generator_index: int = 0
    fanout_index: int = 0
    fanout_total: int = 1
    failure_category: str = ""

    @property
    def name(self) -> str:
        return self.variant.job_name


# ── names ────────────────────────────────────────────────────────────────────────────────────────


def needs_init(job: LockJob) -> bool:
    """It has a function that only author code can evaluate, before the job is dispatched (AU-42)."""
    return (
        job.dynamic_env
        or job.dynamic_concurrency_group
        or is_dynamic(job)
        or any(value.dynamic for value in job.environments)
    )


def workflow_needs_init(workflow: LockWorkflow) -> bool:
    """Its rules or its concurrency group are author code."""
    return any(rule.inline is None for rule in workflow.rules) or (
        workflow.concurrency is not None
        and workflow.concurrency.has_group
        and workflow.concurrency.group is None
    )


def workflow_hooks(workflow: LockWorkflow) -> list[str]:
    return [
        name
        for name, present in (
            ("onSuccess", workflow.has_on_success),
            ("onFailure", workflow.has_on_failure),
            ("onCancel", workflow.has_on_cancel),
            ("cleanup", workflow.has_cleanup),
        )
        if present
    ]


def hooks_for(hooks: Iterable[str], status: str, check_mode: str = "apply") -> list[str]:
    """Those of the workflow's hooks that a run with this outcome has use for (AU-33, AU-49)."""
    wanted = {"success": "onSuccess", "failed": "onFailure", "cancelled": "onCancel"}.get(status)
    return [
        hook
        for hook in hooks
        if wanted is not None and (hook == "cleanup" or (hook == wanted and check_mode == "apply"))
    ]


def why_no_hooks(
    hooks: Iterable[str], status: str, check_mode: str = "apply", *, began: bool
) -> str | None:
    """Why the workflow's hooks do not run; None when they do. `began`: work of a job was handed to a runner. A
    run that was called off before has nothing to observe; one that failed before has."""
    if not hooks_for(hooks, status, check_mode):
        return f"no hook is for a run that is {status}"
    if began or status == "failed":
        return None
    return f"the run was {'called off' if status == 'cancelled' else 'over'} before anything began"


# ── planning ─────────────────────────────────────────────────────────────────────────────────────


def check_graph(jobs: Sequence[LockJob]) -> None:
    """Raises InvalidGraph for a duplicate name, an unknown upstream or a cycle."""
    by_name: dict[str, LockJob] = {}
    groups: dict[str, LockJob] = {}
    for job in jobs:
        known = groups if job.type == "dynamic" else by_name
        if job.name in known:
            raise InvalidGraph(f"two {'groups' if known is groups else 'jobs'} are named {job.name!r}")
        known[job.name] = job
    for job in jobs:
        for need in job.needs:
            if not need.name and need.group not in groups:
                raise InvalidGraph(
                    f"job {job.name!r} needs the group {need.group!r}, which no generator makes"
                )
            if need.name and need.name not in by_name:
                raise InvalidGraph(f"job {job.name!r} needs {need.name!r}, which does not exist")
    check_circles({_title(job): {need.name or f"group {need.group}" for need in job.needs} for job in jobs})


def _title(job: LockJob) -> str:
    return f"group {job.name}" if job.type == "dynamic" else job.name


def check_circles(waiting: dict[str, set[str]]) -> None:
    """Removes jobs whose upstreams are all gone; what remains stands on a circle or behind one."""
    downstreams: dict[str, list[str]] = {name: [] for name in waiting}
    for name, upstreams in waiting.items():
        for upstream in upstreams:
            downstreams[upstream].append(name)
    ready = [name for name, upstreams in waiting.items() if not upstreams]
    while ready:
        done = ready.pop()
        del waiting[done]
        for name in downstreams[done]:
            waiting[name].discard(done)
            if not waiting[name]:
                ready.append(name)
    if waiting:
        raise InvalidGraph(f"jobs need each other in a circle: {' → '.join(_cycle(waiting))}")


def _cycle(waiting: Mapping[str, set[str]]) -> list[str]:
    """One circle among jobs that all wait for another of them."""
    path = [min(waiting)]
    while True:
        following = min(waiting[path[-1]] & waiting.keys())
        if following in path:
            return [*path[path.index(following) :], following]
        path.append(following)


def plan(workflow: LockWorkflow) -> list[PlannedJob]:
    """All jobs to run, in order of the lock file, static matrices expanded, every setup row before its
    target; `needs: <base>` waits for every child. A job with a runtime matrix stands there once.

    Raises InvalidGraph or InvalidMatrix.
    """
    check_graph(workflow.jobs)
    return _Planner(workflow).plan()


class _Planner:
    def __init__(self, workflow: LockWorkflow) -> None:
        self._workflow = workflow
        self._rows: list[PlannedJob] = []
        self._wanted: list[Sequence[Need]] = []  # per row, as the author wrote it
        self._inits: dict[str, int] = {}
        self._children: dict[str, list[int]] = {}
        self._generators: dict[str, int] = {}

    def plan(self) -> list[PlannedJob]:
        workflow = self._workflow
        if workflow_needs_init(workflow):
            self._add(self._setup(0, "init", f"__init__{workflow.name}"), ())
        for position, job in enumerate(workflow.jobs):
            if job.type == "dynamic":
                self._add_generator(position, job)
            else:
                self._add_job(position, job)
        rows = [self._with_needs(index) for index in range(len(self._rows))]
        if workflow_hooks(workflow):
            needs = tuple(PlannedNeed(upstream=index, run_on=ALWAYS) for index in range(len(rows)))
            rows.append(self._setup(len(workflow.jobs), "hooks", f"__hooks__{workflow.name}", needs=needs))
        return rows

    def _add(self, row: PlannedJob, wanted: Sequence[Need]) -> int:
        self._rows.append(row)
        self._wanted.append(wanted)
        return len(self._rows) - 1

    def _add_generator(self, position: int, job: LockJob) -> None:
        index = job.source.index or 0
        name = f"__dynamic__{self._workflow.name}__{index}"
        row = self._setup(
            position, "dynamic", name, like=job, target=job.name, index=index, labels=[_ANY_AGENT]
        )
        self._generators[job.name] = self._add(row, job.needs)

    def _add_job(self, position: int, job: LockJob) -> None:
        if needs_init(job):
            dynamic = is_dynamic(job)
            row = self._setup(
                position,
                "init",
                f"__init__{self._workflow.name}__{job.name}",
                like=job,
                target=job.name,
                labels=job.runs_on or [_ANY_AGENT],
                category="matrix_expansion" if dynamic else "dynamic_eval",
            )
            # Only a matrix function sees what came before; the others need not wait for it.
            self._inits[job.name] = self._add(row, job.needs if dynamic else ())
        for planned in variants_of(position, job):
            self._children.setdefault(job.name, []).append(self._add(planned, job.needs))

    def _setup(
        self,
        position: int,
        kind: Kind,
        name: str,
        *,
        like: LockJob | None = None,
        target: str = "",
        index: int = 0,
        labels: Sequence[LabelMatcher] = (_ANY_AGENT,),
        category: str = "dynamic_eval",
        needs: tuple[PlannedNeed, ...] = (),
    ) -> PlannedJob:
        return setup_row(
            self._workflow,
            position,
            kind,
            name,
            step={"init": "init", "dynamic": "evaluate"}.get(kind),
            like=like,
            labels=labels,
            target=target,
            index=index,
            checkout=True if like is None else like.checkout,
            category=category if kind == "init" else "",
            # Hooks have their own limits, five minutes each (AG-53).
            timeout_ms=None if kind == "hooks" else SETUP_TIMEOUT_MS,
            needs=needs,
        )

    def _with_needs(self, index: int) -> PlannedJob:
        row = self._rows[index]
        edges = dict(edges_of(self._wanted[index], self._children, self._generators))
        init = self._inits.get(row.variant.base_job_name) if row.kind == "job" else None
        if init is not None:
            edges[init] = PlannedNeed(upstream=init, run_on=SUCCESS)
        if not edges and index != 0 and workflow_needs_init(self._workflow):
            edges[0] = PlannedNeed(upstream=0, run_on=SUCCESS)
        return row if not edges else with_needs(row, tuple(edges.values()))


def setup_row(
    workflow: LockWorkflow,
    position: int,
    kind: Kind,
    name: str,
    *,
    step: str | None,
    like: LockJob | None,
    timeout_ms: int | None,
    labels: Sequence[LabelMatcher] | None = None,
    target: str = "",
    index: int = 0,
    checkout: bool = True,
    category: str = "",
    needs: tuple[PlannedNeed, ...] = (),
) -> PlannedJob:
    """A row beside the author's jobs, with one synthetic step (AG-67). It goes to the agents of `like`, or to
    those with `labels`."""
    source = workflow.source if like is None else like.source
    if labels is None:
        labels = [_ANY_AGENT] if like is None else like.runs_on
    job = LockJob(
        name=name,
        source=source,
        runs_on=list(labels),
        exclude_labels=[] if like is None else like.exclude_labels,
        runs_on_pick="deterministic" if like is None else like.runs_on_pick,
        checkout=checkout,
        steps=[] if step is None else [LockStep(name=step, source_location=source)],
        timeout=timeout_ms,
    )
    return PlannedJob(
        position=position,
        job=job,
        variant=Variant(job_name=name, base_job_name=name),
        needs=needs,
        kind=kind,
        target=target,
        generator_index=index,
        failure_category=category,
    )


def variants_of(position: int, job: LockJob) -> Iterator[PlannedJob]:
    """The rows of one job, without edges. Raises InvalidMatrix."""
    variants = [Variant(job_name=job.name, base_job_name=job.name)] if is_dynamic(job) else expand(job)
    for index, variant in enumerate(variants):
        yield PlannedJob(
            position=position,
            job=job,
            variant=variant,
            needs=(),
            fanout_index=index,
            fanout_total=len(variants),
        )


def with_needs(row: PlannedJob, needs: tuple[PlannedNeed, ...]) -> PlannedJob:
    return PlannedJob(
        **{name: getattr(row, name) for name in PlannedJob.__struct_fields__ if name != "needs"},
        needs=needs,
    )


def edges_of(
    needs: Sequence[Need],
    children: Mapping[str, Sequence[int]],
    generators: Mapping[str, int],
    members: Mapping[str, Sequence[int]] | None = None,
) -> Iterator[tuple[int, PlannedNeed]]:
    """Upstream → edge. One upstream named twice must satisfy both."""
    names: dict[tuple[str, str], tuple[str, ...]] = {}
    for need in needs:
        key = (need.name, need.group if not need.name else "")
        earlier = names.get(key)
        names[key] = tuple(sorted(need.run_on if earlier is None else set(earlier) & set(need.run_on)))
    found: dict[int, PlannedNeed] = {}
    for (name, group), run_on in names.items():
        if name:
            for upstream in children[name]:
                found[upstream] = PlannedNeed(upstream=upstream, run_on=run_on)
            continue
        generator = generators[group]
        found[generator] = PlannedNeed(
            upstream=generator,
            run_on=tuple(sorted({*run_on, *SUCCESS})),
            group=group,
            group_run_on=run_on,
        )
        for upstream in (members or {}).get(group, ()):
            by_name = found.get(upstream)
            found[upstream] = PlannedNeed(
                upstream=upstream,
                run_on=run_on if by_name is None else tuple(sorted({*run_on} & {*by_name.run_on})),
                group=group,
            )
    yield from found.items()
