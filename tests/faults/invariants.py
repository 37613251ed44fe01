"""What the tables must say: while things break, and when everything is quiet again."""

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field
from hashlib import file_digest
from pathlib import Path
from typing import Any

import asyncpg

from kici.cli.up.postgres import database_url
from tests.support.stack import Stack

_LOOK_EVERY_SECONDS = 0.5
_SETTLED_SECONDS = 75.0  # sweepers come by once a minute
_QUERY_SECONDS = 5
ORCHESTRATOR = "kici_orchestrator"
PLATFORM = "kici_platform"

# Each counts what must never be there, at no moment.
_NEVER = {
    "more holders of a concurrency group than may be": """
        SELECT string_agg(DISTINCT s.group_name || ' ' || s.holders, ', ') FROM (
            SELECT group_name, scope, count(*) AS holders, max(max) AS most FROM concurrency_slots
            WHERE acquired_at IS NOT NULL GROUP BY org_id, routing_key, repo_identifier, scope, group_name) s
        WHERE s.holders > s.most""",
    "agents held by jobs that wait": """
        SELECT string_agg(job_name || ' ' || status || ' on ' || agent_id, ', ') FROM execution_jobs
        WHERE status IN ('pending', 'waiting') AND agent_id IS NOT NULL""",
    "jobs of a blocked run on their way": """
        SELECT string_agg(j.job_name || ' ' || j.status, ', ') FROM execution_jobs j
        JOIN execution_runs r ON r.id = j.run_id
        WHERE r.blocked AND r.completed_at IS NULL AND (j.dispatched_at IS NOT NULL OR j.status = 'running')
            AND j.kind = 'job'""",
    "open jobs of ended runs": """
        SELECT string_agg(j.job_name, ', ') FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id
        WHERE j.completed_at IS NULL AND r.completed_at IS NOT NULL""",
    "runs whose open jobs are miscounted": """
        SELECT string_agg(c.id::text || ': ' || c.jobs_open || ' for ' || c.found, ', ') FROM (
            SELECT r.id, r.jobs_open, count(j.id) FILTER (WHERE j.completed_at IS NULL) AS found
            FROM execution_runs r JOIN execution_jobs j ON j.run_id = r.id GROUP BY r.id) c
        WHERE c.jobs_open <> c.found""",
}
# Each counts what comes to an end when nobody asks for more.
_SETTLES = {
    ORCHESTRATOR: {
        "unprocessed deliveries": "SELECT count(*) FROM inbox WHERE processed_at IS NULL",
        "dead-lettered deliveries": "SELECT count(*) FROM inbox WHERE dlq_at IS NOT NULL",
        "events that nobody decided about": "SELECT count(*) FROM kici_events WHERE NOT processed",
        "dead-lettered events": "SELECT count(*) FROM kici_events WHERE dlq_at IS NOT NULL",
        "open jobs": "SELECT count(*) FROM execution_jobs WHERE completed_at IS NULL",
        "open runs": "SELECT count(*) FROM execution_runs WHERE completed_at IS NULL",
        "open steps of ended jobs": "SELECT count(*) FROM execution_steps WHERE completed_at IS NULL",
        "places in concurrency groups": "SELECT count(*) FROM concurrency_slots",
        "keys of ended runs": "SELECT count(*) FROM execution_run_keys",
        "outbox rows": "SELECT count(*) FROM outbox",
    },
    PLATFORM: {
        "webhooks never replayed": "SELECT count(*) FROM webhook_inbox",
        "webhooks counted as waiting": "SELECT coalesce(sum(entries), 0) FROM webhook_inbox_usage",
    },
}
# Each names what went wrong with an event.
_EVENTS = {
    "emitted events without exactly one run": """
        SELECT string_agg(e.id::text || ': ' || n.runs, ', ') FROM kici_events e, LATERAL (
            SELECT count(r.id) AS runs FROM kici_event_deliveries d JOIN execution_runs r ON r.id = d.run_id
            WHERE d.event_id = e.id) n
        WHERE e.event_name = 'faulted' AND n.runs <> 1""",
    "attempts that emitted twice": """
        SELECT string_agg(t.job || ' ' || t.attempt, ', ') FROM (
            SELECT source_job_id::text AS job, payload::text AS attempt FROM kici_events
            WHERE event_name = 'faulted' GROUP BY 1, 2 HAVING count(*) > 1) t""",
    "runs that say they emitted, and no event": """
        SELECT string_agg(r.id::text, ', ') FROM execution_runs r
        WHERE r.workflow_name = 'dressed' AND r.status = 'success' AND NOT EXISTS (
            SELECT FROM kici_events e WHERE e.event_name = 'faulted' AND e.source_run_id = r.id)""",
    "runs of one event that nobody recorded": """
        SELECT string_agg(r.id::text, ', ') FROM execution_runs r
        WHERE r.workflow_name IN ('heard', 'after')
            AND NOT EXISTS (SELECT FROM kici_event_deliveries d WHERE d.run_id = r.id)""",
    "completions not told exactly once": """
        SELECT string_agg(h.id::text || ': ' || n.runs, ', ') FROM execution_runs h, LATERAL (
            SELECT count(r.id) AS runs FROM kici_events e JOIN kici_event_deliveries d ON d.event_id = e.id
            JOIN execution_runs r ON r.id = d.run_id AND r.workflow_name = 'after'
            WHERE e.source_run_id = h.id) n
        WHERE h.workflow_name = 'heard' AND n.runs <> CASE WHEN h.status = 'success' THEN 1 ELSE 0 END""",
}


async def _connected(stack: Stack, database: str) -> asyncpg.Connection:
    state = stack.state()
    assert state is not None
    return await asyncpg.connect(
        database_url(state["databaseUrl"], database), timeout=_QUERY_SECONDS, command_timeout=_QUERY_SECONDS
    )


@dataclass
class Watch:
    """Looks at the tables again and again; a database that is away is no problem of its."""

    stack: Stack
    looks: int = 0
    problems: list[str] = field(default_factory=list[str])

    @classmethod
    @contextlib.asynccontextmanager
    async def over(cls, stack: Stack) -> AsyncGenerator["Watch"]:
        watch = cls(stack)
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(watch._look())
            try:
                yield watch
            finally:
                looking.cancel()

    async def _look(self) -> None:
        while True:
            with contextlib.suppress(
                OSError, TimeoutError, AssertionError, asyncpg.PostgresError, asyncpg.InterfaceError
            ):
                connection = await _connected(self.stack, ORCHESTRATOR)
                try:
                    while True:
                        await self._once(connection)
                        await asyncio.sleep(_LOOK_EVERY_SECONDS)
                finally:
                    connection.terminate()
            await asyncio.sleep(_LOOK_EVERY_SECONDS)

    async def _once(self, connection: asyncpg.Connection) -> None:
        for what, statement in _NEVER.items():
            if found := await connection.fetchval(statement):
                self.problems.append(f"{what}: {found}")
        self.looks += 1


async def pending(stack: Stack) -> int:
    """Deliveries and events that may still start runs, runs that are open, and what the Platform was not told."""
    connection = await _connected(stack, ORCHESTRATOR)
    try:
        count: Any = await connection.fetchval(
            "SELECT (SELECT count(*) FROM inbox WHERE processed_at IS NULL)"
            " + (SELECT count(*) FROM kici_events WHERE NOT processed AND dlq_at IS NULL)"
            " + (SELECT count(*) FROM execution_runs WHERE completed_at IS NULL)"
            " + (SELECT count(*) FROM outbox)"
        )
        return count
    finally:
        await connection.close()


async def unsettled(stack: Stack) -> tuple[list[str], int]:
    """What the databases still hold that should have come to an end, and what was never right; how many
    entries the cache has."""
    problems: list[str] = []
    for database, statements in _SETTLES.items():
        connection = await _connected(stack, database)
        try:
            for what, statement in statements.items():
                loop = asyncio.get_running_loop()
                give_up = loop.time() + _SETTLED_SECONDS
                while (left := await connection.fetchval(statement)) and loop.time() < give_up:
                    await asyncio.sleep(0.1)
                if left:
                    problems.append(f"{left} {what}")
        finally:
            await connection.close()
    connection = await _connected(stack, ORCHESTRATOR)
    try:
        for what, statement in _EVENTS.items():
            if found := await connection.fetchval(statement):
                problems.append(f"{what}: {found}")
        rows = await connection.fetch(
            "SELECT object_key, state, size_bytes, sha256 FROM user_cache_entries"
        )
    finally:
        await connection.close()
    problems += cache_problems(stack.data_dir / "orchestrator" / "store", rows)
    return problems, sum(row["state"] == "ready" for row in rows)


def cache_problems(store: Path, rows: Iterable[Any]) -> list[str]:
    """Every ready entry has its object as it was saved, and no object is without its entry."""
    known = {row["object_key"]: row for row in rows}
    problems: list[str] = []
    for key, row in known.items():
        path = store / key
        if row["state"] != "ready":
            continue
        if not path.is_file():
            problems.append(f"the cache entry {key} is ready, its object is gone")
            continue
        with open(path, "rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
        if (path.stat().st_size, digest) != (row["size_bytes"], row["sha256"]):
            problems.append(f"the cache entry {key} is not what was saved")
    objects = (path for path in (store / "cache").rglob("*") if path.is_file())
    # `#<n>`: of an upload that died with its orchestrator; goes with the entry it was for.
    strays = sorted({re.sub(r"#\d+$", "", str(path.relative_to(store))) for path in objects} - set(known))
    return problems + [f"the object {key} belongs to no cache entry" for key in strays]
