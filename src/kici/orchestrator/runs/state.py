"""The only writer of status columns after insert (OR-4).

Every change follows one course, in one transaction: lock the runs (in order of id), then the jobs; let
`kici.engine.transitions` say what may follow; write all patches as one statement per table. A run's row
lock guards everything below it, so that two last jobs cannot both miss that they were the last (OR-122).
A claim alone (`dispatch.claim`) locks just the queued job, and changes no status.
"""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kici.engine.transitions import step_when_job_ends
from kici.runtime.database import AsyncConnection, text
from kici.spec.states import JOB_TERMINAL, STEP_TERMINAL, JobStatus, RunStatus, StepStatus

_json = msgspec.json.Encoder().encode


class RunRow(Struct):
    """A locked run. `status`, the counts and `blocked` are kept true while the transaction goes on."""

    run_id: str
    status: RunStatus
    jobs_open: int
    job_count: int
    blocked: bool = False  # waits for a place in its concurrency group
    check_mode: str = "apply"
    workflow_hooks: Sequence[str] = ()


class JobRow(Struct, frozen=True):
    """A job as it was when its row was locked."""

    job_id: str
    run_id: str
    job_name: str
    status: JobStatus
    attempt: int
    infra_failures: int
    agent_id: str | None
    agent_session: str | None
    dispatched: bool
    acked: bool
    has_context: bool
    cancel_force: bool
    kind: str = "job"
    target_job: str | None = None
    failure_category: str | None = None


class JobPatch(Struct, kw_only=True, omit_defaults=True):
    """What to write into one job. Times are epoch ms as the agent saw them; the database keeps them
    between dispatch and now. What is absent stays. The first cause of a failure stays, too."""

    job_id: str
    was: JobStatus
    attempt: int
    status: JobStatus | None = None
    needs_pending: int | None = None
    ready: bool = False  # (re)enters the queue: place by first readiness, wait limit anew
    release: bool = False  # no longer on any agent; steps of the attempt end
    infra: bool = False  # counts against KICI_MAX_JOB_ATTEMPTS
    acked: bool = False
    heartbeat: bool = False
    started_ms: int | None = None
    completed_ms: int | None = None
    recovery_ms: int | None = None  # new recovery window; 0: none
    ack_ms: int | None = None  # new acknowledgement window
    cancel_asked: bool = False
    cancel_force: bool = False
    error_message: str | None = None
    init_failure: dict[str, Any] | None = None
    timeout_reason: str | None = None
    outputs: dict[str, Any] | None = None
    secret_outputs: dict[str, str] | None = None
    context: dict[str, Any] | None = None
    rules: Sequence[Any] | None = None  # added to those that were decided before dispatch
    drifted: bool = False
    waiting_reason: str | None = None  # while it is `waiting`


class StepPatch(Struct, kw_only=True, omit_defaults=True):
    """A step's newest state, with what earlier messages of the same batch said."""

    job_id: str
    run_id: str
    attempt: int
    step_index: int
    step_name: str
    step_type: str
    status: StepStatus
    started_ms: int | None = None
    completed_ms: int | None = None
    duration_ms: int | None = None
    exit_code: int | None = None
    error_message: str | None = None
    log_lines: int | None = None
    log_bytes: int | None = None
    secrets_accessed: list[str] = []
    concurrency_kind: str = "sequential"
    group_id: str | None = None
    check_outcome: str | None = None
    drift_summary: str | None = None
    rules: Sequence[Any] | None = None
    summary: str | None = None
    annotations: Sequence[Any] | None = None


class RunPatch(Struct, kw_only=True, omit_defaults=True):
    run_id: str
    ended: int = 0  # jobs that ended
    active: bool = False  # a job has begun or ended
    last: bool = False  # no job is left: the final status follows from the jobs
    recount: bool = False  # `jobs_open` was wrong: count the jobs
    started_ms: int | None = None
    log_bytes: int = 0
    cancelling: bool = False
    cancelled_by: str | None = None
    cancel_reason: str | None = None
    timeout_reason: str | None = None
    failure_reason: str | None = None
    rules: Sequence[Any] | None = None
    blocked: bool | None = None  # False: it has its place; its time begins
    concurrency_group: str | None = None
    waiting_reason: str | None = None  # with `blocked` False: none


class WrittenJob(Struct, frozen=True):
    job_id: str
    run_id: str
    job_name: str
    base_job_name: str
    status: JobStatus
    attempt: int
    agent_id: str | None
    max_parallel: int | None
    fail_fast: bool
    ended: bool
    started_ms: int | None
    duration_ms: int | None
    log_bytes: int
    kind: str
    concurrency_group: str | None
    ended_steps: list[int] | None


class WrittenRun(Struct, frozen=True):
    run_id: str
    status: RunStatus
    ended: bool
    duration_ms: int | None
    concurrency_group: str | None


def _words(statuses: Iterable[str]) -> str:
    return ", ".join(f"'{status}'" for status in sorted(statuses))


_TERMINAL = _words(JOB_TERMINAL)
_OPEN_STEP = _words(frozenset(StepStatus) - STEP_TERMINAL)
# (status that the job has now, status of its step) → the step's end. `queued`: the attempt is over.
_FATES = ", ".join(
    f"('{job}', '{step}', '{step_when_job_ends(step, job)}')"
    for job in sorted({*JOB_TERMINAL, JobStatus.QUEUED})
    for step in sorted(frozenset(StepStatus) - STEP_TERMINAL)
)

_LOCK_RUNS = """
    SELECT id, status, jobs_open, job_count, blocked, check_mode, workflow_hooks FROM execution_runs
    WHERE id IN ({which}) ORDER BY id FOR NO KEY UPDATE
"""
_JOB_ROW = """
    j.id, j.run_id, j.job_name, j.status, j.attempt, j.infra_failures, j.agent_id, j.agent_session,
    j.dispatched_at IS NOT NULL, j.acked_at IS NOT NULL, j.context IS NOT NULL, j.cancel_force,
    j.kind, j.target_job, j.failure_category
"""
_LOCK_JOBS = text(f"""
    WITH r AS MATERIALIZED (
        {_LOCK_RUNS.format(which="SELECT run_id FROM execution_jobs WHERE id = ANY(CAST(:job_ids AS uuid[]))")}
    )
    SELECT r.status, r.jobs_open, r.job_count, r.blocked, r.check_mode, r.workflow_hooks, {_JOB_ROW}
    FROM r JOIN execution_jobs j ON j.run_id = r.id WHERE j.id = ANY(CAST(:job_ids AS uuid[]))
    ORDER BY j.run_id, j.id FOR NO KEY UPDATE OF j
""")
_LOCK_WHOLE_RUNS = text(_LOCK_RUNS.format(which="SELECT unnest(CAST(:run_ids AS uuid[]))"))
_LOCK_OPEN_JOBS = text(f"""
    SELECT {_JOB_ROW} FROM execution_jobs j
    WHERE j.run_id = ANY(CAST(:run_ids AS uuid[])) AND j.completed_at IS NULL
    ORDER BY j.run_id, j.id FOR NO KEY UPDATE
""")


async def lock_jobs(
    tx: AsyncConnection, job_ids: Collection[str]
) -> tuple[dict[str, RunRow], dict[str, JobRow]]:
    """The jobs that exist, with their runs, all locked until `tx` ends."""
    runs: dict[str, RunRow] = {}
    jobs: dict[str, JobRow] = {}
    for row in await tx.execute(_LOCK_JOBS, {"job_ids": list(job_ids)}):
        job = JobRow(row[6], row[7], row[8], JobStatus(row[9]), *row[10:])
        jobs[job.job_id] = job
        runs[job.run_id] = RunRow(job.run_id, RunStatus(row[0]), *row[1:6])
    return runs, jobs


async def lock_runs(
    tx: AsyncConnection, run_ids: Collection[str]
) -> tuple[dict[str, RunRow], dict[str, JobRow]]:
    """The runs that exist and their open jobs, all locked until `tx` ends."""
    ids = {"run_ids": list(run_ids)}
    runs = {
        row[0]: RunRow(row[0], RunStatus(row[1]), *row[2:])
        for row in await tx.execute(_LOCK_WHOLE_RUNS, ids)
    }
    jobs = {
        row[0]: JobRow(row[0], row[1], row[2], JobStatus(row[3]), *row[4:])
        for row in await tx.execute(_LOCK_OPEN_JOBS, ids)
    }
    return runs, jobs


def _moment(milliseconds: str) -> str:
    """The agent's time, never later than now; NULL stays NULL."""
    return (  # least() itself would take now for NULL
        f"CASE WHEN {milliseconds} IS NOT NULL THEN least(to_timestamp({milliseconds}::float8 / 1000), now()) END"
    )


_WRITE_JOBS = text(f"""
WITH p AS (
    SELECT *, coalesce(status IN ({_TERMINAL}), false) AS ended
    FROM json_to_recordset(CAST(:patches AS json)) AS p (
        job_id uuid, was text, attempt int, status text, needs_pending int, ready boolean, release boolean,
        infra boolean, acked boolean, heartbeat boolean, started_ms bigint, completed_ms bigint,
        recovery_ms bigint, ack_ms bigint, cancel_asked boolean, cancel_force boolean, error_message text,
        init_failure jsonb, timeout_reason text, outputs json, context jsonb, rules jsonb,
        secret_outputs jsonb, drifted boolean, waiting_reason text)
), j AS (
    UPDATE execution_jobs j SET
        status = coalesce(p.status, j.status),
        needs_pending = coalesce(p.needs_pending, j.needs_pending),
        ready_at = CASE WHEN p.ready THEN coalesce(j.ready_at, now()) ELSE j.ready_at END,
        queue_expires_at = CASE WHEN p.ready
            THEN now() + make_interval(secs => nullif(CAST(:queue_timeout_ms AS bigint), 0)::float8 / 1000)
            ELSE j.queue_expires_at END,
        agent_id = CASE WHEN p.release THEN NULL ELSE j.agent_id END,
        agent_session = CASE WHEN p.release THEN NULL ELSE j.agent_session END,
        dispatched_at = CASE WHEN p.release THEN NULL ELSE j.dispatched_at END,
        acked_at = CASE WHEN p.release THEN NULL WHEN p.acked THEN coalesce(j.acked_at, now())
                        ELSE j.acked_at END,
        ack_deadline = CASE WHEN p.acked OR p.release OR p.ended THEN NULL
                            WHEN p.ack_ms > 0 THEN now() + make_interval(secs => p.ack_ms::float8 / 1000)
                            ELSE j.ack_deadline END,
        recovery_deadline = CASE WHEN p.release OR p.ended OR p.recovery_ms = 0 THEN NULL
            WHEN p.recovery_ms > 0 THEN now() + make_interval(secs => p.recovery_ms::float8 / 1000)
            ELSE j.recovery_deadline END,
        last_heartbeat_at = CASE WHEN p.release THEN NULL WHEN p.heartbeat THEN now()
                                 ELSE j.last_heartbeat_at END,
        infra_failures = j.infra_failures + CASE WHEN p.infra THEN 1 ELSE 0 END,
        cancel_sent_at = CASE WHEN p.cancel_asked THEN now() ELSE j.cancel_sent_at END,
        cancel_force = j.cancel_force OR coalesce(p.cancel_force, false),
        error_message = coalesce(j.error_message, p.error_message),
        init_failure = coalesce(j.init_failure, p.init_failure),
        timeout_reason = coalesce(j.timeout_reason, p.timeout_reason),
        outputs = coalesce(j.outputs, p.outputs),
        secret_outputs = coalesce(j.secret_outputs, p.secret_outputs),
        secret_output_keys = CASE WHEN p.secret_outputs IS NULL THEN j.secret_output_keys
            ELSE ARRAY(SELECT k FROM jsonb_object_keys(p.secret_outputs) k ORDER BY k) END,
        rules = CASE WHEN p.rules IS NULL THEN j.rules ELSE j.rules || p.rules END,
        drifted = j.drifted OR coalesce(p.drifted, false),
        waiting_reason = coalesce(p.waiting_reason, CASE WHEN p.status IS NULL THEN j.waiting_reason END),
        context = CASE WHEN p.release THEN NULL ELSE coalesce(j.context, p.context) END,
        log_bytes = CASE WHEN p.ended THEN (SELECT coalesce(sum(s.log_bytes), 0) FROM execution_steps s
                                            WHERE s.job_id = j.id) ELSE j.log_bytes END,
        started_at = CASE WHEN p.release THEN NULL WHEN p.started_ms IS NULL THEN j.started_at
            ELSE coalesce(j.started_at, greatest(j.dispatched_at, {_moment("p.started_ms")})) END,
        completed_at = CASE WHEN p.ended THEN greatest(
            j.started_at, j.dispatched_at, {_moment("p.started_ms")},
            coalesce({_moment("p.completed_ms")}, now())) END
    FROM p WHERE j.id = p.job_id AND j.status = p.was AND j.attempt = p.attempt
    RETURNING j.*, p.ended, coalesce(p.release, false) AS released
), s AS (
    UPDATE execution_steps s SET
        status = f.ends, completed_at = coalesce(j.completed_at, now()),
        duration_ms = extract(epoch FROM coalesce(j.completed_at, now()) - s.started_at) * 1000
    FROM j JOIN (VALUES {_FATES}) AS f (job, step, ends) ON f.job = j.status
    WHERE (j.ended OR j.released) AND s.job_id = j.id AND s.attempt = j.attempt AND s.status = f.step
    RETURNING s.job_id, s.step_index
)
SELECT j.id, j.run_id, j.job_name, j.base_job_name, j.status, j.attempt, j.agent_id, j.max_parallel, j.fail_fast,
    j.ended, (extract(epoch FROM j.started_at) * 1000)::bigint,
    (extract(epoch FROM j.completed_at - j.started_at) * 1000)::bigint, j.log_bytes, j.kind,
    j.concurrency_group, (SELECT array_agg(s.step_index) FROM s WHERE s.job_id = j.id)
FROM j ORDER BY j.run_id, j.id
""")


async def write_jobs(
    tx: AsyncConnection, patches: Sequence[JobPatch], *, queue_timeout_ms: int
) -> list[WrittenJob]:
    """Jobs that still are as their patch believes; unfinished steps end with their job (OR-125)."""
    rows = await tx.execute(
        _WRITE_JOBS, {"patches": _json(patches).decode(), "queue_timeout_ms": queue_timeout_ms}
    )
    return [WrittenJob(row[0], row[1], row[2], row[3], JobStatus(row[4]), *row[5:]) for row in rows]


# A step only moves on: pending, running, ended. What a message leaves out stays.
_WRITE_STEPS = text(f"""
INSERT INTO execution_steps AS s (job_id, attempt, step_index, run_id, step_name, step_type, status, exit_code,
    error_message, log_lines, log_bytes, concurrency_kind, group_id, secrets_accessed, check_outcome,
    drift_summary, rules, summary, annotations, started_at, completed_at, duration_ms)
SELECT p.job_id, p.attempt, p.step_index, p.run_id, p.step_name, p.step_type, p.status, p.exit_code,
    p.error_message, p.log_lines, p.log_bytes, coalesce(p.concurrency_kind, 'sequential'), p.group_id,
    coalesce(p.secrets_accessed, '{{}}'), p.check_outcome, p.drift_summary, coalesce(p.rules, '[]'), p.summary,
    coalesce(p.annotations, '[]'), {_moment("p.started_ms")}, {_moment("p.completed_ms")}, p.duration_ms
FROM jsonb_to_recordset(CAST(:patches AS jsonb)) AS p (
    job_id uuid, run_id uuid, attempt int, step_index int, step_name text, step_type text, status text,
    started_ms bigint, completed_ms bigint, duration_ms bigint, exit_code int, error_message text,
    log_lines bigint, log_bytes bigint, secrets_accessed text[], concurrency_kind text, group_id text,
    check_outcome text, drift_summary text, rules jsonb, summary text, annotations jsonb)
ON CONFLICT (job_id, attempt, step_index) DO UPDATE SET
    status = EXCLUDED.status, exit_code = EXCLUDED.exit_code, error_message = EXCLUDED.error_message,
    log_lines = EXCLUDED.log_lines, log_bytes = EXCLUDED.log_bytes, secrets_accessed = EXCLUDED.secrets_accessed,
    check_outcome = EXCLUDED.check_outcome, drift_summary = EXCLUDED.drift_summary, rules = EXCLUDED.rules,
    summary = EXCLUDED.summary, annotations = EXCLUDED.annotations,
    started_at = coalesce(s.started_at, EXCLUDED.started_at), completed_at = EXCLUDED.completed_at,
    duration_ms = EXCLUDED.duration_ms
WHERE s.status IN ({_OPEN_STEP}) AND s.status <> EXCLUDED.status AND EXCLUDED.status <> '{StepStatus.PENDING}'
RETURNING job_id, attempt, step_index, status
""")


async def write_steps(
    tx: AsyncConnection, patches: Sequence[StepPatch]
) -> list[tuple[str, int, int, StepStatus]]:
    """Keys and states of the steps that moved on. Jobs must be locked, open and of that attempt."""
    rows = await tx.execute(_WRITE_STEPS, {"patches": _json(patches).decode()})
    return [(row[0], row[1], row[2], StepStatus(row[3])) for row in rows]


_FAILED = _words({JobStatus.FAILED, JobStatus.TIMED_OUT_STALE, JobStatus.DRIFT_DROPPED})

_RUN_PATCHES = """
    SELECT * FROM jsonb_to_recordset(CAST(:patches AS jsonb)) AS p (
        run_id uuid, ended int, active boolean, last boolean, recount boolean, started_ms bigint, log_bytes bigint,
        cancelling boolean, cancelled_by text, cancel_reason text, timeout_reason text, failure_reason text,
        rules jsonb, blocked boolean, concurrency_group text, waiting_reason text)
"""
_RUN_COLUMNS = f"""
    jobs_open = CASE WHEN p.recount THEN (SELECT count(*) FROM execution_jobs j
                                          WHERE j.run_id = r.id AND j.completed_at IS NULL)
                     ELSE r.jobs_open - coalesce(p.ended, 0) END,
    started_at = coalesce(r.started_at, {_moment("p.started_ms")}),
    log_bytes = r.log_bytes + coalesce(p.log_bytes, 0),
    cancelled_by = coalesce(r.cancelled_by, p.cancelled_by),
    cancel_reason = coalesce(r.cancel_reason, p.cancel_reason),
    rules = coalesce(p.rules, r.rules),
    concurrency_group = coalesce(r.concurrency_group, p.concurrency_group)
"""
_RUN_ROW = """
    r.id, r.status, r.completed_at IS NOT NULL,
    (extract(epoch FROM r.completed_at - r.started_at) * 1000)::bigint, r.concurrency_group
"""
_MARK_RUNS = text(f"""
WITH p AS ({_RUN_PATCHES})
UPDATE execution_runs r SET {_RUN_COLUMNS},
    status = CASE WHEN p.cancelling OR r.status = '{RunStatus.CANCELLING}' THEN '{RunStatus.CANCELLING}'
                  WHEN p.active THEN '{RunStatus.RUNNING}' ELSE r.status END,
    failure_reason = coalesce(r.failure_reason, p.failure_reason),
    timeout_reason = coalesce(r.timeout_reason, p.timeout_reason),
    blocked = coalesce(p.blocked, r.blocked),
    waiting_reason = CASE WHEN p.blocked IS FALSE THEN NULL ELSE coalesce(p.waiting_reason, r.waiting_reason) END,
    deadline_at = CASE WHEN p.blocked IS FALSE
        THEN coalesce(r.deadline_at, now() + make_interval(secs => r.workflow_timeout_ms::float8 / 1000))
        ELSE r.deadline_at END
FROM p WHERE r.id = p.run_id AND r.completed_at IS NULL RETURNING {_RUN_ROW}
""")
# OR-122, the same as kici.engine.transitions.run_status once every job has ended, but that setup rows alone
# make no success: where all else was skipped, so was the run.
_END_RUNS = text(f"""
WITH p AS ({_RUN_PATCHES}), failures AS (
    SELECT DISTINCT ON (j.run_id) j.run_id,
        coalesce(j.error_message, format('Job %s: %s', j.job_name, j.status)) AS reason,
        j.init_failure,
        CASE WHEN j.init_failure IS NOT NULL THEN NULL WHEN j.timeout_reason = 'job_timeout' THEN 'job_timeout'
             WHEN j.status = '{JobStatus.TIMED_OUT_STALE}' THEN 'stale' END AS timeout_reason
    FROM p JOIN execution_jobs j ON j.run_id = p.run_id WHERE j.status IN ({_FAILED})
    ORDER BY j.run_id, j.completed_at, j.position, j.id
), finals AS (
    SELECT j.run_id, max(j.completed_at) AS completed_at,
        CASE WHEN bool_or(j.status IN ({_FAILED})) THEN '{RunStatus.FAILED}'
             WHEN bool_or(j.status = '{JobStatus.CANCELLED}') OR bool_or(p.was_cancelling)
             THEN '{RunStatus.CANCELLED}'
             WHEN bool_or(j.status = '{JobStatus.SUCCESS}' AND j.kind = 'job')
                 OR bool_or(j.status = '{JobStatus.SUCCESS}') AND NOT bool_or(j.kind = 'job')
             THEN '{RunStatus.SUCCESS}'
             ELSE '{RunStatus.SKIPPED}' END AS status
    FROM (SELECT p.run_id, p.cancelling IS TRUE OR r.status = '{RunStatus.CANCELLING}' AS was_cancelling
          FROM p JOIN execution_runs r ON r.id = p.run_id) p
        JOIN execution_jobs j ON j.run_id = p.run_id GROUP BY j.run_id
)
UPDATE execution_runs r SET {_RUN_COLUMNS},
    status = finals.status, completed_at = finals.completed_at, blocked = false, waiting_reason = NULL,
    failure_reason = coalesce(r.failure_reason, p.failure_reason, failures.reason),
    init_failure = coalesce(r.init_failure, failures.init_failure),
    timeout_reason = coalesce(r.timeout_reason, p.timeout_reason, failures.timeout_reason)
FROM p JOIN finals ON finals.run_id = p.run_id LEFT JOIN failures ON failures.run_id = p.run_id
WHERE r.id = p.run_id AND r.completed_at IS NULL RETURNING {_RUN_ROW}
""")


async def write_runs(tx: AsyncConnection, patches: Sequence[RunPatch]) -> list[WrittenRun]:
    """Runs that have not ended; each ends here when its patch says that no job is left."""
    written: list[WrittenRun] = []
    for statement, last in ((_MARK_RUNS, False), (_END_RUNS, True)):
        chosen = [patch for patch in patches if patch.last is last]
        if chosen:
            rows = await tx.execute(statement, {"patches": _json(chosen).decode()})
            written += [WrittenRun(row[0], RunStatus(row[1]), *row[2:]) for row in rows]
    return written
