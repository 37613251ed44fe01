"""One `kici run local`: compile, find the event, choose, run, tell."""

import asyncio
import itertools
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from msgspec import Struct

from kici.cli.fixtures import Trial, fixtures_of, trials_for
from kici.cli.local import history
from kici.cli.local.approvals import Approvals
from kici.cli.local.cache import LocalCache
from kici.cli.local.compiling import compiled
from kici.cli.local.graph import LocalRun
from kici.cli.local.repository import NoGit, NoRepository, Repository
from kici.cli.local.results import LocalReport, RunReport
from kici.cli.local.running import Machine
from kici.cli.local.screen import Screen
from kici.cli.local.secrets import read_secrets
from kici.cli.local.selection import Chosen, Filters, NothingToRun, choose, known_workflow
from kici.cli.local.workspace import Workspaces
from kici.cli.occasions import Given, Occasion
from kici.cli.printable import printable
from kici.compiler.project import needs_sync, python_of
from kici.runner.host import Zygote
from kici.spec import lock
from kici.spec.errors import InvalidInput
from kici.spec.states import RunStatus

if TYPE_CHECKING:
    from kici.cli.local.containers import Containers

_WORKSPACES_AHEAD = 2
_MOST_NAMES = 5


class Wishes(Struct, frozen=True, kw_only=True):
    """The command line. `event` None: the first trigger of `workflow`, else a push."""

    folder: Path  # .kici
    event: str | None
    workflow: str | None
    given: Given
    filters: Filters
    pick: bool = False
    concurrency: int | None = None
    keep_going: bool = False
    in_place: bool = False
    keep: bool = False
    check_mode: str = "apply"
    yes: bool = False
    env: list[str] = []
    contexts: list[str] = []
    containers: bool = False
    image: str | None = None  # for jobs that name none


class Told(Struct, frozen=True, kw_only=True):
    """What came of it. `reports` has one for each fixture, else one."""

    reports: list[LocalReport]
    interrupted: bool

    @property
    def ok(self) -> bool:
        return all(report.ok for report in self.reports)

    @property
    def drifted(self) -> bool:
        return any(run.drifted for report in self.reports for run in report.runs)


async def run_local(wishes: Wishes, screen: Screen) -> Told:
    """Raises InvalidInput (bad options, nothing to run), CompileFailed, other KiciErrors."""
    root = wishes.folder.parent
    # The interpreter of the jobs gets ready while another one compiles, unless it is about to be made.
    zygote: Zygote | None = None
    if not needs_sync(wishes.folder):
        zygote = Zygote.start(python=python_of(wishes.folder))
    compiling = asyncio.to_thread(compiled, wishes.folder, chosen=fixtures_of(wishes.event))
    reading = asyncio.to_thread(_repository, root, in_place=wishes.in_place)
    try:
        if zygote is None:
            document, fixtures = await compiling
            zygote = Zygote.start(python=python_of(wishes.folder))
            await zygote.__aenter__()
            repository = await reading
        else:
            both, found, warm = await asyncio.gather(
                compiling, reading, zygote.__aenter__(), return_exceptions=True
            )
            if isinstance(both, BaseException):
                raise both
            if isinstance(found, BaseException):
                raise found
            if isinstance(warm, BaseException):
                raise warm
            (document, fixtures), repository = both, found
        session = _Session(wishes, document, repository, zygote, screen)
        reports: list[LocalReport] = []
        interrupted = False
        trials = trials_for(
            wishes.event,
            wishes.given,
            repository,
            folder_name=root.name,
            workflows=known_workflow(document, wishes.workflow),
            workflow=wishes.workflow,
            fixtures=fixtures,
            pick=wishes.pick,
        )
        for trial in trials:
            if reports and not (reports[-1].ok or wishes.keep_going):
                break
            try:
                report, interrupted = await session.run(trial)
            except NothingToRun as error:
                if len(trials) == 1:
                    raise
                report = _started_nothing(trial, error)
                screen.notice(f"\n{trial.fixture}: {error}")
            reports.append(report)
            if screen.lost is not None:
                break
            for run in report.runs:
                screen.tree(run)
            if interrupted:
                break
        return Told(reports=reports, interrupted=interrupted)
    finally:
        if zygote is not None:
            await zygote.close()
        screen.close()


def _repository(root: Path, *, in_place: bool) -> Repository | None:
    try:
        return Repository(root).read_ahead()
    except NoRepository:
        if in_place:
            return None
        raise
    except NoGit as error:
        if in_place:
            return None
        raise NoGit(f"{error}, or pass --in-place") from None


def _started_nothing(trial: Trial, error: NothingToRun) -> LocalReport:
    """One of several fixtures starts no workflow: it counts as failed, the others go on."""
    return LocalReport(
        ok=False,
        event=trial.occasion.event.type,
        ref=trial.occasion.ref,
        sha=trial.occasion.sha,
        runs=[],
        unmatched=error.unmatched,
        fixture=trial.fixture,
        error_message=str(error),
    )


class _Session:
    """What the runs of several fixtures have in common."""

    def __init__(
        self,
        wishes: Wishes,
        document: lock.LockFile,
        repository: Repository | None,
        zygote: Zygote,
        screen: Screen,
    ) -> None:
        self._wishes = wishes
        self._document = document
        self._repository = repository
        self._zygote = zygote
        self._screen = screen

    async def run(self, trial: Trial) -> tuple[LocalReport, bool]:
        """(the report, whether the author interrupted)."""
        wishes, root, occasion = self._wishes, self._wishes.folder.parent, trial.occasion
        if wishes.in_place and trial.given.sha is not None:
            raise InvalidInput(
                "--sha does not go with --in-place"
                if trial.fixture is None or wishes.given.sha is not None
                else f"fixture {trial.fixture} names a commit: `sha` does not go with --in-place"
            )
        workflows = known_workflow(self._document, trial.workflow)
        chosen, unmatched = choose(workflows, occasion, trial.given, wishes.filters)
        secrets = read_secrets(
            wishes.folder, contexts=wishes.contexts, given=wishes.env, renamed=trial.environments
        )
        if trial.fixture is not None:
            self._screen.notice(f"Fixture {trial.fixture}: {occasion.event.type}")
        self._say_what_is_left_out(chosen, sha=occasion.sha)
        workspaces = Workspaces(
            root,
            None if wishes.in_place else self._repository,
            sha=occasion.sha,
            branch=occasion.ref if occasion.event.type == "push" else None,
            hash_files=sorted({path for each in chosen for path in each.workflow.resolved_hash_files}),
        )
        cache = LocalCache(occasion.repository)
        places = wishes.concurrency or os.cpu_count() or 1
        containers = self._containers(workspaces, cache)
        machine = Machine(
            zygote=self._zygote,
            workspaces=workspaces,
            occasion=occasion,
            document=self._document,
            screen=self._screen,
            places=asyncio.Semaphore(places),
            ahead=asyncio.Semaphore(places + _WORKSPACES_AHEAD),
            secrets=secrets,
            cache=cache,
            approvals=Approvals(self._screen, yes=wishes.yes),
            scope=str(root),
            numbers=itertools.count(1),
            containers=containers,
            keep_going=wishes.keep_going,
            keep=wishes.keep,
            check_mode=wishes.check_mode,
            combination=wishes.filters.combination,
            only_steps=wishes.filters.steps,
            only_job=wishes.filters.job if any(each.wants_generated for each in chosen) else None,
        )
        peers: dict[str, LocalRun] = {}
        runs = [
            LocalRun(
                machine,
                each.workflow,
                each.planned,
                run_id=str(uuid4()),
                trigger=each.trigger,
                inputs=each.inputs,
                peers=peers,
                label=f"{each.workflow.name}/" if len(chosen) > 1 else "",
            )
            for each in chosen
        ]
        self._screen.announce([name for run in runs for name in run.names])
        started_at_ms = time.time_ns() // 1_000_000
        with _Interruption(runs, self._screen) as interruption:
            try:
                reports = await _all(runs)
            finally:
                if containers is not None:
                    await containers.close()
        cache.discard()
        kept = any(job.workspace for run in reports for job in run.jobs)
        if await asyncio.to_thread(workspaces.close, keep=kept):
            self._screen.notice(f"\nWorkspaces kept in {workspaces.folder}")
        for report in reports:
            self._remember(report, occasion, started_at_ms)
        local = LocalReport(
            ok=all(run.status in {RunStatus.SUCCESS, RunStatus.SKIPPED} for run in reports),
            event=occasion.event.type,
            ref=occasion.ref,
            sha=occasion.sha,
            runs=reports,
            unmatched=unmatched,
            fixture=trial.fixture,
        )
        return local, interruption.count > 0

    def _containers(self, workspaces: Workspaces, cache: LocalCache) -> "Containers | None":
        """Raises NoEngine."""
        if not self._wishes.containers and self._wishes.image is None:
            return None
        from kici.cli.local.containers import Containers

        root = self._wishes.folder.parent
        cache.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        mounts = [
            workspaces.folder,
            cache.folder,
            *([root] if self._repository_is_read(workspaces) else []),
        ]
        return Containers(image=self._wishes.image, mounts=mounts, kici_dir=self._wishes.folder)

    def _repository_is_read(self, workspaces: Workspaces) -> bool:
        """Whether jobs work in it, or read its objects because they could not be linked."""
        root = self._wishes.folder.parent
        return self._wishes.in_place or root.stat().st_dev != workspaces.folder.stat().st_dev

    def _say_what_is_left_out(self, chosen: Sequence[Chosen], *, sha: str) -> None:
        repository = None if self._wishes.in_place else self._repository
        # Of another commit nobody expects what is not committed.
        nested = repository.nested() if repository is not None and sha == repository.head else []
        if nested:
            few = ", ".join(map(printable, nested[:_MOST_NAMES])) + (", …" if nested[_MOST_NAMES:] else "")
            self._screen.notice(
                f"Not in the workspaces, as each is a git repository of its own: {few} "
                "(--in-place has them)"
            )
        for each in chosen:
            options = [
                name
                for name, value in (
                    ("registries", each.workflow.registries),
                    ("install_env", each.workflow.install_env),
                )
                if value
            ]
            if options:
                self._screen.notice(
                    f"{' and '.join(options)} of {each.workflow.name}: not used here, the dependencies of .kici are "
                    "installed with your own settings"
                )
        if self._wishes.filters.partial and any(
            each.workflow.has_on_success
            or each.workflow.has_on_failure
            or each.workflow.has_on_cancel
            or each.workflow.has_cleanup
            for each in chosen
        ):
            self._screen.notice("Hooks of the workflow are left out: only some of its jobs run.")

    def _remember(self, report: RunReport, occasion: Occasion, started_at_ms: int) -> None:
        try:
            history.write(
                history.Entry(
                    run_id=report.run_id,
                    started_at_ms=started_at_ms,
                    root=str(self._wishes.folder.parent),
                    event=occasion.event.type,
                    ref=occasion.ref,
                    sha=occasion.sha,
                    run=report,
                )
            )
        except OSError as error:
            print(f"warning: the run is not in the history: {error}", file=sys.stderr)


async def _all(runs: Sequence[LocalRun]) -> list[RunReport]:
    async with asyncio.TaskGroup() as tasks:
        started = [tasks.create_task(run.run()) for run in runs]
    return [task.result() for task in started]


class _Interruption:
    """Ctrl-C: the first cancels with hooks, the second kills. SIGTERM alike, unless it comes from a run that
    wants the place of one of these in its concurrency group: that one makes room. When nothing can be shown
    any more (`| head -1`, a full disk), that is the first Ctrl-C."""

    def __init__(self, runs: Sequence[LocalRun], screen: Screen) -> None:
        self.count = 0
        self._runs = runs
        self._screen = screen
        self._shown = ExitStack()

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGTERM, self._terminate)
        self._shown.enter_context(self._screen.telling_of_loss(self._unseen))
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
        self._shown.close()

    def _unseen(self, _error: OSError) -> None:
        for run in self._runs:
            # Not at once: whoever could not show something is in the middle of a step of the run.
            asyncio.get_running_loop().call_soon(partial(run.stop, "Nobody sees the output", force=False))

    def _terminate(self) -> None:
        superseded = [run.stop_if_superseded() for run in self._runs]
        if not any(superseded):
            self._interrupt()

    def _interrupt(self) -> None:
        self.count += 1
        force = self.count > 1
        self._screen.notice("Killing." if force else "Cancelling; once more kills.")
        for run in self._runs:
            run.stop("Interrupted", force=force)
