"""The one way in which a run begins, whatever caused it (OR-6): rows of the run, its jobs and their edges,
the time line, and what others are told, all in the caller's transaction.

A batch of requests costs three statements whatever its size; one more when a workflow has dependencies, and
more for jobs that rules end before they begin. The run's `dedup_key` makes it idempotent: asked twice, there is one run (OR-35). Nothing is
dispatched here: jobs without `needs` are inserted as `queued`, which *is* the queue (OR-145).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from kici.engine.builds import BUILT, build_key, build_row
from kici.engine.concurrency import waiting_reason
from kici.engine.decisions import PLAIN, JobDecision, RunDecision, RunScope, resolve
from kici.engine.graph import ALWAYS
from kici.engine.labels import query_of
from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.runs.builds import Wanted, known
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.insertion import (
    Batch,
    JobRow,
    LockRow,
    NeedRow,
    RunRow,
    SlotRow,
    insert,
    job_row,
)
from kici.orchestrator.runs.planning import (
    PlannedJobRow,
    PlannedWorkflow,
    encode_spec,
    plan_workflow,
    row_of,
)
from kici.orchestrator.runs.projection import snapshot
from kici.orchestrator.runs.request import Commit, RunRequest, RunSource, StartedRun, StartPolicy
from kici.orchestrator.runs.state import JobPatch
from kici.protocol.dashboard_v1 import InitFailure
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7
from kici.spec.ids import JobId, RunId
from kici.spec.messages import shortened
from kici.spec.states import JobStatus, RunStatus

__all__ = [
    "Commit",
    "PlannedWorkflow",
    "RunRequest",
    "RunSource",
    "StartPolicy",
    "StartedRun",
    "plan_workflow",
    "start_runs",
]

_DEPTH = text("""
SELECT count(*) FROM (
    SELECT FROM execution_jobs WHERE status = 'queued' AND dispatched_at IS NULL LIMIT :enough
) waiting
""")
_EXISTING = text("""
SELECT r.id, r.org_id, r.dedup_key
FROM unnest(CAST(:orgs AS text[]), CAST(:keys AS text[])) AS k (org_id, dedup_key)
JOIN execution_runs r USING (org_id, dedup_key)
""")


async def start_runs(
    tx: AsyncConnection, requests: Sequence[RunRequest], policy: StartPolicy
) -> list[StartedRun]:
    """Insert what `requests` ask for; the answers stand in the same order. Commit, then wake `queue` and
    `outbox`, and `concurrency` when one of them waits.

    With the queue full, new runs are refused as failed, never half a run (OR-148).
    """
    if not requests:
        return []
    full = policy.queue_max_depth > 0 and await _queue_is_full(tx, policy.queue_max_depth)
    refused = _queue_full(policy.queue_max_depth) if full else None
    drafts = [_Draft(request, refused) for request in requests]
    await _add_builds(tx, [draft for draft in drafts if draft.has_dependencies], policy)
    batch = Batch(runs=[], jobs=[], needs=[], slots=[], locks={})
    for draft in drafts:
        draft.add_to(batch)
    fresh = await insert(
        tx,
        batch,
        queue_timeout_ms=policy.queue_timeout_ms,
        concurrency_wait_ms=policy.concurrency_wait_timeout_ms,
    )
    earlier = await _existing(tx, [run for run in batch.runs if run.id not in fresh])
    await _end_undecided(tx, [draft for draft in drafts if draft.run.id in fresh], policy)
    await snapshot(
        tx,
        fresh,
        job_ids=[job.id for job in batch.jobs if job.run_id in fresh],
        event_ids=[run.event_id for run in batch.runs if run.id in fresh],
    )
    return [
        draft.started
        if draft.run.id in fresh
        else StartedRun(
            run_id=RunId(earlier[draft.run.org_id, draft.run.dedup_key]),
            created=False,
            job_ids=[],
            failure=None,
        )
        for draft in drafts
    ]


async def _queue_is_full(tx: AsyncConnection, limit: int) -> bool:
    waiting: int = (await tx.execute(_DEPTH, {"enough": limit})).scalar_one()
    return waiting >= limit


def _queue_full(limit: int) -> InitFailure:
    return InitFailure(
        scope="run",
        category="no_agent",
        message=f"Queue full: {limit} jobs wait for an agent already (KICI_QUEUE_MAX_DEPTH)",
        job_name=None,
    )


async def _existing(tx: AsyncConnection, runs: Sequence[RunRow]) -> dict[tuple[str, str], str]:
    if not runs:
        return {}
    rows = await tx.execute(
        _EXISTING, {"orgs": [run.org_id for run in runs], "keys": [run.dedup_key for run in runs]}
    )
    return {(row.org_id, row.dedup_key): row.id for row in rows}


async def _add_builds(tx: AsyncConnection, drafts: Sequence["_Draft"], policy: StartPolicy) -> None:
    """A row for each whose dependencies nobody has built (AG-72). Who builds is decided later, in one place:
    see `runs.builds`."""
    if not drafts:
        return
    rows = [
        row_of(
            build_row(draft.workflow.lock, timeout_ms=policy.cache_build_timeout_ms), starts_queued=False
        )
        for draft in drafts
    ]
    wanted = [draft.wanted(row) for draft, row in zip(drafts, rows, strict=True)]
    built = await known(tx, wanted)
    for draft, row, key in zip(drafts, rows, wanted, strict=True):
        if key not in built:
            draft.build_with(row, key)


async def _end_undecided(tx: AsyncConnection, drafts: Sequence["_Draft"], policy: StartPolicy) -> None:
    """Jobs that a rule or a failing function ends before they begin, with all that follows from it: others
    are skipped, windows move on, and a run of which nothing is left has ended (OR-131, AU-34)."""
    patches = [patch for draft in drafts for patch in draft.ends]
    if not patches:
        return
    change = Change(
        tx,
        queue_timeout_ms=policy.queue_timeout_ms,
        concurrency_wait_ms=policy.concurrency_wait_timeout_ms,
    )
    await change.lock_runs([draft.run.id for draft in drafts if draft.ends])
    await change.write(patches)
    await change.record()


class _Draft:
    """One request and the rows that it becomes."""

    def __init__(self, request: RunRequest, refused: InitFailure | None) -> None:
        workflow = request.workflow
        failure = request.failure or workflow.failure or refused
        self._request = request
        self.decision = PLAIN if failure is not None or workflow.plain else _resolve(request)
        if self.decision.verdict == "fail":
            failure = InitFailure(
                scope="run",
                category="dynamic_eval",
                message=self.decision.message or "",
                job_name=None,
            )
        self._failure = failure
        self._begins = failure is None and self.decision.verdict == "run"
        self.run = self._run_row()
        self._ids = [uuid7() for _ in workflow.jobs] if self._begins else []
        self._build: JobRow | None = None
        self.ends: list[JobPatch] = []
        self._has_waiting_jobs = False

    @property
    def workflow(self) -> PlannedWorkflow:
        return self._request.workflow

    @property
    def has_dependencies(self) -> bool:
        """That this run would need. A test run brings its own tree along, and its agent installs."""
        return (
            self._begins
            and self.workflow.lockfile_hash is not None
            and not self._request.is_test_run
            and any(
                (decision := self.decision.jobs.get(index)) is None or decision.verdict == "run"
                for index, row in enumerate(self.workflow.jobs)
                if row.planned.kind != "hooks"
            )
        )

    def wanted(self, build: PlannedJobRow) -> Wanted:
        key = build_key(self.workflow.lockfile_hash or "", query_of(build.planned.job))
        return Wanted(self.run.org_id, key, self.run.sha)

    def build_with(self, row: PlannedJobRow, wanted: Wanted) -> None:
        """All rows wait for this one; it stands before them, and so its id is older."""
        build = job_row(self.run.id, uuid7(), row, status=JobStatus.WAITING)
        self._build = msgspec.structs.replace(build, target_job=wanted.key)
        self._ids = [uuid7() for _ in self._ids]
        self.run = msgspec.structs.replace(self.run, job_count=self.run.job_count + 1)

    @property
    def started(self) -> StartedRun:
        return StartedRun(
            run_id=RunId(self.run.id),
            created=True,
            job_ids=[JobId(job_id) for job_id in self._ids],
            failure=self._failure,
            waits=self.run.blocked or self._has_waiting_jobs or self._build is not None,
        )

    def add_to(self, batch: Batch) -> None:
        run, workflow = self.run, self._request.workflow
        batch.runs.append(run)
        if workflow.digest is not None:
            batch.locks[workflow.digest] = LockRow(
                digest=workflow.digest, document=workflow.document, sdk_version=workflow.sdk_version
            )
        if not self._begins:
            return
        if run.blocked and run.concurrency_group is not None:
            batch.slots.append(
                SlotRow(
                    holder_id=run.id,
                    scope="run",
                    run_id=run.id,
                    group_name=run.concurrency_group,
                    max=run.concurrency_max,
                    cancel_in_progress=run.cancel_in_progress,
                )
            )
        if self._build is not None:
            batch.jobs.append(self._build)
        for index, (job_id, row) in enumerate(zip(self._ids, workflow.jobs, strict=True)):
            self._add_job(batch, job_id, row, self.decision.jobs.get(index))
            batch.needs.extend(
                NeedRow(
                    run_id=run.id,
                    job_id=job_id,
                    upstream_job_id=self._ids[need.upstream],
                    run_on=need.run_on,
                    group_name=need.group or None,
                    group_run_on=need.group_run_on or None,
                )
                for need in row.planned.needs
            )
            if self._build is not None:
                run_on = ALWAYS if row.planned.kind == "hooks" else BUILT
                batch.needs.append(
                    NeedRow(run_id=run.id, job_id=job_id, upstream_job_id=self._build.id, run_on=run_on)
                )

    def _add_job(self, batch: Batch, job_id: str, row: PlannedJobRow, decision: JobDecision | None) -> None:
        run_id = self.run.id
        more_needs = 0 if self._build is None else 1
        starts_queued = row.starts_queued and not more_needs
        if decision is None:
            status = JobStatus.PENDING
            if starts_queued:
                status = JobStatus.WAITING if self.run.blocked else JobStatus.QUEUED
            batch.jobs.append(job_row(run_id, job_id, row, status=status, more_needs=more_needs))
            return
        status = JobStatus.PENDING
        group = decision.concurrency_group
        if decision.verdict != "run":
            self.ends.append(ended_early(job_id, row.planned.name, decision))
        elif starts_queued and (group is not None or self.run.blocked):
            status = JobStatus.WAITING
            if group is not None and not self.run.blocked:
                self._has_waiting_jobs = True
                batch.slots.append(
                    SlotRow(
                        holder_id=job_id,
                        scope="job",
                        run_id=run_id,
                        group_name=group,
                        max=1,
                        cancel_in_progress=False,
                    )
                )
        elif starts_queued:
            status = JobStatus.QUEUED
        batch.jobs.append(
            job_row(
                run_id,
                job_id,
                row,
                status=status,
                spec=None if decision.job is row.planned.job else encode_spec(decision.job),
                rules=decision.rules,
                rules_from=decision.rules_from,
                concurrency_group=group,
                more_needs=more_needs,
            )
        )

    def _run_row(self) -> RunRow:
        request, failure, decision = self._request, self._failure, self.decision
        if failure is not None:
            failure = msgspec.structs.replace(failure, message=shortened(failure.message))
        run_id = uuid7()
        workflow = request.workflow
        lock, source, commit = workflow.lock, request.source, request.commit
        status = RunStatus.QUEUED
        if not self._begins:
            status = RunStatus.SKIPPED if failure is None else RunStatus.FAILED
        concurrency = lock.concurrency if self._begins else None
        group = decision.concurrency_group
        return RunRow(
            id=run_id,
            org_id=source.org_id,
            routing_key=source.routing_key,
            source_name=source.name,
            source_subtype=source.subtype,
            provider=source.provider,
            workflow_name=lock.name,
            workflow_file=lock.source.file,
            workflow_export=(lock.source.export or "").removeprefix("#"),
            content_hash=lock.content_hash,
            compile_schema_version=lock.compile_schema_version,
            sdk_version=workflow.sdk_version,
            resolved_hash_files=lock.resolved_hash_files,
            status=status,
            repo_identifier=commit.repo_identifier,
            repo_url=commit.repo_url,
            ref=commit.ref,
            branch=commit.branch,
            sha=commit.sha,
            commit_message=commit.message,
            trigger_event=request.trigger_event,
            trigger_decision=msgspec.structs.replace(request.decision, run_id=run_id),
            event=request.event,
            delivery_id=request.delivery_id,
            inbox_id=request.inbox_id,
            dedup_key=request.dedup_key,
            request_id=request.request_id,
            chain_depth=request.chain_depth,
            triggered_by=request.triggered_by,
            parent_run_id=request.parent_run_id,
            original_run_id=request.original_run_id,
            failure_reason=failure.message if failure else None,
            init_failure=failure,
            workflow_timeout_ms=lock.timeout,
            job_count=len(workflow.jobs) if self._begins else 0,
            event_id=uuid7(),
            completion=None if self._begins else _completion(run_id, request, status),
            completion_id=uuid7(),
            check_mode=request.check_mode,
            is_test_run=request.is_test_run,
            inputs=request.inputs,
            rules=decision.rules,
            workflow_hooks=workflow.hooks,
            concurrency_group=group if self._begins else None,
            concurrency_max=concurrency.max if concurrency else 1,
            cancel_in_progress=concurrency.cancel_in_progress if concurrency else True,
            blocked=self._begins and group is not None,
            waiting_reason=waiting_reason(group, 0) if self._begins and group is not None else None,
            lock_digest=workflow.digest,
            overlay_key=request.overlay_key,
            remote_secrets=request.remote_secrets,
        )


def _resolve(request: RunRequest) -> RunDecision:
    commit, workflow = request.commit, request.workflow
    return resolve(
        workflow.lock,
        [row.planned for row in workflow.jobs],
        RunScope(
            event=request.event,
            ref=commit.ref,
            sha=commit.sha,
            repository=commit.repo_identifier,
            inputs=request.inputs,
        ),
    )


def ended_early(job_id: str, name: str, decision: JobDecision) -> JobPatch:
    """A pending job whose rules said no, or that has a function which failed."""
    failed = decision.verdict == "fail"
    patch = JobPatch(
        job_id=job_id,
        was=JobStatus.PENDING,
        attempt=0,
        status=job_after(JobStatus.PENDING, JobEvent.FAIL if failed else JobEvent.SKIP),
        error_message=decision.message,
    )
    if failed and not decision.rules:
        patch.init_failure = {
            "scope": "job",
            "category": "dynamic_eval",
            "message": decision.message,
            "jobName": name,
        }
    return patch


def _completion(run_id: str, request: RunRequest, status: RunStatus) -> dict[str, Any]:
    """OR-92: a run that ended before its first job has completed all the same."""
    return {
        "workflowName": request.workflow.lock.name,
        "runId": run_id,
        "status": status,
        "conclusion": status,
        "duration": 0,
        "jobResults": [],
        "sourceRepo": request.commit.repo_identifier,
        "sourceRoutingKey": request.source.routing_key,
    }
