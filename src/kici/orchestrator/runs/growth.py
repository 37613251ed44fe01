"""What a run gains when one of its setup rows ends: values, matrix children, generated jobs (OR-134…137).

All of it is written in the transaction that ends the row, before its downstreams are looked at. A repeated
report finds the row ended and comes not this far; one of an older attempt neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from kici.engine.capabilities import missing_of
from kici.engine.decisions import JobDecision, RunScope, decide_job, env_of, group_name, group_of
from kici.engine.expansion import Node, expand_generated
from kici.engine.expressions import ExpressionError
from kici.engine.graph import InvalidGraph, PlannedJob, PlannedNeed
from kici.engine.matrix import InvalidMatrix, Variant, expand_matrix
from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.insertion import (
    JOB_COLUMNS,
    JOB_RECORD,
    JOB_VALUES,
    NEED_RECORD,
    JobRow,
    NeedRow,
    job_row,
)
from kici.orchestrator.runs.planning import encode_spec, row_of
from kici.orchestrator.runs.start import ended_early
from kici.orchestrator.runs.state import JobPatch, RunPatch
from kici.orchestrator.runs.state import JobRow as LockedJob
from kici.protocol.runner_v1 import InitResult
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7
from kici.spec.events import Event
from kici.spec.lock import DynamicValue, LockJob
from kici.spec.states import JobStatus

SETUP = frozenset({"init", "dynamic"})

_decode_job = msgspec.json.Decoder(LockJob).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_inputs = msgspec.json.Decoder(dict[str, Any]).decode


class Finding(Struct, frozen=True, kw_only=True):
    """What a setup row came to. `job` is locked, with its run."""

    job: LockedJob
    init: InitResult | None
    generated: Sequence[LockJob] | None


class Problem(Struct, frozen=True, kw_only=True):
    category: str
    message: str


async def grow(change: Change, finding: Finding) -> Problem | None:
    """Writes what was found into the run; returns why it cannot be used, having written nothing."""
    job = finding.job
    try:
        if job.kind == "dynamic":
            await _add_generated(change, job, finding.generated)
        elif finding.init is None:
            raise _Unusable("the agent sent no result")
        elif job.target_job is None:
            await _decide_workflow(change, job, finding.init)
        else:
            await _complete_job(change, job, job.target_job, finding.init)
    except InvalidMatrix as error:
        return Problem(category="matrix_expansion", message=f"Matrix expansion failed: {error}")
    except (InvalidGraph, ExpressionError, _Unusable) as error:
        return Problem(category=job.failure_category or "dynamic_eval", message=str(error))
    return None


class _Unusable(Exception):
    pass


# ── the workflow's own functions ─────────────────────────────────────────────────────────────────

_PENDING = text("""
    SELECT id, attempt FROM execution_jobs
    WHERE run_id = :run_id AND status = 'pending' AND kind <> 'hooks' ORDER BY position, id FOR NO KEY UPDATE
""")
_NAME_GROUP = text("UPDATE execution_runs SET concurrency_group = :name, blocked = true WHERE id = :run_id")


async def _decide_workflow(change: Change, job: LockedJob, found: InitResult) -> None:
    """Its rules, and its concurrency group when they let it run."""
    rules = found.rules or []
    group = None if found.concurrency_group is None else group_name(found.concurrency_group)
    if rules:
        await change.write(runs=[RunPatch(run_id=job.run_id, rules=rules)])
    if rules and rules[-1].error is not None:
        return  # the row has failed, and so do those who need it: on their edges
    if rules and not rules[-1].passed:
        rows = await change.tx.execute(_PENDING, {"run_id": job.run_id})
        await change.write(
            [
                JobPatch(
                    job_id=job_id,
                    was=JobStatus.PENDING,
                    attempt=attempt,
                    status=job_after(JobStatus.PENDING, JobEvent.SKIP),
                    error_message=f"rule '{rules[-1].label}' said no",
                )
                for job_id, attempt in rows
            ]
        )
    elif group is not None:
        await change.tx.execute(_NAME_GROUP, {"run_id": job.run_id, "name": group})
        await change.block_runs([job.run_id])


# ── a job's functions ────────────────────────────────────────────────────────────────────────────

_TARGETS = text("""
    SELECT j.id, s.spec::text FROM execution_jobs j JOIN execution_job_specs s ON s.job_id = j.id
    WHERE j.run_id = :run_id AND j.base_job_name = :name AND j.kind = 'job' AND j.status = 'pending'
    ORDER BY j.id FOR NO KEY UPDATE OF j
""")
_COMPLETE = text("""
    WITH spec AS (
        UPDATE execution_job_specs SET spec = CAST(:spec AS jsonb) WHERE job_id = ANY(CAST(:ids AS uuid[]))
    )
    UPDATE execution_jobs SET concurrency_group = coalesce(:group_name, concurrency_group),
        environments = coalesce(CAST(:environments AS text[]), environments)
    WHERE id = ANY(CAST(:ids AS uuid[]))
""")


async def _complete_job(change: Change, job: LockedJob, target: str, found: InitResult) -> None:
    """Every child of one base job has the same spec. Those that have ended meanwhile need it no more."""
    rows = (await change.tx.execute(_TARGETS, {"run_id": job.run_id, "name": target})).all()
    if not rows:
        return
    ids = [row[0] for row in rows]
    asked = _decode_job(rows[0][1])
    spec = asked
    group: str | None = None
    if found.env is not None:
        spec = structs.replace(spec, env=env_of(found.env), dynamic_env=False)
    if found.environments is not None:
        spec = structs.replace(spec, environments=[DynamicValue(value=name) for name in found.environments])
    if found.concurrency_group is not None:
        group = group_name(found.concurrency_group)
        spec = structs.replace(spec, concurrency_group=group, dynamic_concurrency_group=False)
    elif found.environments is not None:
        group = group_of(spec)
    variants: Sequence[Variant] = ()
    if asked.matrix is not None and asked.matrix.type == "dynamic":
        if found.matrix is None:
            raise _Unusable("the agent sent no matrix")
        variants = expand_matrix(asked, found.matrix)
        await _check_names(change.tx, job.run_id, target, [variant.job_name for variant in variants])
    await change.tx.execute(
        _COMPLETE,
        {
            "ids": ids,
            "spec": bytes(encode_spec(spec)).decode(),
            "group_name": group,
            "environments": found.environments,
        },
    )
    if variants:
        await _multiply(change, job.run_id, ids[0], variants)
    change.touch_jobs(ids)


_TAKEN = text("""
    SELECT job_name FROM execution_jobs
    WHERE run_id = :run_id AND base_job_name <> :target AND job_name = ANY(CAST(:names AS text[])) LIMIT 1
""")


async def _check_names(tx: AsyncConnection, run_id: str, target: str, names: Sequence[str]) -> None:
    taken = await tx.scalar(_TAKEN, {"run_id": run_id, "target": target, "names": list(names)})
    if taken is not None:
        raise InvalidMatrix(f"job {target!r}: the run has a job named {taken!r} already")


class _Child(Struct, frozen=True, kw_only=True):
    id: str
    job_name: str
    variant_label: str | None
    matrix_values: dict[str, Any]
    fanout_index: int


# The placeholder becomes the first child; the others take its edges on both sides.
_MULTIPLY = text("""
    WITH children AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:children AS json)) AS x (
            id uuid, job_name text, variant_label text, matrix_values json, fanout_index int)
    ), first AS MATERIALIZED (SELECT * FROM execution_jobs WHERE id = CAST(:first AS uuid)),
    renamed AS (
        UPDATE execution_jobs j SET job_name = c.job_name, variant_kind = 'matrix',
            variant_label = c.variant_label, matrix_values = c.matrix_values, fanout_index = c.fanout_index,
            fanout_total = CAST(:total AS int)
        FROM children c WHERE j.id = c.id AND j.id = CAST(:first AS uuid)
    ), added AS (
        INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, variant_kind,
            variant_label, matrix_values, status, needs_pending, max_parallel, fail_fast, priority, runs_on,
            exclude_labels, runs_on_patterns, pick, timeout_ms, kind, group_name, fanout_index, fanout_total,
            rules, rules_from, environments, concurrency_group, request_cpus, request_memory_mb)
        SELECT c.id, f.run_id, f.org_id, f.position, c.job_name, f.base_job_name, 'matrix', c.variant_label,
            c.matrix_values, 'pending', f.needs_pending, f.max_parallel, f.fail_fast, f.priority, f.runs_on,
            f.exclude_labels, f.runs_on_patterns, f.pick, f.timeout_ms, f.kind, f.group_name, c.fanout_index,
            CAST(:total AS int), f.rules, f.rules_from, f.environments, f.concurrency_group, f.request_cpus,
            f.request_memory_mb
        FROM children c CROSS JOIN first f WHERE c.id <> f.id
    ), specs AS (
        INSERT INTO execution_job_specs (job_id, run_id, spec)
        SELECT c.id, s.run_id, s.spec FROM children c JOIN execution_job_specs s ON s.job_id = CAST(:first AS uuid)
        WHERE c.id <> s.job_id
    ), edges AS (
        INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on, group_name, group_run_on)
        SELECT n.run_id, c.id, n.upstream_job_id, n.run_on, n.group_name, n.group_run_on
        FROM children c JOIN execution_job_needs n ON n.job_id = CAST(:first AS uuid) WHERE c.id <> n.job_id
        UNION ALL
        SELECT n.run_id, n.job_id, c.id, n.run_on, n.group_name, n.group_run_on
        FROM children c JOIN execution_job_needs n ON n.upstream_job_id = CAST(:first AS uuid)
        WHERE c.id <> n.upstream_job_id
    ), counted AS (
        UPDATE execution_jobs d SET needs_pending = d.needs_pending + CAST(:more AS int)
        FROM execution_job_needs n
        WHERE n.upstream_job_id = CAST(:first AS uuid) AND d.id = n.job_id AND d.status = 'pending'
    )
    UPDATE execution_runs r SET jobs_open = jobs_open + CAST(:more AS int), job_count = job_count + CAST(:more AS int)
    FROM first f WHERE r.id = f.run_id
""")


async def _multiply(change: Change, run_id: str, first: str, variants: Sequence[Variant]) -> None:
    children = [
        _Child(
            id=first if index == 0 else uuid7(),
            job_name=variant.job_name,
            variant_label=variant.display,
            matrix_values=variant.values,
            fanout_index=index,
        )
        for index, variant in enumerate(variants)
    ]
    more = len(children) - 1
    await change.tx.execute(
        _MULTIPLY,
        {"children": encode_rows(children), "first": first, "total": len(children), "more": more},
    )
    _count(change, run_id, more)
    change.touch_jobs(child.id for child in children)


def _count(change: Change, run_id: str, more: int) -> None:
    run = change.runs[run_id]
    run.jobs_open += more
    run.job_count += more


# ── generated jobs ───────────────────────────────────────────────────────────────────────────────

_NODES = text("""
    SELECT j.id, j.job_name, j.base_job_name, j.kind, j.position,
        coalesce(CASE WHEN j.kind = 'dynamic' THEN j.target_job ELSE j.group_name END, '')
    FROM execution_jobs j WHERE j.run_id = :run_id ORDER BY j.position, j.id
""")
_NEEDS = text("""
    SELECT job_id, upstream_job_id, run_on, coalesce(group_name, ''), coalesce(group_run_on, '{}')
    FROM execution_job_needs WHERE run_id = :run_id
""")
_SCOPE = text("""
    SELECT org_id, event::text, inputs::text, ref, sha, repo_identifier FROM execution_runs WHERE id = :run_id
""")
_ADD = text(f"""
    WITH wanted AS MATERIALIZED (
        SELECT x.*, CAST(:org_id AS text) AS org_id
        FROM json_to_recordset(CAST(:jobs AS json)) AS x ({JOB_RECORD})
    ), jobs AS (
        INSERT INTO execution_jobs ({JOB_COLUMNS}) SELECT {JOB_VALUES} FROM wanted
    ), specs AS (
        INSERT INTO execution_job_specs (job_id, run_id, spec) SELECT id, run_id, spec FROM wanted
    ), edges AS (
        INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on, group_name, group_run_on)
        SELECT x.run_id, x.job_id, x.upstream_job_id, x.run_on, x.group_name, x.group_run_on
        FROM json_to_recordset(CAST(:needs AS json)) AS x ({NEED_RECORD})
        RETURNING job_id
    ), counted AS (  -- of jobs that were there: new rows are not in this statement's snapshot
        UPDATE execution_jobs d SET needs_pending = d.needs_pending + more.edges
        FROM (SELECT job_id, count(*) AS edges FROM edges GROUP BY job_id) more
        WHERE d.id = more.job_id AND d.status = 'pending'
    )
    UPDATE execution_runs SET jobs_open = jobs_open + CAST(:more AS int), job_count = job_count + CAST(:more AS int)
    WHERE id = CAST(:run_id AS uuid)
""")


async def _add_generated(change: Change, job: LockedJob, generated: Sequence[LockJob] | None) -> None:
    """Rows and edges of what the generator made, and edges of those who need its group."""
    if generated is None:
        raise _Unusable("the agent sent no jobs")
    lacking = missing_of(generated)
    if lacking:
        raise _Unusable(f"This version of the server cannot run jobs that use {'; '.join(lacking)}")
    run_id = job.run_id
    ids, nodes = await _nodes(change.tx, run_id)
    expansion = expand_generated(generated, ids.index(job.job_id), nodes)
    if not expansion.added:
        return
    ids += [uuid7() for _ in expansion.added]
    scope = (await change.tx.execute(_SCOPE, {"run_id": run_id})).one()
    decided = RunScope(
        event=_decode_event(scope[1]),
        inputs=_decode_inputs(scope[2]),
        ref=scope[3],
        sha=scope[4],
        repository=scope[5],
    )
    jobs: list[JobRow] = []
    ends: list[JobPatch] = []
    needs = [_need(run_id, ids[at], ids, need) for at, need in expansion.edges]
    for place, planned in enumerate(expansion.added, start=len(nodes)):
        decision = decide_job(planned, decided)
        jobs.append(_row(run_id, ids[place], decision, planned))
        if decision.verdict != "run":
            ends.append(ended_early(ids[place], planned.name, decision))
        needs += [_need(run_id, ids[place], ids, need) for need in planned.needs]
    await change.tx.execute(
        _ADD,
        {
            "org_id": scope[0],
            "run_id": run_id,
            "jobs": encode_rows(jobs),
            "needs": encode_rows(needs),
            "more": len(jobs),
        },
    )
    _count(change, run_id, len(jobs))
    change.touch_jobs(row.id for row in jobs)
    await change.write(ends)


def _row(run_id: str, job_id: str, decision: JobDecision, planned: PlannedJob) -> JobRow:
    return job_row(
        run_id,
        job_id,
        row_of(structs.replace(planned, job=decision.job), starts_queued=False),
        status=JobStatus.PENDING,
        rules=decision.rules,
        rules_from=decision.rules_from,
        concurrency_group=decision.concurrency_group,
    )


def _need(run_id: str, job_id: str, ids: Sequence[str], need: PlannedNeed) -> NeedRow:
    return NeedRow(
        run_id=run_id,
        job_id=job_id,
        upstream_job_id=ids[need.upstream],
        run_on=need.run_on,
        group_name=need.group or None,
        group_run_on=need.group_run_on or None,
    )


async def _nodes(tx: AsyncConnection, run_id: str) -> tuple[list[str], list[Node]]:
    """The run's rows as a graph, and their ids in the same order."""
    rows = (await tx.execute(_NODES, {"run_id": run_id})).all()
    ids = [row[0] for row in rows]
    places = {job_id: place for place, job_id in enumerate(ids)}
    needs: Mapping[str, list[PlannedNeed]] = {job_id: [] for job_id in ids}
    for job_id, upstream, run_on, group, group_run_on in await tx.execute(_NEEDS, {"run_id": run_id}):
        needs[job_id].append(
            PlannedNeed(
                upstream=places[upstream],
                run_on=tuple(run_on),
                group=group,
                group_run_on=tuple(group_run_on),
            )
        )
    return ids, [
        Node(
            name=name,
            base=base,
            kind=kind,
            position=position,
            needs=tuple(needs[job_id]),
            group=group,
        )
        for job_id, name, base, kind, position, group in rows
    ]
