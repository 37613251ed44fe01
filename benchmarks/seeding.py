"""Run-list latency over a projection that holds many runs."""

import asyncio
import statistics
import time

import asyncpg

from benchmarks.client import Client
from benchmarks.report import Row, percentile
from tests.support.stack import Stack

PAGES: tuple[dict[str, str | int], ...] = (
    {},
    {"page": 40},
    {"status": "failed"},
    {"branch": "main", "workflow": "workflow-3"},
    {"sort": "durationMs", "dir": "desc"},
    {"repository": "repo-7", "status": "failed"},
    {"q": "number 4242"},
)


# One real run, many times over, with other ids, names, branches, states, commits and times; documents agree
# with the columns beside them, as the projection writes them.
_COPY_RUNS = """
INSERT INTO execution_runs (org_id, run_id, rev, cluster_name, created_at, duration_ms, source_key, status,
    display_status, workflow_name, branch, repo_identifier, trigger_event, ref, sha, doc)
SELECT r.org_id, x.run_id, r.rev, r.cluster_name, x.at, x.duration_ms, r.source_key, x.status, x.status, x.workflow,
    x.branch, x.repository, r.trigger_event, 'refs/heads/' || x.branch, x.sha,
    r.doc || jsonb_build_object(
        'runId', x.run_id, 'status', x.status, 'displayStatus', x.status, 'workflowName', x.workflow,
        'branch', x.branch, 'ref', 'refs/heads/' || x.branch, 'repoIdentifier', x.repository, 'sha', x.sha,
        'createdAt', x.at, 'startedAt', x.at, 'durationMs', x.duration_ms,
        'completedAt', x.at + x.duration_ms * interval '1 ms', 'commitMessage', 'Change number ' || x.n)
FROM (SELECT * FROM execution_runs LIMIT 1) AS r, (
    SELECT n, gen_random_uuid() AS run_id, now() - n * interval '20 seconds' AS at,
        (n::bigint * 7919) % 600000 AS duration_ms, 'workflow-' || n % 20 AS workflow,
        'repo-' || n % 40 AS repository,
        CASE WHEN n % 3 = 0 THEN 'main' ELSE 'feature-' || n % 500 END AS branch,
        (ARRAY['success', 'success', 'success', 'failed', 'cancelled'])[1 + (n / 7 + n) % 5] AS status,
        md5(n::text) || substr(md5((n + 1)::text), 1, 8) AS sha
    FROM generate_series(1, $1::int) AS n) AS x
"""

_COPY_WORDS = """
INSERT INTO run_search (org_id, run_id, words)
SELECT org_id, run_id, lower(concat_ws(E'\\n', workflow_name, repo_identifier, branch, doc ->> 'triggeredBy',
    doc ->> 'commitMessage'))
FROM execution_runs
ON CONFLICT DO NOTHING
"""


async def _copies(database_url: str, count: int) -> None:
    """As if they had come one by one: what autovacuum would have done by now is done."""
    connection = await asyncpg.connect(database_url.replace("/postgres?", "/kici_platform?"))
    try:
        await connection.execute(_COPY_RUNS, count, timeout=900)
        await connection.execute(_COPY_WORDS, timeout=900)
        for table in ("execution_runs", "run_search"):
            await connection.execute(f"VACUUM ANALYZE {table}", timeout=600)
    finally:
        await connection.close()


def run_list(count: int, *, requests: int) -> Row:
    with Stack.started(agents=1) as stack:
        repository = stack.repository(
            "seed",
            {
                "ci.py": "from kici import Context, job, push, workflow\n\n\n"
                '@job(runs_on="kici:os:linux")\nasync def one(ctx: Context) -> None:\n    ctx.log.info("hi")\n\n\n'
                'ci = workflow("ci", on=push(branches="main"), jobs=[one])\n'
            },
        )
        stack.wait_for_run(sha=repository.push())
        state = stack.state()
        assert state is not None
        asyncio.run(_copies(state["databaseUrl"], count))
        ms: list[float] = []
        path = f"/api/v1/orgs/{stack.org_id}/runs"
        with Client(stack.platform_url, stack.token) as platform:
            assert platform.get(path)["total"] > min(count, 9_999)
            for number in range(requests + len(PAGES)):
                started = time.perf_counter()
                page = platform.get(path, **PAGES[number % len(PAGES)])
                took = (time.perf_counter() - started) * 1000
                assert page["runs"], PAGES[number % len(PAGES)]
                if number >= len(PAGES):
                    ms.append(took)
    p95 = percentile(ms, 0.95)
    return Row(
        f"run list page, {count:,} runs, mixed filters and sorts",
        "p95 ≤ 50 ms (at 1 M)",
        f"median {statistics.median(ms):.0f} ms, p95 {p95:.0f} ms (n={len(ms)})",
        p95 <= 50,
        {"ms": ms},
    )
