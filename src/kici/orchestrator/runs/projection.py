"""What others are told about runs: rows become `kici.protocol.dashboard_v1` documents, inside PostgreSQL.

The four `*_DOCUMENT` fragments are the only place where a row gets its public shape. `snapshot` writes them
to the outbox in the transaction that changed the rows; `runs.service` reads the same documents for details.
"""

from collections.abc import Collection, Iterable
from typing import NewType

from kici.runtime.database import AsyncConnection, text

EventId = NewType("EventId", str)  # run_events.id
StepKey = tuple[str, int, int]  # job id, attempt, step index

PLATFORM_TOPIC = "platform"
COUNTED_AHEAD = 100  # how far a waiting job looks up the queue

# Milliseconds between two timestamptz columns; NULL when either is.
_DURATION = "(extract(epoch FROM {end} - {start}) * 1000)::bigint"

DISPLAY_STATUS = """CASE WHEN r.status IN ('failed', 'cancelled', 'skipped') AND r.timeout_reason IS NOT NULL
                 THEN 'timed_out'
             WHEN r.status = 'failed' AND r.init_failure IS NOT NULL THEN 'error'
             ELSE r.status END"""

RUN_DOCUMENT = f"""
    SELECT r.id AS "runId", r.workflow_name AS "workflowName", r.workflow_file AS "workflowFile",
        r.status,
        {DISPLAY_STATUS} AS "displayStatus",
        r.repo_identifier AS "repoIdentifier", r.repo_url AS "repoUrl", r.provider, r.ref, r.branch, r.sha,
        r.commit_message AS "commitMessage", r.trigger_event AS "triggerEvent",
        coalesce(r.trigger_decision->>'reason', '') AS "triggerReason",
        jsonb_build_object('routingKey', r.routing_key, 'name', r.source_name,
                           'subtype', r.source_subtype, 'provider', r.provider) AS source,
        r.request_id AS "requestId", r.delivery_id AS "deliveryId", r.triggered_by AS "triggeredBy",
        r.cancelled_by AS "cancelledBy", r.parent_run_id AS "parentRunId",
        r.failure_reason AS "failureReason", r.init_failure AS "initFailure",
        r.timeout_reason AS "timeoutReason", r.waiting_reason AS "waitingReason",
        r.concurrency_group AS "concurrencyGroup", r.check_mode AS "checkMode",
        r.is_test_run AS "isTestRun", r.rules, r.inputs, r.job_count AS "jobCount",
        r.inbox_id IS NOT NULL AS "hasPayload", r.log_bytes AS "logBytes", r.created_at AS "createdAt",
        r.started_at AS "startedAt", r.completed_at AS "completedAt",
        {_DURATION.format(start="r.started_at", end="r.completed_at")} AS "durationMs"
"""
"""RunProjection of `execution_runs r`."""


def _shown(j: str, name: str) -> str:
    """What people call the row `j` of execution_jobs; `name` unless it is a setup row (AG-67)."""
    workflow = f"(SELECT r.workflow_name FROM execution_runs r WHERE r.id = {j}.run_id)"
    return f"""CASE {j}.kind WHEN 'init' THEN 'Init: ' || coalesce({j}.target_job, {workflow})
        WHEN 'build' THEN 'Build: ' || {workflow}
        WHEN 'dynamic' THEN 'Evaluate: ' || {j}.target_job WHEN 'hooks' THEN 'Hooks: ' || {workflow}
        ELSE {name} END"""


_VARIANT = "CASE WHEN j.variant_label IS NULL THEN j.job_name ELSE j.base_job_name || ' (' || j.variant_label || ')' END"

# Why a job has not started, in words. A pattern cannot be compared here, so a job with patterns is
# described by what it asks for. Only the first COUNTED_AHEAD rows of the queue are counted.
_WAITING_REASON = f"""
    CASE
    WHEN j.status = 'pending' AND j.needs_pending > 0 THEN (
        SELECT 'Waits for ' || string_agg(w.name, ', ' ORDER BY w.position)
        FROM (SELECT {_shown("u", "u.base_job_name")} AS name, min(u.position) AS position
              FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
              WHERE n.job_id = j.id AND u.completed_at IS NULL GROUP BY 1) w)
    WHEN j.status = 'pending' AND j.max_parallel IS NOT NULL THEN
        format('Waits for a place: at most %s of %s run at once', j.max_parallel, j.base_job_name)
    WHEN j.status = 'pending' THEN 'Waits to be queued'
    WHEN j.status = 'held' THEN 'Held until somebody approves it'
    WHEN j.status = 'waiting' THEN coalesce(j.waiting_reason,
        (SELECT r.waiting_reason FROM execution_runs r WHERE r.id = j.run_id AND r.blocked),
        'Waits for its time or its place')
    WHEN j.status = 'queued' AND j.dispatched_at IS NOT NULL THEN format('Sent to agent %s', j.agent_id)
    WHEN j.status = 'queued' THEN CASE
        WHEN NOT EXISTS (SELECT FROM agents a WHERE a.org_id = j.org_id AND a.instance_id IS NOT NULL)
        THEN format('No agent is connected (wanted: %s)', coalesce(nullif(d.wanted, ''), 'any agent'))
        WHEN NOT EXISTS (SELECT FROM agents a WHERE a.org_id = j.org_id AND a.instance_id IS NOT NULL
                         AND a.labels @> j.runs_on AND NOT a.labels && j.exclude_labels
                         AND coalesce((a.facts->>'cpuCount')::float8 >= j.request_cpus, true)
                         AND coalesce((a.facts->>'totalMemoryMb')::int >= j.request_memory_mb, true))
        THEN format('No connected agent fits: %s', d.wanted)
        ELSE (SELECT CASE WHEN count(*) = 0 THEN 'Next in line for an agent'
                          WHEN count(*) < {COUNTED_AHEAD} THEN format('Queued behind %s', count(*))
                          ELSE 'Queued behind {COUNTED_AHEAD} or more' END
              FROM (SELECT FROM execution_jobs q
                    WHERE q.status = 'queued' AND q.dispatched_at IS NULL
                      AND (q.priority > j.priority
                           OR q.priority = j.priority AND (q.ready_at, q.id) < (j.ready_at, j.id))
                    LIMIT {COUNTED_AHEAD}) ahead)
        END
    END
"""

# What `j` asks of an agent, in words, as `d.wanted`; `d.patterns` are its patterns alone.
WANTED = """
    (SELECT p.found AS patterns,
        array_to_string(j.runs_on || p.found
            || ARRAY(SELECT 'not ' || x FROM unnest(j.exclude_labels) x)
            || ARRAY(SELECT format('%s cores', j.request_cpus) WHERE j.request_cpus IS NOT NULL)
            || ARRAY(SELECT format('%s MiB of memory', j.request_memory_mb)
                     WHERE j.request_memory_mb IS NOT NULL), ', ') AS wanted
    FROM (SELECT ARRAY(SELECT format('/%s/%s', m->>'source', m->>'flags')
                       FROM jsonb_array_elements(j.runs_on_patterns->'include') m) AS found) p) d
"""

JOB_DOCUMENT = f"""
    SELECT j.run_id AS "runId", j.id AS "jobId", j.job_name AS "jobName",
        {_shown("j", _VARIANT)} AS "displayName",
        j.base_job_name AS "baseJobName", j.variant_kind AS "variantKind",
        j.variant_label AS "variantLabel", j.matrix_values AS "matrixValues", j.position, j.kind, j.rules,
        j.secret_output_keys AS "secretOutputKeys", j.status, j.attempt,
        {_WAITING_REASON} AS "waitingReason",
        j.agent_id AS "agentId", j.runs_on || d.patterns AS "runsOnLabels",
        (SELECT coalesce(jsonb_agg(jsonb_build_object('upstreamName', e.name, 'runOn', e.run_on)
                                   ORDER BY e.position), '[]')
         FROM (SELECT u.base_job_name AS name, n.run_on, min(u.position) AS position
               FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
               WHERE n.job_id = j.id GROUP BY u.base_job_name, n.run_on) e) AS needs,
        j.error_message AS "errorMessage", j.init_failure AS "initFailure",
        j.timeout_reason AS "timeoutReason", j.outputs, j.log_bytes AS "logBytes", j.ready_at AS "queuedAt",
        j.started_at AS "startedAt", j.completed_at AS "completedAt",
        {_DURATION.format(start="j.started_at", end="j.completed_at")} AS "durationMs"
    FROM {WANTED}
"""
"""JobProjection of `execution_jobs j`."""

STEP_DOCUMENT = """
    SELECT s.run_id AS "runId", s.job_id AS "jobId", s.attempt, s.step_index AS "stepIndex",
        s.step_name AS "stepName", s.step_type AS "stepType", s.status, s.exit_code AS "exitCode",
        s.error_message AS "errorMessage", s.log_lines AS "logLines", s.log_bytes AS "logBytes",
        s.concurrency_kind AS "concurrencyKind", s.group_id AS "groupId",
        s.check_outcome AS "checkOutcome", s.drift_summary AS "driftSummary", s.rules,
        s.secrets_accessed AS "secretsAccessed", s.summary, s.annotations, s.started_at AS "startedAt",
        s.completed_at AS "completedAt", s.duration_ms AS "durationMs"
"""
"""StepProjection of `execution_steps s`."""

EVENT_DOCUMENT = """
    SELECT e.run_id AS "runId", e.event_type AS "eventType",
        (extract(epoch FROM e.at) * 1000)::bigint AS "timestampMs", e.source_service AS "sourceService",
        e.job_id AS "jobId", e.step_index AS "stepIndex", e.duration_ms AS "durationMs", e.metadata
"""
"""RunEventView of `run_events e`."""

# `before` are further parts of the same statement, `events` says where the rows of the time line come from.
_SNAPSHOT = f"""
WITH {{before}} run_part AS (
    SELECT r.id AS run_id, to_jsonb(doc) AS document
    FROM execution_runs r CROSS JOIN LATERAL ({RUN_DOCUMENT}) doc
    WHERE r.id = ANY(CAST(:run_ids AS uuid[]))
), job_part AS (
    SELECT j.run_id, jsonb_agg(to_jsonb(doc) ORDER BY j.position, j.id) AS documents
    FROM execution_jobs j CROSS JOIN LATERAL ({JOB_DOCUMENT}) doc
    WHERE j.id = ANY(CAST(:job_ids AS uuid[])) GROUP BY j.run_id
), step_part AS (
    SELECT s.run_id, jsonb_agg(to_jsonb(doc) ORDER BY s.job_id, s.attempt, s.step_index) AS documents
    FROM unnest(CAST(:step_jobs AS uuid[]), CAST(:step_attempts AS int[]), CAST(:step_indexes AS int[]))
             AS k (job_id, attempt, step_index)
    JOIN execution_steps s USING (job_id, attempt, step_index)
    CROSS JOIN LATERAL ({STEP_DOCUMENT}) doc GROUP BY s.run_id
), event_part AS (
    SELECT e.run_id, jsonb_agg(to_jsonb(doc) ORDER BY e.id) AS documents
    FROM {{events}} e CROSS JOIN LATERAL ({EVENT_DOCUMENT}) doc GROUP BY e.run_id
), changed AS (
    SELECT run_id FROM run_part UNION SELECT run_id FROM job_part
    UNION SELECT run_id FROM step_part UNION SELECT run_id FROM event_part
)
INSERT INTO outbox (topic, key, payload)
SELECT '{PLATFORM_TOPIC}', c.run_id, jsonb_build_object(
    'runId', c.run_id, 'run', r.document, 'jobs', coalesce(j.documents, '[]'),
    'steps', coalesce(s.documents, '[]'), 'events', coalesce(e.documents, '[]'))
FROM changed c LEFT JOIN run_part r USING (run_id) LEFT JOIN job_part j USING (run_id)
    LEFT JOIN step_part s USING (run_id) LEFT JOIN event_part e USING (run_id)
ORDER BY c.run_id
"""
_TELL = text(
    _SNAPSHOT.format(
        before="", events="(SELECT * FROM run_events WHERE id = ANY(CAST(:event_ids AS uuid[])))"
    )
)


def with_events(before: str, events: str) -> str:
    """The statement of `snapshot` with more parts before it, the last of which, `events`, gives the rows of
    the time line. Written for a caller that inserts these rows in the same breath."""
    return _SNAPSHOT.format(before=before, events=events)


def named(run_ids: Iterable[str], job_ids: Iterable[str], steps: Collection[StepKey]) -> dict[str, object]:
    """The values that every form of the statement takes."""
    return {
        "run_ids": list(run_ids),
        "job_ids": list(job_ids),
        "step_jobs": [job_id for job_id, _, _ in steps],
        "step_attempts": [attempt for _, attempt, _ in steps],
        "step_indexes": [index for _, _, index in steps],
    }


async def snapshot(
    tx: AsyncConnection,
    run_ids: Iterable[str] = (),
    *,
    job_ids: Iterable[str] = (),
    steps: Collection[StepKey] = (),
    event_ids: Iterable[str] = (),
) -> int:
    """Tell the Platform what this transaction changed: one outbox row per run, whose payload is a
    `platform_v1.ProjectionItem` without `rev`, holding only the parts that are named here.

    Call it once, after the last write and before the commit, and wake `outbox` after the commit:

    - `run_ids`: runs whose own row is new or changed. Hold the run's row lock (a new row is locked by its
      insert), so that the order of `outbox.seq` is the order of the changes;
    - `job_ids`: jobs that are new or changed, their rows locked likewise;
    - `steps`: `(job_id, attempt, step_index)`; `event_ids`: ids of rows in `run_events`.

    Unknown ids are skipped. One statement, whatever the number of runs. Returns the number of rows written.
    """
    values = {**named(run_ids, job_ids, steps), "event_ids": list(event_ids)}
    if not any(values.values()):
        return 0
    return (await tx.execute(_TELL, values)).rowcount
