"""Which workflows and jobs a command is about: what an event starts, and what options leave of it."""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct, structs

from kici.cli.local.results import Unmatched
from kici.cli.local.rows import fits
from kici.cli.occasions import Given, Occasion
from kici.engine.graph import PlannedJob, plan
from kici.engine.inputs import resolve
from kici.engine.triggers import match_workflow
from kici.spec import lock, triggers
from kici.spec.errors import InvalidInput


class NothingToRun(InvalidInput):
    """No workflow starts on the event, or none has the name. `unmatched`: which were asked, and why not."""

    def __init__(self, message: str, unmatched: Sequence[Unmatched] = ()) -> None:
        super().__init__(message)
        self.unmatched = list(unmatched)


class Filters(Struct, frozen=True, kw_only=True):
    """`--job`, `--step`, `--matrix`; empty means all."""

    job: str | None = None
    steps: list[str] = []
    combination: dict[str, str] = {}

    @property
    def partial(self) -> bool:
        return self.job is not None or bool(self.steps)


class Chosen(Struct, frozen=True, kw_only=True):
    """A workflow that starts, why, and which of its jobs run. `wants_generated`: `--job` may name one that a
    generator has yet to make."""

    workflow: lock.LockWorkflow
    trigger: str
    planned: list[PlannedJob]
    inputs: dict[str, Any]
    wants_generated: bool = False


def known_workflow(document: lock.LockFile, name: str | None) -> list[lock.LockWorkflow]:
    """The one with the name, or all. Raises NothingToRun."""
    if name is None:
        return document.workflows
    found = [workflow for workflow in document.workflows if workflow.name == name]
    if not found:
        known = ", ".join(workflow.name for workflow in document.workflows)
        raise NothingToRun(f"there is no workflow {name!r}; workflows: {known}")
    return found


def choose(
    workflows: Sequence[lock.LockWorkflow], occasion: Occasion, given: Given, filters: Filters
) -> tuple[list[Chosen], list[Unmatched]]:
    """What starts, and the others with why not. Raises NothingToRun; InvalidInput for wrong inputs."""
    chosen: list[Chosen] = []
    unmatched: list[Unmatched] = []
    known: list[str] = []
    for workflow in workflows:
        decision = match_workflow(workflow.triggers, occasion.event)
        if not decision.matched or decision.trigger_index is None:
            unmatched.append(Unmatched(workflow=workflow.name, reason=decision.reason))
            continue
        inputs = inputs_of(workflow.triggers[decision.trigger_index], given)
        planned = plan(workflow)
        known += _names(planned)
        kept, wants_generated = _filtered(planned, filters)
        if kept:
            chosen.append(
                Chosen(
                    workflow=workflow,
                    trigger=decision.reason,
                    planned=kept,
                    inputs=inputs,
                    wants_generated=wants_generated,
                )
            )
    if chosen:
        return chosen, unmatched
    if known:
        raise NothingToRun(f"{_nothing(filters)} among {', '.join(dict.fromkeys(known))}")
    reasons = "".join(f"\n  {entry.workflow}: {entry.reason}" for entry in unmatched)
    raise NothingToRun(f"no workflow starts on this event{reasons}", unmatched)


def inputs_of(trigger: triggers.Trigger, given: Given) -> dict[str, Any]:
    """Typed inputs with their defaults. Raises InvalidInput."""
    fields: list[triggers.InputField] = getattr(trigger, "inputs", [])
    return dict(resolve(fields, given.inputs))


def _nothing(filters: Filters) -> str:
    wanted: list[str] = []
    if filters.job is not None:
        wanted.append(f"job {filters.job!r}")
    if filters.steps:
        wanted.append(f"step {', '.join(map(repr, filters.steps))}")
    if filters.combination:
        wanted.append("combination " + ", ".join(f"{k}={v}" for k, v in filters.combination.items()))
    return f"there is no {' with '.join(wanted)}"


def _names(planned: Sequence[PlannedJob]) -> list[str]:
    return [
        entry.target if entry.kind == "dynamic" else entry.name
        for entry in planned
        if entry.kind in {"job", "dynamic"}
    ]


def _filtered(planned: Sequence[PlannedJob], filters: Filters) -> tuple[list[PlannedJob], bool]:
    """(the rows that run, whether generated ones are to be looked at, too). Empty when nothing is left."""
    if filters.combination:
        keys = {key for entry in planned for key in entry.variant.values}
        dynamic = any(_dynamic_matrix(entry) for entry in planned)
        unknown = [key for key in filters.combination if key not in keys]
        planned = _kept(planned, [fits(entry.variant, filters.combination) for entry in planned])
        if unknown and not dynamic:
            return [], False
        if not any(entry.kind == "job" for entry in planned):
            return [], False
    if not filters.partial:
        return list(planned), False
    wanted = [
        entry.kind == "job" and _is_named(entry, filters.job) and _has_step(entry, filters.steps)
        for entry in planned
    ]
    wants_generated = False
    if filters.job is not None and not filters.steps and not any(wanted):
        groups = [entry.kind == "dynamic" and entry.target == filters.job for entry in planned]
        wants_generated = not any(groups)
        wanted = [entry.kind == "dynamic" for entry in planned] if wants_generated else groups
    return _with_needs(planned, wanted), wants_generated


def _dynamic_matrix(entry: PlannedJob) -> bool:
    return entry.job.matrix is not None and entry.job.matrix.type == "dynamic"


def _is_named(entry: PlannedJob, name: str | None) -> bool:
    return name is None or name in {entry.name, entry.job.name}


def _has_step(entry: PlannedJob, names: Sequence[str]) -> bool:
    have = {step.name for step in entry.job.steps}
    return all(name in have for name in names)


def _with_needs(planned: Sequence[PlannedJob], wanted: Sequence[bool]) -> list[PlannedJob]:
    """The wanted rows with everything upstream. Hooks of the workflow stay out: this is no whole run."""
    kept: set[int] = set()
    open_ = [at for at, is_wanted in enumerate(wanted) if is_wanted]
    while open_:
        at = open_.pop()
        if at not in kept:
            kept.add(at)
            open_ += [need.upstream for need in planned[at].needs]
    return _kept(planned, [at in kept for at in range(len(planned))])


def _kept(planned: Sequence[PlannedJob], keep: Sequence[bool]) -> list[PlannedJob]:
    """Some of the rows, with indexes counted anew; edges to others are gone."""
    places = {old: new for new, old in enumerate(at for at, kept in enumerate(keep) if kept)}
    return [
        structs.replace(
            planned[old],
            needs=tuple(
                structs.replace(need, upstream=places[need.upstream])
                for need in planned[old].needs
                if need.upstream in places
            ),
        )
        for old in places
    ]
