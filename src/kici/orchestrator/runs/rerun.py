"""The same commit and the same stored event once more, as a new run (OR-205…207).

All of it again begins from the stored lock entry, through `start_runs`. Only what failed again is a copy of
the run's own rows, runtime matrices and generated jobs included: what succeeded is carried over with its
outputs, and so is what a rule ended; everything else is as if it had never begun.
"""

from typing import Any, ClassVar, Literal

import msgspec
from msgspec import Struct

from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.db.rows import without_nul
from kici.orchestrator.events.stored import RERUN
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.graph import enter
from kici.orchestrator.runs.insertion import KICI_EVENT_TTL_S
from kici.orchestrator.runs.planning import StoredWorkflow, plan_workflow
from kici.orchestrator.runs.projection import snapshot
from kici.orchestrator.runs.request import Commit, RunRequest, RunSource, StartPolicy
from kici.orchestrator.runs.start import start_runs
from kici.orchestrator.runs.state import JobPatch
from kici.orchestrator.runs.views import RunNotFound
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.protocol.platform_v1 import Actor
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import request_id, uuid7
from kici.spec.errors import Conflict, KiciError
from kici.spec.events import Event
from kici.spec.ids import RunId
from kici.spec.states import RUN_TERMINAL, JobStatus

COOLDOWN_S = 5

Mode = Literal["all", "failed"]


class NotRerunnable(Conflict):
    code: ClassVar[str] = "not_rerunnable"


class RerunTooSoon(KiciError):
    code: ClassVar[str] = "rerun_cooldown"
    status: ClassVar[int] = 429


class LockGone(KiciError):
    """The run is older than what we keep to begin it again."""

    code: ClassVar[str] = "lock_gone"
    status: ClassVar[int] = 410


class _Old(Struct, frozen=True):
    run_id: str
    org_id: str
    routing_key: str
    source_name: str
    source_subtype: str
    provider: str
    status: str
    repo_identifier: str
    repo_url: str | None
    ref: str
    branch: str | None
    sha: str
    commit_message: str | None
    trigger_decision: str
    event: str
    delivery_id: str | None
    inbox_id: str | None
    chain_depth: int
    original_run_id: str
    check_mode: str
    is_test_run: bool
    inputs: str
    workflow_name: str
    job_count: int
    document: str | None
    sdk_version: str | None
    source_gone: bool
    too_soon: bool


_OLD = text(f"""
    SELECT r.id, r.org_id, r.routing_key, r.source_name, r.source_subtype, r.provider, r.status,
        r.repo_identifier, r.repo_url, r.ref, r.branch, r.sha, r.commit_message, r.trigger_decision::text,
        r.event::text, r.delivery_id, r.inbox_id, r.chain_depth, coalesce(r.original_run_id, r.id),
        r.check_mode, r.is_test_run, r.inputs::text, r.workflow_name, r.job_count, l.document::text, l.sdk_version,
        EXISTS (SELECT FROM sources s WHERE s.routing_key = r.routing_key AND s.deleted_at IS NOT NULL),
        EXISTS (SELECT FROM execution_runs n WHERE n.parent_run_id = r.id
                AND n.created_at > now() - interval '{COOLDOWN_S} seconds')
    FROM execution_runs r LEFT JOIN workflow_locks l ON l.digest = r.lock_digest
    WHERE r.id = :run_id AND (CAST(:org_id AS text) IS NULL OR r.org_id = :org_id)
    FOR NO KEY UPDATE OF r
""")
_TELL = text("""
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, source_run_id,
        chain_depth, expires_at)
    VALUES (:id, :org_id, :name, CAST(:payload AS jsonb), :repo, :routing_key, :run_id, :chain_depth,
        now() + make_interval(secs => CAST(:ttl_s AS int)))
""")

_decode_decision = msgspec.json.Decoder(DeliveryDecision).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_inputs = msgspec.json.Decoder(dict[str, Any]).decode
_decode_lock = msgspec.json.Decoder(StoredWorkflow).decode


async def rerun(
    change: Change, run_id: str, mode: Mode, actor: Actor, policy: StartPolicy, *, org_id: str | None
) -> RunId:
    """Raises RunNotFound, NotRerunnable (not ended, a test, nothing failed, its source is gone), RerunTooSoon
    and LockGone."""
    row = (await change.tx.execute(_OLD, {"run_id": run_id, "org_id": org_id})).one_or_none()
    if row is None:
        raise RunNotFound(f"no run {run_id}")
    old = _Old(*row)
    _check(old)
    who = actor.display_name or actor.id
    if mode == "failed" and old.job_count:
        new_id = await _copy(change, old, who)
    else:
        new_id = await _again(change, old, who, policy)
    await _tell(change.tx, old, new_id, mode, actor)
    return RunId(new_id)


def _check(old: _Old) -> None:
    if old.status not in RUN_TERMINAL:
        raise NotRerunnable(f"the run has not ended: {old.status}")
    if old.is_test_run:
        raise NotRerunnable("a remote test run brought its working tree along: run it again from there")
    if old.source_gone:
        raise NotRerunnable(f"the source {old.source_name} was removed")
    if old.too_soon:
        raise RerunTooSoon(f"the run was started again less than {COOLDOWN_S} s ago")


def _decision(old: _Old, who: str) -> DeliveryDecision:
    before = _decode_decision(old.trigger_decision)
    return msgspec.structs.replace(before, reason=f"Started again by {who}: {before.reason}", run_id=None)


async def _again(change: Change, old: _Old, who: str, policy: StartPolicy) -> str:
    if old.document is None:
        raise LockGone(f"the lock entry of {old.workflow_name} at this commit is no longer kept")
    request = RunRequest(
        source=RunSource(
            org_id=old.org_id,
            routing_key=old.routing_key,
            name=old.source_name,
            subtype=old.source_subtype,
            provider=old.provider,
        ),
        commit=Commit(
            repo_identifier=old.repo_identifier,
            repo_url=old.repo_url,
            ref=old.ref,
            branch=old.branch,
            sha=old.sha,
            message=old.commit_message,
        ),
        workflow=plan_workflow(_decode_lock(old.document), old.sdk_version or ""),
        event=_decode_event(old.event),
        trigger_event="rerun",
        decision=_decision(old, who),
        dedup_key=f"rerun:{uuid7()}",
        request_id=request_id(),
        delivery_id=old.delivery_id,
        inbox_id=old.inbox_id,
        chain_depth=old.chain_depth,
        triggered_by=who,
        parent_run_id=old.run_id,
        original_run_id=old.original_run_id,
        check_mode=old.check_mode,
        inputs=_decode_inputs(old.inputs),
    )
    (started,) = await start_runs(change.tx, [request], policy)
    change.queued = change.told = True
    change.regrouped = change.regrouped or started.waits
    return started.run_id


# ── only what failed ─────────────────────────────────────────────────────────────────────────────

# A secret output was sealed for the old run, so that its producer has to run again.
_CARRIED = """
    o.kind <> 'hooks' AND (o.status = 'success' AND o.secret_output_keys = '{}'
                           OR o.attempt = 0 AND o.rules @> '[{"passed": false}]')
"""
_JOBS = text(f"""
    SELECT o.id, o.base_job_name, o.max_parallel, o.concurrency_group, {_CARRIED},
        EXISTS (SELECT FROM execution_job_needs n WHERE n.job_id = o.id), o.kind = 'build'
    FROM execution_jobs o WHERE o.run_id = :run_id ORDER BY o.position, o.id
""")
_COPY = text(f"""
    WITH ids AS MATERIALIZED (
        SELECT * FROM unnest(CAST(:old_ids AS uuid[]), CAST(:new_ids AS uuid[])) AS i (old_id, new_id)
    ), run AS (
        INSERT INTO execution_runs (id, org_id, routing_key, source_name, source_subtype, provider,
            workflow_name, workflow_file, workflow_export, content_hash, compile_schema_version, sdk_version,
            resolved_hash_files, status, repo_identifier, repo_url, ref, branch, sha, commit_message,
            trigger_event, trigger_decision, event, delivery_id, inbox_id, dedup_key, request_id, chain_depth,
            triggered_by, parent_run_id, original_run_id, workflow_timeout_ms, deadline_at, check_mode, inputs,
            rules, workflow_hooks, concurrency_group, concurrency_max, cancel_in_progress, blocked, lock_digest,
            jobs_open, job_count)
        SELECT CAST(:new_run_id AS uuid), org_id, routing_key, source_name, source_subtype, provider,
            workflow_name, workflow_file, workflow_export, content_hash, compile_schema_version, sdk_version,
            resolved_hash_files, 'queued', repo_identifier, repo_url, ref, branch, sha, commit_message, 'rerun',
            CAST(:decision AS jsonb), event, delivery_id, inbox_id, :dedup_key, :request_id, chain_depth, :who,
            id, coalesce(original_run_id, id), workflow_timeout_ms,
            CASE WHEN concurrency_group IS NULL
                THEN now() + make_interval(secs => workflow_timeout_ms::float8 / 1000) END,
            check_mode, inputs, rules, workflow_hooks, concurrency_group, concurrency_max, cancel_in_progress,
            concurrency_group IS NOT NULL, lock_digest, CAST(:open AS int), cardinality(CAST(:new_ids AS uuid[]))
        FROM execution_runs WHERE id = CAST(:run_id AS uuid)
    ), jobs AS (
        INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, variant_kind,
            variant_label, matrix_values, kind, target_job, generator_index, group_name, fanout_index,
            fanout_total, rules, rules_from, environments, concurrency_group, failure_category, request_cpus,
            request_memory_mb, max_parallel, fail_fast, priority, runs_on, exclude_labels, runs_on_patterns,
            pick, timeout_ms, status, needs_pending, attempt, outputs, error_message, drifted, started_at,
            completed_at)
        SELECT i.new_id, CAST(:new_run_id AS uuid), o.org_id, o.position, o.job_name, o.base_job_name,
            o.variant_kind, o.variant_label, o.matrix_values, o.kind, o.target_job, o.generator_index,
            o.group_name, o.fanout_index, o.fanout_total,
            CASE WHEN {_CARRIED} THEN o.rules ELSE coalesce(jsonb_path_query_array(
                o.rules, '$[*] ? (@.passed == true)'), '[]') END,
            o.rules_from, o.environments, o.concurrency_group, o.failure_category, o.request_cpus,
            o.request_memory_mb, o.max_parallel, o.fail_fast, o.priority, o.runs_on, o.exclude_labels,
            o.runs_on_patterns, o.pick, o.timeout_ms, CASE WHEN {_CARRIED} THEN o.status ELSE 'pending' END,
            (SELECT count(*) FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
             WHERE n.job_id = o.id AND u.id <> ALL(CAST(:carried AS uuid[]))),
            CASE WHEN {_CARRIED} THEN o.attempt ELSE 0 END,
            CASE WHEN {_CARRIED} THEN o.outputs END, CASE WHEN {_CARRIED} THEN o.error_message END,
            {_CARRIED} AND o.drifted, CASE WHEN {_CARRIED} THEN o.started_at END,
            CASE WHEN {_CARRIED} THEN o.completed_at END
        FROM ids i JOIN execution_jobs o ON o.id = i.old_id
    ), specs AS (
        INSERT INTO execution_job_specs (job_id, run_id, spec)
        SELECT i.new_id, CAST(:new_run_id AS uuid), s.spec FROM ids i JOIN execution_job_specs s ON s.job_id = i.old_id
    ), edges AS (
        INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on, group_name, group_run_on)
        SELECT CAST(:new_run_id AS uuid), d.new_id, u.new_id, n.run_on, n.group_name, n.group_run_on
        FROM execution_job_needs n JOIN ids d ON d.old_id = n.job_id JOIN ids u ON u.old_id = n.upstream_job_id
    )
    INSERT INTO run_events (id, run_id, event_type, source_service, at, metadata)
    VALUES (CAST(:event_id AS uuid), CAST(:new_run_id AS uuid), 'orchestrator.dispatch', 'orchestrator', now(),
        jsonb_build_object('jobs', CAST(:open AS int), 'carriedOver', cardinality(CAST(:carried AS uuid[])),
                           'triggerEvent', 'rerun'))
""")


async def _copy(change: Change, old: _Old, who: str) -> str:
    rows = (await change.tx.execute(_JOBS, {"run_id": old.run_id})).all()
    if all(row[4] for row in rows):
        raise NotRerunnable("no job of this run has failed: start all of it again")
    new_run_id, event_id = uuid7(), uuid7()
    new_ids = {row[0]: uuid7() for row in rows}
    carried = [row[0] for row in rows if row[4]]
    await change.tx.execute(
        _COPY,
        {
            "run_id": old.run_id,
            "new_run_id": new_run_id,
            "old_ids": list(new_ids),
            "new_ids": list(new_ids.values()),
            "carried": carried,
            "open": len(rows) - len(carried),
            "decision": msgspec.json.encode(
                msgspec.structs.replace(_decision(old, who), run_id=new_run_id)
            ).decode(),
            "dedup_key": f"rerun:{new_run_id}",
            "request_id": request_id(),
            "who": who,
            "event_id": event_id,
        },
    )
    await snapshot(change.tx, [new_run_id], job_ids=list(new_ids.values()), event_ids=[event_id])
    change.told = True
    await change.lock_runs([new_run_id])
    run = change.runs[new_run_id]
    if run.blocked:
        await change.block_runs([new_run_id])
    patches: list[JobPatch] = []
    windows: set[tuple[str, str]] = set()
    with_needs: list[str] = []
    for old_id, base, window, group, is_carried, has_needs, is_build in rows:
        if is_carried:
            continue
        if has_needs:
            with_needs.append(new_ids[old_id])
        elif window is not None:
            windows.add((new_run_id, base))
        else:
            patch = JobPatch(job_id=new_ids[old_id], was=JobStatus.PENDING, attempt=0)
            if is_build:
                patch.status = job_after(patch.was, JobEvent.WAIT)
                change.regrouped = True
            else:
                enter(patch, run, group)
            patches.append(patch)
    await change.write(patches)
    await change.settle(with_needs, windows)
    return new_run_id


async def _tell(tx: AsyncConnection, old: _Old, new_id: str, mode: Mode, actor: Actor) -> None:
    payload = {
        "workflowName": old.workflow_name,
        "runId": new_id,
        "parentRunId": old.run_id,
        "originalRunId": old.original_run_id,
        "mode": mode,
        "actor": actor,
        "repo": old.repo_identifier,
    }
    await tx.execute(
        _TELL,
        {
            "id": uuid7(),
            "org_id": old.org_id,
            "name": RERUN,
            "payload": without_nul(msgspec.json.encode(payload)).decode(),
            "repo": old.repo_identifier,
            "routing_key": old.routing_key,
            "run_id": new_id,
            "chain_depth": old.chain_depth,
            "ttl_s": KICI_EVENT_TTL_S,
        },
    )
