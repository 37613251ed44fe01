"""Run-list latency over a projection that holds many runs."""

import asyncio
import statistics
import time

import asyncpg
import httpx

from benchmarks.report import Row, percentile
from tests.support.stack import Stack

PAGES = (
    {},
    {"page": 40},
    {"status": "failed"},
    {"branch": "main", "workflow": "workflow-3"},
    {"sort": "durationMs", "dir": "desc"},
    {"repository": "repo-7", "status": "success"},
)


async def _copies(database_url: str, count: int) -> None:
    """One real run's row, many times over, with other ids, names, branches, states and times."""
    connection = await asyncpg.connect(database_url.replace("/postgres?", "/kici_platform?"))
    try:
        columns = [
            row["column_name"]
            for row in await connection.fetch(
                "SELECT column_name FROM information_schema.columns WHERE table_name = 'execution_runs'"
                " AND is_generated = 'NEVER' ORDER BY ordinal_position"
            )
        ]
        varied = {
            "run_id": "gen_random_uuid()",
            "id": "gen_random_uuid()",
            "workflow_name": "'workflow-' || (n % 20)",
            "branch": "CASE WHEN n % 3 = 0 THEN 'main' ELSE 'feature-' || (n % 500) END",
            "repo_identifier": "'repo-' || (n % 40)",
            "status": "(ARRAY['success','success','success','failed','cancelled'])[1 + n % 5]",
            "display_status": "(ARRAY['success','success','success','failed','cancelled'])[1 + n % 5]",
            "created_at": "now() - n * interval '20 seconds'",
            "started_at": "now() - n * interval '20 seconds'",
            "duration_ms": "(n * 7919) % 600000",
            "sha": "md5(n::text) || substr(md5((n+1)::text), 1, 8)",
        }
        chosen = ", ".join(varied.get(name, f"r.{name}") for name in columns)
        await connection.execute(
            f"INSERT INTO execution_runs ({', '.join(columns)})"
            f" SELECT {chosen} FROM (SELECT * FROM execution_runs LIMIT 1) r, generate_series(1, $1::int) n",
            count,
            timeout=600,
        )
        await connection.execute("ANALYZE execution_runs", timeout=120)
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
        with httpx.Client(
            trust_env=False, timeout=60, headers={"Authorization": f"Bearer {stack.token}"}
        ) as client:
            for number in range(requests + 6):
                started = time.perf_counter()
                response = client.get(
                    f"{stack.platform_url}/api/v1/orgs/{stack.org_id}/runs",
                    params=PAGES[number % len(PAGES)],
                )
                took = (time.perf_counter() - started) * 1000
                response.raise_for_status()
                if number >= 6:
                    ms.append(took)
    p95 = percentile(ms, 0.95)
    return Row(
        f"run list page, {count:,} runs, mixed filters and sorts",
        "p95 ≤ 50 ms (at 1 M)",
        f"median {statistics.median(ms):.0f} ms, p95 {p95:.0f} ms (n={len(ms)})",
        p95 <= 50,
        {"ms": ms},
    )
