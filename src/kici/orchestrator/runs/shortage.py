"""Queued jobs that no connected agent can take, by what they ask for: only a person can help them."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kici.engine.labels import LabelPatterns, LabelQuery, matches
from kici.orchestrator.runs.projection import WANTED
from kici.protocol.dashboard_v1 import LabelShortage
from kici.runtime.database import AsyncConnection, text

SETTLED_S = 60.0  # an agent that restarts is back by then
SHOWN = 100

_WAITING = text(f"""
    SELECT j.org_id, j.runs_on, j.exclude_labels, j.runs_on_patterns::text AS patterns, j.request_cpus,
        j.request_memory_mb, d.wanted, j.jobs, j.waiting_ms
    FROM (
        SELECT org_id, runs_on, exclude_labels, runs_on_patterns, request_cpus, request_memory_mb,
            count(*) AS jobs, max(extract(epoch FROM now() - ready_at) * 1000)::bigint AS waiting_ms
        FROM execution_jobs WHERE status = 'queued' AND dispatched_at IS NULL
            AND ready_at < now() - make_interval(secs => CAST(:settled_s AS float8))
            AND (CAST(:org_id AS text) IS NULL OR org_id = :org_id)
        GROUP BY 1, 2, 3, 4, 5, 6
    ) j CROSS JOIN LATERAL {WANTED}
    ORDER BY j.waiting_ms DESC, d.wanted
""")
_AGENTS = text("""
    SELECT DISTINCT org_id, labels, (facts->>'cpuCount')::float8 AS cpus, (facts->>'totalMemoryMb')::int AS memory_mb
    FROM agents WHERE instance_id IS NOT NULL AND (CAST(:org_id AS text) IS NULL OR org_id = :org_id)
""")
_decode_patterns = msgspec.json.Decoder(LabelPatterns | None).decode


class _Agent(Struct, frozen=True):
    org_id: str
    labels: frozenset[str]
    cpus: float | None
    memory_mb: int | None


async def shortages(
    tx: AsyncConnection, *, org_id: str | None, settled_s: float = SETTLED_S
) -> list[LabelShortage]:
    """Longest first. Jobs that wait less than `settled_s` do not count."""
    waiting = (await tx.execute(_WAITING, {"org_id": org_id, "settled_s": settled_s})).all()
    if not waiting:
        return []
    rows = await tx.execute(_AGENTS, {"org_id": org_id})
    agents = [_Agent(row[0], frozenset(row[1]), row[2], row[3]) for row in rows]
    return [
        LabelShortage(wanted=row.wanted, jobs=row.jobs, waiting_ms=row.waiting_ms)
        for row in waiting
        if not _somebody_fits(row, agents)
    ][:SHOWN]


def _somebody_fits(job: Any, agents: Sequence[_Agent]) -> bool:
    query = LabelQuery(
        required=tuple(job.runs_on),
        excluded=tuple(job.exclude_labels),
        patterns=_decode_patterns(job.patterns or "null"),
    )
    return any(
        agent.org_id == job.org_id
        and matches(query, agent.labels)
        and (agent.cpus is None or agent.cpus >= (job.request_cpus or 0))
        and (agent.memory_mb is None or agent.memory_mb >= (job.request_memory_mb or 0))
        for agent in agents
    )
