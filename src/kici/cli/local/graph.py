"""One run of one workflow: its jobs in the order of their needs, as many at a time as there is room for.

What a run consists of, which functions of the author's can be told at once, and what joins it later is decided
by `kici.engine`, as on the server; this is the clockwork around it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any, TypeVar

from msgspec import structs

from kici.cli.local.execution import RunFacts, environments_of, never_ran
from kici.cli.local.locks import Group, Place
from kici.cli.local.results import JobReport, RunReport
from kici.cli.local.rows import Graph, Row, failed
from kici.cli.local.running import Assignment, JobRunner, Machine, NotStarted
from kici.cli.local.services import ApprovalAsked
from kici.engine.concurrency import superseded
from kici.engine.decisions import JobDecision, RunDecision, RunScope, decide_job, group_of, resolve
from kici.engine.graph import InvalidGraph, PlannedJob, why_no_hooks, workflow_hooks
from kici.engine.matrix import InvalidMatrix
from kici.engine.reasons import as_sentence
from kici.engine.rules import RuleDecision
from kici.engine.transitions import run_status
from kici.protocol.runner_v1 import InitResult, RuleResult, RunOutcome
from kici.runner.host import JobResult
from kici.spec.durations import in_words
from kici.spec.errors import KiciError
from kici.spec.lock import Approval, LockJob, LockWorkflow
from kici.spec.states import JobStatus, RunStatus

T = TypeVar("T")


class LocalRun:
    """`run` it once. `stop` may be called meanwhile, again to kill."""

    def __init__(
        self,
        machine: Machine,
        workflow: LockWorkflow,
        planned: Sequence[PlannedJob],
        *,
        run_id: str,
        trigger: str,
        inputs: dict[str, Any],
        peers: "dict[str, LocalRun]",
        label: str = "",
    ) -> None:
        """`label` stands before job names on the screen. `peers`: the runs of this process, by the place they
        have in a concurrency group."""
        self._machine = machine
        self._workflow = workflow
        self._graph = Graph(planned, machine.combination)
        self._trigger = trigger
        self._label = label
        self._peers = peers
        self._facts = RunFacts(
            run_id=run_id,
            workflow=workflow,
            occasion=machine.occasion,
            inputs=inputs,
            check_mode=machine.check_mode,
            only_steps=machine.only_steps,
        )
        self._scope = RunScope(
            event=machine.occasion.event,
            ref=machine.occasion.full_ref,
            sha=machine.occasion.sha,
            repository=machine.occasion.repository,
            inputs=inputs,
        )
        self._runner = JobRunner(machine, self._facts, label=label)
        self._started = time.monotonic()
        self._decision = RunDecision(verdict="run")
        self._rules: list[RuleResult] = []
        self._message: str | None = None  # why the run as a whole failed or was skipped
        self._refused_as: RunStatus | None = None
        self._failed = False
        self._failed_bases: set[str] = set()
        self._first_failed: str | None = None
        self._windows: dict[str, asyncio.Semaphore] = {}
        self._inits: dict[str, InitResult] = {}
        self._place: Place | None = None
        self._stop: str | None = None
        self._timed_out = False
        self._forced = False
        self._began = False
        self._gates: set[asyncio.Task[Any]] = set()
        self._ending: deque[tuple[Row, JobReport]] = deque()

    @property
    def run_id(self) -> str:
        return self._facts.run_id

    @property
    def names(self) -> list[str]:
        return [self._title(row) for row in self._graph.rows]

    def _title(self, row: Row) -> str:
        return self._label + row.title(self._workflow.name)

    # ── stopping ────────────────────────────────────────────────────────────────────────────────

    def stop(self, reason: str, *, force: bool) -> None:
        """Nothing starts any more but hooks of the workflow; what runs is cancelled, forced: killed."""
        self._stop = self._stop or reason
        self._forced = self._forced or force
        self._runner.abort(as_sentence(reason), force=force)  # steps show it
        for task in self._gates:
            task.cancel()
        for row in self._graph.rows:
            if row.report is None and not row.begun and (force or row.planned.kind != "hooks"):
                self._end(row, self._unstarted(row, self._stop, JobStatus.CANCELLED))

    def stop_if_superseded(self) -> bool:
        """Whether another process wants this run's place; then it makes room."""
        if self._place is None or not self._place.superseded():
            return False
        self.stop(superseded(self._decision.concurrency_group or ""), force=False)
        return True

    async def _or_stop(self, waiting: Coroutine[Any, Any, T]) -> T | None:
        """What it comes to, or None when the run is stopped meanwhile."""
        if self._stop is not None:
            waiting.close()
            return None
        task = self._tasks.create_task(waiting)
        self._gates.add(task)
        try:
            await asyncio.wait([task])
            return None if task.cancelled() else task.result()
        finally:
            self._gates.discard(task)
            task.cancel()

    # ── the run ─────────────────────────────────────────────────────────────────────────────────

    async def run(self) -> RunReport:
        self._started = time.monotonic()
        limit: asyncio.TimerHandle | None = None
        if self._workflow.timeout is not None:
            limit = asyncio.get_running_loop().call_later(self._workflow.timeout / 1000, self._time_is_up)
        try:
            async with asyncio.TaskGroup() as self._tasks:
                if await self._admitted():
                    for row in list(self._graph.rows):
                        self._consider(row)
        finally:
            if limit is not None:
                limit.cancel()
            if self._place is not None:
                del self._peers[self._place.path]
                self._place.release()
        return self._report()

    def _time_is_up(self) -> None:
        assert self._workflow.timeout is not None
        self._timed_out = True
        self.stop(
            f"workflow_timeout: the run took longer than {in_words(self._workflow.timeout)}", force=False
        )

    async def _admitted(self) -> bool:
        """Rules, approval and concurrency group of the workflow, as far as they need no author code."""
        self._decision = resolve(self._workflow, [row.planned for row in self._graph.rows], self._scope)
        self._rules = _results(self._decision.rules)
        if self._decision.verdict != "run":
            self._refused_as = RunStatus.SKIPPED if self._decision.verdict == "skip" else RunStatus.FAILED
            self._message = self._decision.message
            for row in self._graph.rows:  # which are none of this run's (AU-34)
                self._machine.screen.unstarted(self._title(row))
            return False
        reason = await self._refused(self._workflow.approval, f"{self._label}{self._workflow.name}")
        if reason is not None:
            self._refuse(reason, RunStatus.FAILED)
            return False
        return await self._entered(self._decision.concurrency_group)

    async def _entered(self, name: str | None) -> bool:
        """Wait for a place in the workflow's concurrency group, or take it from an older run."""
        concurrency = self._workflow.concurrency
        if name is None or concurrency is None:
            return self._stop is None
        self._decision = structs.replace(self._decision, concurrency_group=name)
        machine, places = self._machine, concurrency.max
        group = Group(machine.scope, name, workflow=self._workflow.name, places=places)
        say = machine.screen.notice
        if concurrency.cancel_in_progress:

            def make_room(path: str) -> None:
                if path in self._peers:
                    self._peers[path].stop(superseded(name), force=False)

            place = await self._or_stop(group.take_over(say, own=make_room))
        else:
            place = await self._or_stop(group.wait(say))
        if place is None:
            return False
        self._place = place
        self._peers[place.path] = self
        return True

    def _refuse(self, message: str, status: RunStatus) -> None:
        """No job runs, nor any that has not begun."""
        if self._stop is not None:
            return  # that is why; who stopped it ended everything
        self._message, self._refused_as = message, status
        for row in self._graph.rows:
            if row.report is None and not row.begun:
                self._end(row, self._unstarted(row, message))

    def _report(self) -> RunReport:
        rows = sorted(self._graph.rows, key=lambda row: (row.planned.position, row.index))
        jobs = [row.report for row in rows if row.report is not None]
        status = run_status((job.status for job in jobs), cancelling=self._stop is not None)
        drifted = any(job.drifted for job in jobs)
        if self._refused_as is not None and status is not RunStatus.FAILED:
            status = self._refused_as
        elif self._timed_out:
            self._message = self._stop
        elif drifted and self._machine.check_mode == "check-fail-on-drift":
            status, self._message = RunStatus.FAILED, self._first_reason() or "drift was found"
        return RunReport(
            run_id=self._facts.run_id,
            workflow=self._workflow.name,
            trigger=self._trigger,
            status=status,
            duration_ms=round((time.monotonic() - self._started) * 1000),
            jobs=jobs,
            error_message=self._message or (self._first_reason() if status is RunStatus.FAILED else None),
            timeout_reason="workflow_timeout" if self._timed_out else None,
            rules=self._rules,
            events=self._runner.events,
            drifted=drifted,
            inputs=self._facts.inputs,
        )

    def _first_reason(self) -> str | None:
        """Of the job that failed first; else of the hooks, which come last."""
        reports = [row.report for row in self._graph.rows if row.report is not None]
        named = [job for job in reports if job.name == self._first_failed]
        blamed = named or [job for job in reports if failed(job.status)]
        return next((job.error_message for job in blamed if job.error_message), None)

    # ── rows ────────────────────────────────────────────────────────────────────────────────────

    def _consider(self, row: Row) -> None:
        """Begin a waiting row when its needs are satisfied, end it when they never will be."""
        if row.begun or row.report is not None:
            return
        if row.planned.kind != "hooks" and (unmet := self._graph.unmet(row)) is not None:
            name, status, upstream = unmet
            if upstream.planned.kind == "init" and upstream.planned.target and status == JobStatus.FAILED:
                # The functions of a job are part of it: their failure is its own (AU-41).
                assert upstream.report is not None
                cause = upstream.report
                category = cause.failure_category or upstream.planned.failure_category or None
                report = self._unstarted(
                    row, cause.error_message or "", JobStatus.FAILED, category=category
                )
            else:
                report = self._unstarted(row, f"upstream_unmet: {name} ({status})")
            self._end(row, report)
        elif row.open == 0:
            row.begun = True
            self._tasks.create_task(self._one(row), name=row.name)

    def _end(self, row: Row, report: JobReport) -> None:
        """The row has ended, and with it maybe others, one after the other."""
        if row.report is not None:
            return
        row.report = report
        self._ending.append((row, report))
        if len(self._ending) > 1:
            return  # whoever is at work below takes it
        while self._ending:
            row, report = self._ending[0]
            self._count_failure(row, report.status)
            self._graph.ended(row)
            for other in self._graph.downstream(row):
                self._consider(other)
            self._ending.popleft()

    def _count_failure(self, row: Row, status: JobStatus) -> None:
        if failed(status) and row.planned.kind != "hooks":
            self._failed = True
            self._first_failed = self._first_failed or row.name
            self._failed_bases.add(row.base)

    async def _one(self, row: Row) -> None:
        try:
            report = await self._through_gates(row)
        except NotStarted as error:
            report = self._unstarted(row, str(error))
        except KiciError as error:
            self._machine.screen.line(self._title(row), f"✗ {error}")
            report = self._unstarted(row, str(error), JobStatus.FAILED)
        self._end(row, report)

    async def _through_gates(self, row: Row) -> JobReport:
        """Rules, window, approval, concurrency group, a place among the jobs; then the runner."""
        decision = self._decision.jobs.get(row.index)
        if (reason := self._why_not(row)) is not None:
            return self._unstarted(row, reason)
        if decision is not None and decision.verdict != "run":
            failing = decision.verdict == "fail"
            return self._unstarted(
                row,
                decision.message or "",
                JobStatus.FAILED if failing else JobStatus.SKIPPED,
                rules=_results(decision.rules),
                category="dynamic_eval" if failing and not decision.rules else None,
            )
        job = row.planned.job if decision is None else decision.job
        async with AsyncExitStack() as gates:
            if job.max_parallel and row.planned.kind == "job":
                window = self._windows.setdefault(row.base, asyncio.Semaphore(job.max_parallel))
                await gates.enter_async_context(window)
            if (reason := self._why_not(row)) is not None:
                return self._unstarted(row, reason)
            if (reason := await self._refused(job.approval, self._title(row))) is not None:
                status = JobStatus.CANCELLED if self._stop is not None else JobStatus.FAILED
                return self._unstarted(row, reason, status)
            group = self._job_group(row, job, decision)
            if group is not None:
                place = await self._or_stop(self._job_place(group, self._title(row)))
                if place is None:
                    return self._unstarted(row, self._stop or "", JobStatus.CANCELLED)
                gates.callback(place.release)
            await gates.enter_async_context(self._machine.ahead)
            if (reason := self._why_not(row)) is not None:  # things may have happened meanwhile
                return self._unstarted(row, reason)
            outcome = self._outcome() if row.planned.kind == "hooks" else None
            if outcome is not None and (reason := self._why_no_hooks(outcome)) is not None:
                return self._unstarted(row, reason, JobStatus.SKIPPED)
            self._began = self._began or row.planned.kind == "job"
            report, result = await self._runner.run(self._assignment(row, job, decision, outcome))
        if self._stop is not None and report.error_message == as_sentence(self._stop):
            report = structs.replace(report, error_message=self._stop)
        return await self._learned(row, report, result)

    def _why_not(self, row: Row) -> str | None:
        """Why the row does not begin; None when it may."""
        if row.planned.kind == "hooks":
            return self._stop if self._forced else None
        if self._stop is not None:
            return self._stop
        if row.planned.job.fail_fast and row.base in self._failed_bases:
            return f"fail_fast: another {row.base} failed"
        if self._failed and not self._machine.keep_going:
            upstream = [report.status for other in self._graph.upstream(row) if (report := other.report)]
            if not any(map(failed, upstream)):  # else it was asked for by `when`
                return "not started after a failure (--keep-going runs it)"
        return None

    def _unstarted(
        self,
        row: Row,
        reason: str,
        status: JobStatus | None = None,
        *,
        rules: list[RuleResult] | None = None,
        category: str | None = None,
    ) -> JobReport:
        """Without a status: skipped, or cancelled when the run was."""
        if status is None:
            status = JobStatus.CANCELLED if self._stop is not None else JobStatus.SKIPPED
        title = row.title(self._workflow.name)
        self._machine.screen.unstarted(self._title(row))
        return never_ran(row.planned, title, reason, status, rules=rules, category=category)

    async def _refused(self, approval: Approval | None, title: str) -> str | None:
        """Why it may not run; None when it may: nobody need approve it, or somebody did."""
        if approval is None:
            return None
        asked = ApprovalAsked(
            clauses=[{"team": c.team} if c.team else {"user": c.user} for c in approval.clauses],
            reason=approval.reason,
            timeout_ms=None if approval.timeout_seconds is None else approval.timeout_seconds * 1000,
        )
        answer = await self._or_stop(self._machine.approvals.ask(title, asked))
        if answer is None:
            return self._stop
        outcome, reason = answer
        return None if outcome == "approved" else f"approval {outcome}: {reason}"

    async def _job_place(self, group: str, title: str) -> Place:
        """Jobs of one group run one at a time, in every process of this user (AU-59, AU-116)."""
        lock = Group(f"{self._machine.scope}\0jobs", group, workflow=self._workflow.name)
        return await lock.wait(lambda text: self._machine.screen.line(title, text))

    def _job_group(self, row: Row, job: LockJob, decision: JobDecision | None) -> str | None:
        """The job's concurrency group; without one, its first environment (AU-59)."""
        if row.planned.kind != "job":
            return None
        init = self._inits.get(row.base)
        if init is not None and init.concurrency_group is not None:
            return init.concurrency_group
        if decision is not None and decision.concurrency_group is not None:
            return decision.concurrency_group
        return group_of(job) or next(iter(environments_of(job, init)), None)

    def _assignment(
        self, row: Row, job: LockJob, decision: JobDecision | None, outcome: RunOutcome | None
    ) -> Assignment:
        return Assignment(
            row=row,
            title=self._title(row),
            job=job,
            upstream=self._graph.upstream(row),
            groups=self._graph.upstream_groups(row),
            init=self._inits.get(row.base),
            rules_from=0 if decision is None else decision.rules_from,
            rules=[] if decision is None else _results(decision.rules),
            outcome=outcome,
            refused=lambda: self._why_not(row),
            settled=lambda status: self._count_failure(row, status),
        )

    def _outcome(self) -> RunOutcome:
        """How the run went, for its hooks."""
        others = [row.report for row in self._graph.rows if row.report is not None]
        status = run_status((job.status for job in others), cancelling=self._stop is not None)
        if self._refused_as is RunStatus.FAILED:
            status = RunStatus.FAILED
        first = next((job for job in others if job.name == self._first_failed), None)
        return RunOutcome(
            status=str(status),
            reason=self._stop or (first.error_message if first is not None else None),
            failed_job=self._first_failed,
            duration_ms=round((time.monotonic() - self._started) * 1000),
            job_statuses={job.name: job.status for job in others if job.kind == "job"},
        )

    def _why_no_hooks(self, outcome: RunOutcome) -> str | None:
        hooks = workflow_hooks(self._workflow)
        return why_no_hooks(hooks, outcome.status, self._machine.check_mode, began=self._began)

    # ── what setup rows found out ───────────────────────────────────────────────────────────────

    async def _learned(self, row: Row, report: JobReport, result: JobResult) -> JobReport:
        """What the end of a setup row changes in the graph, before those who need it are considered."""
        if row.planned.kind == "init" and not row.planned.target and result.init is not None:
            self._rules = result.init.rules or []
        if report.status is not JobStatus.SUCCESS:
            return report
        try:
            match row.planned.kind:
                case "init" if row.planned.target:
                    init = result.init or InitResult()
                    self._inits[row.planned.target] = init
                    if init.matrix is not None:
                        self._expand_matrix(row, init)
                case "init":
                    await self._workflow_known(result.init or InitResult())
                case "dynamic":
                    self._expand_generated(row, result.generated or [])
                case _:
                    pass
        except (InvalidMatrix, InvalidGraph) as error:
            category = row.planned.failure_category or "dynamic_eval"
            message = f"Matrix expansion failed: {error}" if category == "matrix_expansion" else str(error)
            self._machine.screen.line(self._title(row), f"✗ {message}")
            return structs.replace(
                report, status=JobStatus.FAILED, error_message=message, failure_category=category
            )
        return report

    async def _workflow_known(self, init: InitResult) -> None:
        """Rules and concurrency group that only author code could tell (AU-34, AU-59)."""
        last = self._rules[-1] if self._rules else None
        if last is not None and not last.passed:
            self._refuse(f"rule '{last.label}' said no", RunStatus.SKIPPED)
        elif init.concurrency_group is not None and not await self._entered(init.concurrency_group):
            self._refuse("no place in its concurrency group", RunStatus.FAILED)

    def _expand_matrix(self, row: Row, init: InitResult) -> None:
        rows = self._graph.expand_matrix(row, init)
        self._machine.screen.announce([self._title(each) for each in rows])

    def _expand_generated(self, row: Row, jobs: Sequence[LockJob]) -> None:
        rows = self._graph.expand_generated(row, jobs)
        self._machine.screen.announce([self._title(each) for each in rows])
        decided = {each.index: decide_job(each.planned, self._scope) for each in rows}
        self._decision = structs.replace(self._decision, jobs={**self._decision.jobs, **decided})
        only = self._machine.only_job
        if only is None:
            return
        wanted = self._graph.with_upstream(each for each in rows if only in {each.name, each.base})
        for each in rows:
            if each.index not in wanted:
                self._end(each, self._unstarted(each, f"--job {only} does not need it"))


def _results(decided: Sequence[RuleDecision]) -> list[RuleResult]:
    return [
        RuleResult(label=rule.label, passed=rule.passed, duration_ms=rule.duration_ms, error=rule.error)
        for rule in decided
    ]
