"""Puts one job on the runner and waits for it: its workspace, its services, its report."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kici.cli.local.approvals import Approvals
from kici.cli.local.cache import LocalCache
from kici.cli.local.execution import (
    JobWatcher,
    RunFacts,
    Upstream,
    environments_of,
    execute_message,
    labels_of,
    remarks,
)
from kici.cli.local.results import EmittedEvent, JobReport
from kici.cli.local.rows import Row, failed
from kici.cli.local.screen import Screen
from kici.cli.local.secrets import LocalSecrets, Secret
from kici.cli.local.services import Emitter, JobServices
from kici.cli.local.workspace import Workspaces
from kici.cli.occasions import Occasion
from kici.protocol.runner_v1 import InitResult, RuleResult, RunOutcome
from kici.runner.host import JobResult, Zygote
from kici.runner.uvprogram import find_uv
from kici.spec.durations import in_words
from kici.spec.errors import KiciError
from kici.spec.lock import LockFile, LockJob
from kici.spec.states import JobStatus

if TYPE_CHECKING:
    from kici.cli.local.containers import Containers


class Machine(Struct, frozen=True, kw_only=True):
    """What all runs of one command share."""

    zygote: Zygote
    workspaces: Workspaces
    occasion: Occasion
    document: LockFile
    screen: Screen
    places: asyncio.Semaphore  # jobs at a time
    ahead: asyncio.Semaphore  # workspaces at a time: some more, made while jobs run
    secrets: LocalSecrets
    cache: LocalCache
    approvals: Approvals
    scope: str  # of concurrency groups: this repository
    numbers: Iterator[int]  # of workspaces
    containers: "Containers | None" = None
    keep_going: bool = False
    keep: bool = False
    check_mode: str = "apply"
    combination: dict[str, str] = {}  # --matrix
    only_steps: list[str] = []
    only_job: str | None = None  # --job, of those a generator makes


class Assignment(Struct, frozen=True, kw_only=True):
    """What one job is told besides what all of its run are. `job` has what pure functions came to."""

    row: Row
    title: str
    job: LockJob
    upstream: Sequence[Row]
    groups: dict[str, list[str]]
    init: InitResult | None
    rules_from: int
    rules: list[RuleResult]  # decided already
    outcome: RunOutcome | None  # for hooks of the workflow
    refused: Callable[[], str | None]  # why it is not to begin after all
    settled: Callable[[JobStatus], None]  # called as soon as it ended


class JobRunner:
    """Runs the jobs of one run. Remembers which are at work, and their secret outputs."""

    def __init__(self, machine: Machine, facts: RunFacts, *, label: str) -> None:
        self.events: list[EmittedEvent] = []
        self._machine = machine
        self._facts = facts
        self._label = label
        self._at_work: dict[str, tuple[Row, Zygote]] = {}
        self._secret_outputs: dict[str, dict[str, str]] = {}
        self._emitter = Emitter(
            repository=machine.occasion.repository,
            document=machine.document,
            events=self.events,
            recent=deque(),
        )

    def abort(self, reason: str, *, force: bool) -> None:
        """End what runs: gently everything but hooks of the workflow, forced all."""
        for job_id, (row, zygote) in self._at_work.items():
            if force or row.planned.kind != "hooks":
                zygote.abort(job_id, reason, force=force)

    async def run(self, given: Assignment) -> tuple[JobReport, JobResult]:
        """Waits for its turn. Raises NotStarted when it is no longer wanted then; KiciError when it could not
        begin."""
        machine, number = self._machine, next(self._machine.numbers)
        make = partial(machine.workspaces.make, number, checkout=given.job.checkout)
        making = asyncio.get_running_loop().run_in_executor(None, make)  # meanwhile
        keep = False
        try:
            async with machine.places:
                if (reason := given.refused()) is not None:
                    raise NotStarted(reason)
                try:
                    folders = await making
                except (OSError, KiciError) as error:
                    given.settled(JobStatus.FAILED)
                    raise WorkspaceFailed(f"its workspace cannot be made: {error}") from error
                report, result = await self._in_turn(given, number, folders)
                keep = report.workspace is not None
                given.settled(report.status)  # before another job has its turn
                return report, result
        finally:
            await asyncio.wait([making])
            _ = making.cancelled() or making.exception()
            if not keep:
                await asyncio.to_thread(machine.workspaces.drop, number)

    async def _in_turn(
        self, given: Assignment, number: int, folders: tuple[Path, Path]
    ) -> tuple[JobReport, JobResult]:
        machine, row = self._machine, given.row
        started = time.monotonic()
        watcher = JobWatcher(machine.screen, given.title)
        machine.screen.begin(given.title)
        status = JobStatus.FAILED
        try:
            image = machine.containers.image_for(row.planned) if machine.containers is not None else None
            for line in remarks(row.planned, container=image):
                watcher.say(line)
            job_id = f"{self._facts.run_id}-{number}"
            result, environments, secret_outputs = await self._execute(
                given, job_id, folders, watcher, image
            )
            status = result.status
            watcher.ended(result)
        finally:
            duration_ms = round((time.monotonic() - started) * 1000)
            machine.screen.end(given.title, status, duration_ms)
        keep = machine.keep or failed(result.status)
        report = JobReport(
            name=row.name,
            title=row.title(self._facts.workflow.name),
            kind=row.planned.kind,
            group=row.planned.job.group,
            status=result.status,
            runs_on=labels_of(given.job),
            duration_ms=duration_ms,
            error_message=result.error_message,
            timeout_reason=result.timeout_reason,
            failure_category=result.failure_category,
            outputs=result.outputs if row.planned.kind == "job" else {},
            secret_outputs=secret_outputs,
            environments=environments,
            drifted=result.drifted,
            rules=[*given.rules, *result.rules],
            workspace=str(folders[0]) if keep else None,
            steps=watcher.steps,
        )
        return report, result

    async def _execute(
        self,
        given: Assignment,
        job_id: str,
        folders: tuple[Path, Path],
        watcher: JobWatcher,
        image: str | None,
    ) -> tuple[JobResult, list[str], list[str]]:
        """How it ended, its environments, names of its secret outputs. `folders`: workspace and temporary."""
        machine, row = self._machine, given.row
        environments = environments_of(given.job, given.init) if row.planned.kind == "job" else []
        secrets = self._secrets_for(given.upstream, environments)
        services = JobServices(
            row.name,
            secrets=secrets,
            cache=machine.cache,
            emitter=self._emitter,
            approve=lambda name, asked: machine.approvals.ask(f"{self._label}{name}", asked),
            say=watcher.say,
            check_mode=machine.check_mode,
        )
        zygote, environ = machine.zygote, dict(os.environ)
        if image is not None and machine.containers is not None:
            box = await machine.containers.box(image)
            zygote, environ = box.zygote, box.env
        execute = execute_message(
            self._facts,
            row.planned,
            given.job,
            job_id=job_id,
            workspace=str(folders[0]),
            tmp=str(folders[1]),
            upstream=_upstream(given),
            init=given.init,
            environments=environments,
            rules_from=given.rules_from,
            outcome=given.outcome,
            environ=environ,
            locked=sorted(secrets),
            uv=find_uv(environ) if image is None else None,
        )
        overdue: asyncio.TimerHandle | None = None
        if row.planned.kind != "job" and given.job.timeout is not None:
            limit_s = given.job.timeout / 1000
            overdue = asyncio.get_running_loop().call_later(
                limit_s,
                lambda: zygote.abort(job_id, f"timed out after {in_words(limit_s * 1000)}", force=True),
            )
        self._at_work[job_id] = row, zygote
        try:
            result = await zygote.run(execute, watcher, secrets=machine.secrets.values(), services=services)
        finally:
            del self._at_work[job_id]
            if overdue is not None:
                overdue.cancel()
        self._secret_outputs[row.name] = services.secret_outputs
        return result, environments, sorted(services.secret_outputs)

    def _secrets_for(self, upstream: Sequence[Row], environments: Sequence[str]) -> dict[str, Secret]:
        """The job's own, and what jobs that it needs left as secret outputs."""
        found = self._machine.secrets.of(environments)
        for other in upstream:
            for key, value in self._secret_outputs.get(other.name, {}).items():
                found[key] = Secret(value=value, backend="secret output", scope=other.name)
        return found


class NotStarted(KiciError):
    """Something happened while there was no room for the job; the message says what."""

    code = "not_started"


class WorkspaceFailed(KiciError):
    """The copy of the tree could not be made."""

    code = "workspace_failed"


def _upstream(given: Assignment) -> Upstream:
    reports: list[Any] = [row.report for row in given.upstream if row.report is not None]
    return Upstream(
        outputs={report.name: report.outputs for report in reports if report.outputs},
        statuses={report.name: report.status for report in reports},
        groups=given.groups,
    )
