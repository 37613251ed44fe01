"""Puts one job on the runner and waits for it: its workspace, its services, its report."""

import asyncio
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
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
        """Raises KiciError when the job could not even begin."""
        machine, row, number = self._machine, given.row, next(self._machine.numbers)
        watcher = JobWatcher(machine.screen, given.title)
        started = time.monotonic()
        machine.screen.begin(given.title)
        status = JobStatus.FAILED
        try:
            image = machine.containers.image_for(row.planned) if machine.containers is not None else None
            for line in remarks(row.planned, container=image):
                watcher.say(line)
            result, place, environments, secret_outputs = await self._execute(given, number, watcher, image)
            status = result.status
            watcher.ended(result)
        finally:
            duration_ms = round((time.monotonic() - started) * 1000)
            machine.screen.end(given.title, status, duration_ms)
        keep = machine.keep or failed(result.status)
        if not keep:
            await asyncio.to_thread(machine.workspaces.drop, number)
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
            workspace=place if keep else None,
            steps=watcher.steps,
        )
        return report, result

    async def _execute(
        self, given: Assignment, number: int, watcher: JobWatcher, image: str | None
    ) -> tuple[JobResult, str, list[str], list[str]]:
        machine, row = self._machine, given.row
        try:
            place, tmp = await asyncio.to_thread(
                machine.workspaces.make, number, checkout=given.job.checkout
            )
        except (OSError, KiciError) as error:
            raise WorkspaceFailed(f"its workspace cannot be made: {error}") from error
        environments = environments_of(given.job, given.init) if row.planned.kind == "job" else []
        services = JobServices(
            row.name,
            secrets=self._secrets_for(given.upstream, environments),
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
        job_id = f"{self._facts.run_id}-{number}"
        execute = execute_message(
            self._facts,
            row.planned,
            given.job,
            job_id=job_id,
            workspace=str(place),
            tmp=str(tmp),
            upstream=_upstream(given),
            init=given.init,
            environments=environments,
            rules_from=given.rules_from,
            outcome=given.outcome,
            environ=environ,
        )
        overdue: asyncio.TimerHandle | None = None
        if row.planned.kind != "job" and given.job.timeout is not None:
            limit_s = given.job.timeout / 1000
            overdue = asyncio.get_running_loop().call_later(
                limit_s, lambda: zygote.abort(job_id, f"timed out after {limit_s:g} s", force=True)
            )
        self._at_work[job_id] = row, zygote
        try:
            result = await zygote.run(execute, watcher, secrets=machine.secrets.values(), services=services)
        finally:
            del self._at_work[job_id]
            if overdue is not None:
                overdue.cancel()
        self._secret_outputs[row.name] = services.secret_outputs
        return result, str(place), environments, sorted(services.secret_outputs)

    def _secrets_for(self, upstream: Sequence[Row], environments: Sequence[str]) -> dict[str, Secret]:
        """The job's own, and what jobs that it needs left as secret outputs."""
        found = self._machine.secrets.of(environments)
        for other in upstream:
            for key, value in self._secret_outputs.get(other.name, {}).items():
                found[key] = Secret(value=value, backend="secret output", scope=other.name)
        return found


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
