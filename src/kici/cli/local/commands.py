"""The command itself: from its options to an exit code (AU-136)."""

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from kici.cli.errors import FAILED, INTERRUPTED, errors_as_exit_codes
from kici.spec.errors import InvalidInput

if TYPE_CHECKING:
    from kici.cli.local.event import Occasion
    from kici.cli.local.graph import LocalRun
    from kici.cli.local.repository import Repository
    from kici.cli.local.results import LocalReport, RunReport, Unmatched
    from kici.cli.local.screen import Screen
    from kici.engine.graph import PlannedJob
    from kici.spec.lock import LockFile, LockWorkflow

app = typer.Typer(add_completion=False, no_args_is_help=True)


class NothingToRun(InvalidInput):
    """No workflow starts on the event, or none has the name."""


class CompileFailed(Exception):
    """Problems were printed; nothing runs."""


@app.callback()
def run_group() -> None:
    """Run workflows."""


@app.command("local")
def run_local_command(
    event: Annotated[
        str, typer.Argument(help="push, pr[:open|sync|…], tag, generic_webhook:SOURCE, webhook_event:NAME")
    ] = "push",
    workflow: Annotated[str | None, typer.Option("--workflow", help="Only this workflow.")] = None,
    job: Annotated[str | None, typer.Option("--job", help="Only this job and what it needs.")] = None,
    branch: Annotated[
        str | None, typer.Option("--branch", help="Branch of a push, target of a PR, name of a tag.")
    ] = None,
    sha: Annotated[
        str | None, typer.Option("--sha", help="This commit instead of the working tree.")
    ] = None,
    files: Annotated[list[str] | None, typer.Option("--files", help="A changed file. Repeatable.")] = None,
    payload: Annotated[
        Path | None, typer.Option("--payload", help="JSON file: the event's payload.")
    ] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Jobs at a time. Default: CPUs.")
    ] = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="A failure does not stop other jobs from starting.")
    ] = False,
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Run in the working tree itself; needs no git.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the copies of the tree.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No live output.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One document on stdout, all else on stderr.")
    ] = False,
    kici_dir: Annotated[
        Path | None, typer.Option("--kici-dir", help="Default: the nearest .kici, upwards from here.")
    ] = None,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Run the workflows that an event starts, from the working tree, on this machine.

    Example: kici run local push
    """
    with errors_as_exit_codes():
        if debug:
            os.environ["KICI_DEBUG"] = "true"
        from kici.cli.author import find_kici_dir
        from kici.cli.local.event import make_occasion
        from kici.cli.local.repository import Repository
        from kici.cli.local.screen import Screen

        folder = Path(os.path.realpath(find_kici_dir(kici_dir)))
        root = folder.parent
        try:
            document = _compiled(folder)
        except CompileFailed:
            raise typer.Exit(FAILED) from None
        repository = _repository_of(root, Repository, in_place=in_place)
        occasion = make_occasion(
            event,
            repository,
            folder_name=root.name,
            branch=branch,
            sha=sha,
            files=files or (),
            payload=_payload(payload),
        )
        chosen, unmatched = _matching(document, occasion, workflow)
        plans = _plans(chosen, job)
        screen = Screen((sys.stderr if as_json else sys.stdout).buffer, quiet=quiet)
        report, interrupted = asyncio.run(
            _run(
                plans,
                unmatched,
                occasion,
                screen,
                folder=folder,
                repository=None if in_place else repository,
                concurrency=concurrency or os.cpu_count() or 1,
                keep_going=keep_going,
                keep=keep,
            )
        )
        for run in report.runs:
            screen.tree(run)
        if as_json:
            import msgspec

            print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if not report.ok:
        raise typer.Exit(FAILED)


def _compiled(folder: Path) -> "LockFile":
    """The workflows as of now; the lock file on disk is neither read nor written."""
    from kici.cli.author import compiler_info
    from kici.compiler import rendering
    from kici.compiler.pipeline import compile_repository

    compiled = compile_repository(
        folder, compiler=compiler_info(), announce=lambda line: print(line, file=sys.stderr)
    )
    if compiled.output:
        sys.stderr.write(compiled.output)
    for problem in compiled.problems:
        print(rendering.as_text(problem), file=sys.stderr)
    if compiled.document is None:
        print(f"✗ {rendering.summary(compiled.problems)}", file=sys.stderr)
        raise CompileFailed
    return compiled.document


def _repository_of(root: Path, kind: "type[Repository]", *, in_place: bool) -> "Repository | None":
    from kici.cli.local.repository import NoRepository

    try:
        return kind(root)
    except NoRepository:
        if in_place:
            return None
        raise


def _payload(path: Path | None) -> dict[str, Any] | None:
    if path is None:
        return None
    import msgspec

    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInput(f"--payload {path}: {error}") from None


def _matching(
    document: "LockFile", occasion: "Occasion", name: str | None
) -> "tuple[list[tuple[LockWorkflow, str]], list[Unmatched]]":
    """(workflows with why they start, the others with why not). Raises NothingToRun."""
    from kici.cli.local.results import Unmatched
    from kici.engine.triggers import match_workflow

    known = [workflow.name for workflow in document.workflows]
    if name is not None and name not in known:
        raise NothingToRun(f"there is no workflow {name!r}; workflows: {', '.join(known)}")
    chosen: list[tuple[LockWorkflow, str]] = []
    unmatched: list[Unmatched] = []
    for workflow in document.workflows:
        if name is None or workflow.name == name:
            decision = match_workflow(workflow.triggers, occasion.event)
            if decision.matched:
                chosen.append((workflow, decision.reason))
            else:
                unmatched.append(Unmatched(workflow=workflow.name, reason=decision.reason))
    if not chosen:
        reasons = "".join(f"\n  {entry.workflow}: {entry.reason}" for entry in unmatched)
        raise NothingToRun(f"no workflow starts on this event{reasons}")
    return chosen, unmatched


def _plans(
    chosen: "Sequence[tuple[LockWorkflow, str]]", job: str | None
) -> "list[tuple[LockWorkflow, str, list[PlannedJob]]]":
    from kici.engine.graph import plan

    plans: list[tuple[LockWorkflow, str, list[PlannedJob]]] = []
    known: list[str] = []
    for workflow, reason in chosen:
        planned = plan(workflow)
        known += [entry.variant.job_name for entry in planned]
        if job is not None:
            planned = _with_needs(planned, job)
        if planned:
            plans.append((workflow, reason, planned))
    if not plans:
        raise NothingToRun(f"there is no job {job!r} among {', '.join(known)}")
    return plans


def _with_needs(planned: "list[PlannedJob]", name: str) -> "list[PlannedJob]":
    """The job, or all its combinations, with everything upstream; indexes are counted anew."""
    from msgspec import structs

    wanted = [at for at, entry in enumerate(planned) if name in {entry.variant.job_name, entry.job.name}]
    kept: set[int] = set()
    while wanted:
        at = wanted.pop()
        if at not in kept:
            kept.add(at)
            wanted += [need.upstream for need in planned[at].needs]
    places = {old: new for new, old in enumerate(sorted(kept))}
    return [
        structs.replace(
            planned[old],
            needs=tuple(
                structs.replace(need, upstream=places[need.upstream]) for need in planned[old].needs
            ),
        )
        for old in sorted(kept)
    ]


async def _run(
    plans: "list[tuple[LockWorkflow, str, list[PlannedJob]]]",
    unmatched: "list[Unmatched]",
    occasion: "Occasion",
    screen: "Screen",
    *,
    folder: Path,
    repository: "Repository | None",
    concurrency: int,
    keep_going: bool,
    keep: bool,
) -> "tuple[LocalReport, bool]":
    """The report, and whether the author interrupted."""
    from kici.cli.local.graph import LocalRun, Machine
    from kici.cli.local.results import LocalReport
    from kici.cli.local.workspace import Workspaces
    from kici.compiler.project import python_of
    from kici.runner.host import Zygote
    from kici.spec.states import RunStatus

    workspaces = Workspaces(
        folder.parent,
        repository,
        sha=occasion.sha,
        branch=occasion.ref if occasion.event.type == "push" else None,
        hash_files=sorted({path for workflow, _, _ in plans for path in workflow.resolved_hash_files}),
    )
    async with Zygote.start(python=python_of(folder)) as zygote:
        machine = Machine(
            zygote=zygote,
            workspaces=workspaces,
            occasion=occasion,
            screen=screen,
            places=asyncio.Semaphore(concurrency),
            keep_going=keep_going,
            keep=keep,
        )
        runs: list[LocalRun] = []
        number = 1
        for workflow, trigger, jobs in plans:
            label = f"{workflow.name}/" if len(plans) > 1 else ""
            runs.append(
                LocalRun(
                    machine,
                    workflow,
                    jobs,
                    run_id=str(uuid4()),
                    trigger=trigger,
                    first_number=number,
                    label=label,
                )
            )
            number += len(jobs)
        screen.announce([name for run in runs for name in run.names])
        interruption = _Interruption(runs, screen)
        with interruption:
            reports = await _all(runs)
    if workspaces.close(keep=keep or any(job.workspace for run in reports for job in run.jobs)):
        screen.notice(f"\nWorkspaces kept in {workspaces.folder}")
    report = LocalReport(
        ok=all(run.status in {RunStatus.SUCCESS, RunStatus.SKIPPED} for run in reports),
        event=occasion.event.type,
        ref=occasion.ref,
        sha=occasion.sha,
        runs=reports,
        unmatched=unmatched,
    )
    return report, interruption.count > 0


async def _all(runs: "Sequence[LocalRun]") -> "list[RunReport]":
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(run.run()) for run in runs]
    return [task.result() for task in started]


class _Interruption:
    """Ctrl-C: the first cancels with hooks, the second kills."""

    def __init__(self, runs: "Sequence[LocalRun]", screen: "Screen") -> None:
        self.count = 0
        self._runs = runs
        self._screen = screen

    def __enter__(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._interrupt)

    def __exit__(self, *_error: object) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)

    def _interrupt(self) -> None:
        self.count += 1
        force = self.count > 1
        self._screen.notice("Killing." if force else "Cancelling; once more kills.")
        for run in self._runs:
            run.stop("Interrupted", force=force)
