"""Which queued job goes to which free agent: one statement, any number of both (OR-145, OR-146).

Agents with the same labels are interchangeable and form a group; groups with fewer labels come first, so
that a job which anybody can take does not block the only agent that could take a rarer one. Within a group
the oldest job goes to the lowest agent id, or, where its author does not care, the highest. Only what is
taken is locked.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from kici.engine.labels import LabelPatterns, LabelQuery, matches
from kici.runtime.database import AsyncConnection, text

PATTERNED_AT_ONCE = 200

_json = msgspec.json.Encoder().encode
_decode_patterns = msgspec.json.Decoder(LabelPatterns).decode


class FreeAgent(Struct, frozen=True, kw_only=True):
    """A connected agent that can take a job now. `labels` as stored: lower case."""

    agent_id: str
    session_id: str
    org_id: str
    labels: frozenset[str]
    cpus: int = 1
    memory_mb: int = 0  # 0: unknown, which is enough for everybody


class ClaimedJob(Struct, frozen=True, kw_only=True):
    """All that `job.dispatch` says; JSON columns as text. `waited_ms`: ready to claimed."""

    agent_id: str
    agent_session: str
    job_id: str
    run_id: str
    org_id: str
    job_name: str
    base_job_name: str
    attempt: int
    waited_ms: int
    matrix_values: str | None
    spec: str
    workflow_name: str
    workflow_file: str
    workflow_export: str
    content_hash: str
    compile_schema_version: int
    sdk_version: str
    resolved_hash_files: list[str]
    repo_identifier: str
    repo_url: str | None
    ref: str
    branch: str | None
    sha: str
    trigger_event: str
    event: str
    request_id: str
    kind: str
    target_job: str | None
    generator_index: int
    rules_from: int
    environments: list[str]
    fanout_index: int
    fanout_total: int
    check_mode: str
    is_test_run: bool
    inputs: str
    cancelling: bool  # its run is being cancelled; only hooks are sent then
    cancel_reason: str | None
    failure_reason: str | None
    run_started_ms: int | None
    remote: bool  # its run brought its working tree along
    needed: bool  # other jobs depend on it
    upstream: str  # [Upstream, …] in the order of the workflow; see dispatch.frame

    @property
    def needs(self) -> bool:
        return self.upstream != "[]"


class Claim(Struct, frozen=True, kw_only=True):
    """`seen` > len(jobs): some jobs fit only agents that others took; ask again. `patterned`: jobs wait
    that ask by pattern."""

    jobs: list[ClaimedJob]
    seen: int
    patterned: bool


Match = tuple[str, str]  # job id, agent id

_CLAIM = text("""
WITH groups AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:groups AS jsonb)) AS g (idx int, org_id text, labels text[], cpus int, memory_mb int)
), free AS MATERIALIZED (
    SELECT * FROM jsonb_to_recordset(CAST(:agents AS jsonb))
        AS a (agent_id text, session_id text, idx int, place int)
), by_pattern AS MATERIALIZED (
    SELECT * FROM unnest(CAST(:match_jobs AS uuid[]), CAST(:match_groups AS int[])) AS m (job_id, idx)
), candidates AS MATERIALIZED (
    SELECT j.id, g.idx, j.priority, j.ready_at, j.pick
    FROM execution_jobs j CROSS JOIN LATERAL (
        SELECT min(g.idx) AS idx FROM groups g
        WHERE g.org_id = j.org_id
          AND (j.request_cpus IS NULL OR j.request_cpus <= g.cpus)
          AND (j.request_memory_mb IS NULL OR g.memory_mb = 0 OR j.request_memory_mb <= g.memory_mb)
          AND CASE WHEN j.runs_on_patterns IS NULL
            THEN j.runs_on <@ g.labels AND NOT j.exclude_labels && g.labels
            ELSE EXISTS (SELECT FROM by_pattern m WHERE m.job_id = j.id AND m.idx = g.idx) END) g
    WHERE j.status = 'queued' AND j.dispatched_at IS NULL AND g.idx IS NOT NULL
    ORDER BY j.priority DESC, j.ready_at, j.id
    LIMIT CAST(:free_count AS int) FOR UPDATE OF j SKIP LOCKED
), ranked AS (
    SELECT c.*, n.size, row_number() OVER (PARTITION BY idx ORDER BY priority DESC, ready_at, id) AS rank
    FROM candidates c JOIN (SELECT idx, count(*) AS size FROM free GROUP BY idx) n USING (idx)
), placed AS (  -- `any` takes from the other end, and leaves the low ids to those who ask for them
    SELECT id, idx, CASE pick WHEN 'any'
        THEN size + 1 - row_number() OVER (PARTITION BY idx, pick ORDER BY rank)
        ELSE row_number() OVER (PARTITION BY idx, pick ORDER BY rank) END AS place
    FROM ranked WHERE rank <= size
), claimed AS (
    UPDATE execution_jobs j SET
        attempt = j.attempt + 1, agent_id = a.agent_id, agent_session = a.session_id, dispatched_at = now(),
        ack_deadline = now() + make_interval(secs => coalesce(
            (SELECT o.dispatch_ack_timeout_ms FROM org_settings o WHERE o.org_id = j.org_id),
            CAST(:ack_timeout_ms AS int))::float8 / 1000)
    FROM placed p JOIN free a USING (idx, place)
    WHERE j.id = p.id AND j.status = 'queued' AND j.dispatched_at IS NULL
    RETURNING j.*
)
SELECT
    (SELECT count(*) FROM candidates) AS seen,
    EXISTS (SELECT FROM execution_jobs j WHERE j.status = 'queued' AND j.dispatched_at IS NULL
            AND j.runs_on_patterns IS NOT NULL) AS patterned,
    c.*
FROM (VALUES (1)) AS always LEFT JOIN (
    SELECT c.agent_id, c.agent_session, c.id, c.run_id, c.org_id, c.job_name, c.base_job_name, c.attempt,
        greatest(0, extract(epoch FROM c.dispatched_at - c.ready_at) * 1000)::bigint, c.matrix_values::text,
        s.spec::text, r.workflow_name, r.workflow_file, r.workflow_export, r.content_hash,
        r.compile_schema_version, r.sdk_version, r.resolved_hash_files, r.repo_identifier, r.repo_url, r.ref,
        r.branch, r.sha, r.trigger_event, r.event::text, r.request_id, c.kind, c.target_job,
        coalesce(c.generator_index, 0), c.rules_from, c.environments, c.fanout_index, c.fanout_total,
        r.check_mode, r.is_test_run, r.inputs::text, r.status = 'cancelling', r.cancel_reason,
        r.failure_reason, (extract(epoch FROM r.started_at) * 1000)::bigint,
        starts_with(r.routing_key, 'remote:'),
        r.job_count > 1 AND EXISTS (SELECT FROM execution_job_needs n WHERE n.upstream_job_id = c.id),
        (SELECT coalesce(json_agg(json_build_object('name', u.job_name, 'base', u.base_job_name,
                    'fanned', u.variant_kind IS NOT NULL, 'group', n.group_name, 'kind', u.kind,
                    'target', u.target_job, 'status', u.status, 'error', u.error_message,
                    'outputs', CASE WHEN c.kind <> 'hooks' THEN u.outputs END) ORDER BY u.position, u.id), '[]')
         FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
         WHERE n.job_id = c.id)::text
    FROM claimed c JOIN execution_runs r ON r.id = c.run_id JOIN execution_job_specs s ON s.job_id = c.id
) c ON true
""")


_Shape = tuple[str, frozenset[str], int, int]  # organisation, labels, cores, MiB


def _shape(agent: FreeAgent) -> _Shape:
    return agent.org_id, agent.labels, agent.cpus, agent.memory_mb


class _Groups:
    """Free agents by equal labels and size, fewest labels first, then the smaller ones, so that what is large
    stays free for who needs it; lowest agent id first within a group."""

    def __init__(self, free: Sequence[FreeAgent]) -> None:
        by_labels: dict[_Shape, list[FreeAgent]] = {}
        for agent in sorted(free, key=lambda agent: agent.agent_id):
            by_labels.setdefault(_shape(agent), []).append(agent)
        self.keys = sorted(by_labels, key=lambda key: (len(key[1]), key[2:], by_labels[key][0].agent_id))
        self.index_of = {
            agent.agent_id: index for index, key in enumerate(self.keys) for agent in by_labels[key]
        }
        self.agents = [
            {"agent_id": agent.agent_id, "session_id": agent.session_id, "idx": index, "place": place}
            for index, key in enumerate(self.keys)
            for place, agent in enumerate(by_labels[key], start=1)
        ]


async def claim(
    tx: AsyncConnection, free: Sequence[FreeAgent], by_pattern: Sequence[Match], *, ack_timeout_ms: int
) -> Claim:
    """Give queued jobs to free agents: sets `dispatched_at`, agent, next attempt and ack deadline.

    `by_pattern`: which jobs with patterns may go to which of `free`, from `patterned`.
    """
    groups = _Groups(free)
    known = [
        (job_id, groups.index_of[agent_id])
        for job_id, agent_id in by_pattern
        if agent_id in groups.index_of
    ]
    rows = await tx.execute(
        _CLAIM,
        {
            "groups": _json(
                [
                    {
                        "idx": index,
                        "org_id": org_id,
                        "labels": sorted(labels),
                        "cpus": cpus,
                        "memory_mb": memory_mb,
                    }
                    for index, (org_id, labels, cpus, memory_mb) in enumerate(groups.keys)
                ]
            ).decode(),
            "agents": _json(groups.agents).decode(),
            "match_jobs": [job_id for job_id, _ in known],
            "match_groups": [index for _, index in known],
            "free_count": len(free),
            "ack_timeout_ms": ack_timeout_ms,
        },
    )
    seen, patterned = 0, False
    jobs: list[ClaimedJob] = []
    for row in rows:
        seen, patterned = row[0], row[1]
        if row[2] is not None:
            jobs.append(ClaimedJob(**dict(zip(_CLAIMED_FIELDS, row[2:], strict=True))))
    return Claim(jobs=jobs, seen=seen, patterned=patterned)


_CLAIMED_FIELDS = ClaimedJob.__struct_fields__

_PATTERNED = text("""
    SELECT id, org_id, runs_on, exclude_labels, runs_on_patterns::text FROM execution_jobs
    WHERE status = 'queued' AND dispatched_at IS NULL AND runs_on_patterns IS NOT NULL
    ORDER BY priority DESC, ready_at, id LIMIT :limit
""")


async def patterned(tx: AsyncConnection, free: Sequence[FreeAgent]) -> list[Match]:
    """The oldest queued jobs that ask by pattern, each with one agent of every group that fits."""
    shapes: Mapping[_Shape, FreeAgent] = {_shape(agent): agent for agent in free}
    found: list[Match] = []
    for job_id, org_id, required, excluded, patterns in await tx.execute(
        _PATTERNED, {"limit": PATTERNED_AT_ONCE}
    ):
        query = LabelQuery(
            required=tuple(required), excluded=tuple(excluded), patterns=_decode_patterns(patterns)
        )
        found += [
            (job_id, agent.agent_id)
            for agent in shapes.values()
            if agent.org_id == org_id and matches(query, agent.labels)
        ]
    return found
