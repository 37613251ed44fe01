"""`kici preview`: what an event would start, and what would run (AU-120). Executes nothing of it."""

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec import Struct

from kici.cli.errors import USAGE, errors_as_exit_codes

if TYPE_CHECKING:
    from kici.cli.fixtures import Trial
    from kici.engine.decisions import JobDecision
    from kici.engine.graph import PlannedJob
    from kici.spec.lock import LockFile, LockJob, LockWorkflow, Rule

app = typer.Typer(add_completion=False, no_args_is_help=True)


class RuleView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`passed` None: only author code can tell, when it runs."""

    label: str
    passed: bool | None
    error: str | None = None


class NeedView(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    group: bool
    run_on: list[str]


class JobView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`verdict`: run, skip or fail, as far as pure functions tell. `matrix` lists combinations; None where
    they are worked out at run time."""

    name: str
    kind: str
    verdict: str
    runs_on: list[str]
    needs: list[NeedView]
    matrix: list[str] | None
    environments: list[str]
    steps: list[str]
    rules: list[RuleView]
    description: str = ""
    message: str | None = None
    concurrency_group: str | None = None
    container: str | None = None


class WorkflowView(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    matched: bool
    reason: str
    checks: list[Any]
    description: str = ""
    verdict: str = "skip"
    message: str | None = None
    rules: list[RuleView] = []
    concurrency_group: str | None = None
    inputs: dict[str, Any] = {}
    jobs: list[JobView] = []


@app.command("preview")
def preview_command(
    event: Annotated[
        str | None,
        typer.Argument(metavar="[EVENT|FIXTURE]", help="Without it: which events start which workflows."),
    ] = None,
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only this workflow.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Only this job.")] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Branch of a push, target of a PR, name of a tag.")
    ] = None,
    sha: Annotated[str | None, typer.Option("--sha", help="The commit that the event is about.")] = None,
    files: Annotated[list[str] | None, typer.Option("--files", help="A changed file. Repeatable.")] = None,
    payload: Annotated[
        Path | None, typer.Option("--payload", help="JSON file: the event's payload.")
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option("--input", metavar="KEY=VALUE", help="A typed input of a dispatch. Repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One document on stdout.")] = False,
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    no_color: Annotated[bool, typer.Option("--no-color", help="No colours, as with NO_COLOR.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Show what an event would start, why, and which jobs would run. Nothing is executed.

    Example: kici preview pr --files docs/index.md
    """
    with errors_as_exit_codes():
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        if no_color:
            os.environ["NO_COLOR"] = "1"
        from kici.cli.fixtures import fixtures_of, trials_for
        from kici.cli.local.commands import pairs, read_payload
        from kici.cli.local.compiling import CompileFailed, compiled
        from kici.cli.local.places import kici_folder, warn_below_top
        from kici.cli.local.repository import NoRepository, Repository
        from kici.cli.local.selection import known_workflow
        from kici.cli.occasions import Given

        folder = kici_folder(kici_dir)
        warn_below_top(folder)
        given = Given(
            branch=branch,
            sha=sha,
            files=files or (),
            payload=read_payload(payload),
            inputs=pairs("--input", inputs),
        )
        try:
            document, fixtures = compiled(folder, chosen=fixtures_of(event))
        except CompileFailed:
            raise typer.Exit(USAGE) from None
        workflows = known_workflow(document, workflow)
        if event is None:
            _list_events(workflows, as_json=as_json)
            return
        try:
            repository = Repository(folder.parent)
        except NoRepository:
            repository = None
        trials = trials_for(
            event,
            given,
            repository,
            folder_name=folder.parent.name,
            workflows=workflows,
            workflow=workflow,
            fixtures=fixtures,
        )
        _show(document, trials, job, as_json=as_json)


def _list_events(workflows: "Sequence[LockWorkflow]", *, as_json: bool) -> None:
    """Every trigger with the word that makes its event."""
    from kici.cli.events import details_of, word_of

    rows = [
        {
            "event": word_of(each.name, trigger),
            "workflow": each.name,
            "filters": details_of(trigger),
            "description": trigger.description,
        }
        for each in workflows
        for trigger in each.triggers
    ]
    if as_json:
        _print_json({"events": rows, "workflows": [each.name for each in workflows]})
        return
    width = max((len(row["event"]) for row in rows), default=0)
    names = max((len(row["workflow"]) for row in rows), default=0)
    for row in rows:
        about = "  ".join(filter(None, [row["filters"], row["description"]]))
        print(f"{row['event']:<{width}}  {row['workflow']:<{names}}  {about}".rstrip())
    for each in workflows:
        if not each.triggers:
            print(f"{each.name} has no triggers: no event starts it")


def _show(document: "LockFile", trials: "Sequence[Trial]", job: str | None, *, as_json: bool) -> None:
    from kici.cli.local.selection import NothingToRun, known_workflow

    documents: list[dict[str, Any]] = []
    for trial in trials:
        views = [_workflow_view(each, trial, job) for each in known_workflow(document, trial.workflow)]
        started = [view for view in views if view.matched]
        if job is not None and started and not any(view.jobs for view in started):
            raise NothingToRun(f"there is no job {job!r} in {', '.join(view.name for view in started)}")
        if as_json:
            occasion = trial.occasion
            documents.append(
                {
                    "event": occasion.event,
                    "ref": occasion.ref,
                    "sha": occasion.sha,
                    "fixture": trial.fixture,
                    "workflows": views,
                }
            )
        else:
            _print_views(trial, views)
    if as_json:
        _print_json(documents[0] if len(documents) == 1 else {"fixtures": documents})


def _print_json(value: object) -> None:
    import msgspec

    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _workflow_view(workflow: "LockWorkflow", trial: "Trial", only: str | None) -> WorkflowView:
    """Raises InvalidInput for inputs that the trigger does not take."""
    from kici.cli.local.selection import inputs_of
    from kici.engine.decisions import RunScope, resolve
    from kici.engine.graph import plan
    from kici.engine.triggers import match_workflow

    decision = match_workflow(workflow.triggers, trial.occasion.event)
    if not decision.matched or decision.trigger_index is None:
        return WorkflowView(
            name=workflow.name,
            description=workflow.description,
            matched=False,
            reason=decision.reason,
            checks=decision.checks,
        )
    inputs = inputs_of(workflow.triggers[decision.trigger_index], trial.given)
    planned = plan(workflow)
    occasion = trial.occasion
    scope = RunScope(
        event=occasion.event,
        ref=occasion.ref,
        sha=occasion.sha,
        repository=occasion.repository,
        inputs=inputs,
    )
    decided = resolve(workflow, planned, scope)
    rules = _rules(workflow.rules, [(r.label, r.passed, r.error) for r in decided.rules])
    return WorkflowView(
        name=workflow.name,
        description=workflow.description,
        matched=True,
        reason=decision.reason,
        checks=decision.checks,
        verdict=decided.verdict,
        message=decided.message,
        rules=rules,
        concurrency_group=decided.concurrency_group,
        inputs=inputs,
        jobs=[
            view
            for index, entry in enumerate(planned)
            if (view := _job_view(workflow, planned, index, decided.jobs.get(index))) is not None
            and (only is None or only in {entry.name, entry.job.name, entry.target})
        ]
        if decided.verdict == "run"
        else [],
    )


def _rules(rules: "Sequence[Rule]", decided: Sequence[tuple[str, bool, str | None]]) -> list[RuleView]:
    found = [RuleView(label=label, passed=passed, error=error) for label, passed, error in decided]
    stopped = bool(found) and not found[-1].passed
    rest = [] if stopped else rules[len(found) :]
    return [*found, *(RuleView(label=rule.label, passed=None) for rule in rest)]


def _job_view(
    workflow: "LockWorkflow", planned: "Sequence[PlannedJob]", index: int, decision: "JobDecision | None"
) -> JobView | None:
    """One per base job: the variants of a matrix are listed in it."""
    from kici.cli.local.execution import environments_of, labels_of
    from kici.cli.local.rows import Row

    entry = planned[index]
    if entry.kind == "job" and entry.fanout_index:
        return None
    job = entry.job if decision is None else decision.job
    siblings = [other for other in planned if other.kind == "job" and other.job.name == job.name]
    dynamic = job.matrix is not None and job.matrix.type == "dynamic"
    return JobView(
        name=job.name if entry.kind == "job" else Row(index, entry).title(workflow.name),
        kind=entry.kind,
        description=job.description,
        verdict="run" if decision is None else decision.verdict,
        message=None if decision is None else decision.message,
        runs_on=labels_of(job),
        needs=_needs(entry, planned),
        matrix=None
        if dynamic
        else [other.variant.display for other in siblings if other.variant.display is not None],
        environments=_environments(job, environments_of(job, None)),
        steps=[step.name for step in job.steps],
        rules=_rules(
            job.rules, [] if decision is None else [(r.label, r.passed, r.error) for r in decision.rules]
        ),
        concurrency_group=None if decision is None else decision.concurrency_group,
        container=job.container.image if job.container is not None else None,
    )


def _environments(job: "LockJob", known: list[str]) -> list[str]:
    return [*known, *("(worked out at run time)" for value in job.environments if value.dynamic)]


def _needs(entry: "PlannedJob", planned: "Sequence[PlannedJob]") -> list[NeedView]:
    found: dict[tuple[str, bool], NeedView] = {}
    for need in entry.needs:
        upstream = planned[need.upstream]
        if entry.kind == "hooks" or upstream.kind == "init":
            continue
        group = upstream.kind == "dynamic"
        name = upstream.target if group else upstream.variant.base_job_name
        run_on = list(need.group_run_on or need.run_on)
        found.setdefault((name, group), NeedView(name=name, group=group, run_on=run_on))
    return list(found.values())


# ── for people ───────────────────────────────────────────────────────────────────────────────────


def _print_views(trial: "Trial", views: Sequence[WorkflowView]) -> None:
    event = trial.occasion.event
    named = f"Fixture {trial.fixture}: " if trial.fixture else ""
    about = " ".join(filter(None, [event.type, event.action, event.target_branch]))
    print(f"{named}{about}  ({trial.occasion.repository})")
    for view in views:
        print("\n" + "\n".join(_lines(view)))


def _lines(view: WorkflowView) -> Iterator[str]:
    yield f"{_mark(view.matched)} {view.name}  {view.reason}"
    if view.description:
        yield f"    {view.description}"
    for check in view.checks:
        yield f"    {_mark(check.matched)} {check.check}: wanted {check.expected}, got {check.actual}"
    yield from (f"    {line}" for line in _rule_lines(view.rules))
    if view.verdict != "run" and view.message:
        yield f"    → no job runs: {view.message}"
    if view.concurrency_group is not None:
        yield f"    concurrency group {view.concurrency_group}"
    if view.inputs:
        yield "    inputs " + ", ".join(f"{name}={value!r}" for name, value in view.inputs.items())
    for job in view.jobs:
        yield from (f"  {line}" for line in _job_lines(job))


def _job_lines(job: JobView) -> Iterator[str]:
    mark = {"run": "●", "skip": "○", "fail": "✗"}[job.verdict]
    yield f"{_painted(mark, 33 if job.verdict == 'run' else 90)} {job.name}" + (
        f"  {job.message}" if job.message else ""
    )
    if job.description:
        yield f"    {job.description}"
    if job.kind == "job":
        yield f"    runs on {', '.join(job.runs_on)}"
    if job.needs:
        yield "    needs " + ", ".join(_need(need) for need in job.needs)
    if job.matrix is None:
        yield "    matrix worked out at run time"
    elif job.matrix:
        count = f"{len(job.matrix)} variant{'s' if len(job.matrix) != 1 else ''}"
        yield f"    matrix {count}: {'; '.join(job.matrix[:20])}" + ("; …" if len(job.matrix) > 20 else "")
    if job.environments:
        yield f"    environments {', '.join(job.environments)}"
    if job.container is not None:
        yield f"    container {job.container}"
    if job.concurrency_group is not None:
        yield f"    concurrency group {job.concurrency_group}"
    yield from (f"    {line}" for line in _rule_lines(job.rules))
    if job.kind == "job":
        yield f"    steps {', '.join(job.steps)}"


def _need(need: NeedView) -> str:
    name = f"group {need.name}" if need.group else need.name
    return name if need.run_on == ["success"] else f"{name} ({', '.join(need.run_on)})"


def _rule_lines(rules: Sequence[RuleView]) -> Iterator[str]:
    for rule in rules:
        if rule.passed is None:
            yield f"? rule {rule.label!r}: decided when it runs"
        else:
            yield f"{_mark(rule.passed)} rule {rule.label!r}" + (f": {rule.error}" if rule.error else "")


def _mark(good: bool) -> str:
    return _painted("✓", 32) if good else _painted("✗", 31)


def _painted(text: str, color: int) -> str:
    colored = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    return f"\033[{color}m{text}\033[0m" if colored else text
