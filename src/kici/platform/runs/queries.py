"""Reading the run projection fast, whatever the filter (PD-66, PD-111).

How a list stays quick with a million runs: first the matches are counted, at most 10,001 of them, by an
index-only scan over the index of the rarest filter value. Few matches are then collected whole and
sorted; many matches are met quickly by walking the index that has the wanted order. Either way the
planner never walks a million rows in search of the twenty that do not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from kici.platform.projection.queries import source_key
from kici.platform.runs.views import Direction, RunQuery, SortField
from kici.protocol.dashboard_v1 import (
    JobProjection,
    RunEventView,
    RunFilters,
    RunGroup,
    RunProjection,
    SourceRef,
    StepProjection,
)
from kici.runtime.database import AsyncConnection, text
from kici.spec.states import RUN_TERMINAL, RunStatus

COUNT_CAP = 10_000
FACET_VALUES = 500
_ACTIVE_RUNS = 5_000
COMMIT_WINDOW = 2_000  # newest matching runs that commits are gathered from
COMMIT_RUNS = 200  # runs shown per commit
SEARCH_CAP = 1_000
_SEARCH_PROBE = 10_000
_SEARCH_COMMON = 100

_SORT_COLUMN: dict[SortField, str] = {
    "createdAt": "created_at",
    "durationMs": "duration_ms",
    "workflowName": "workflow_name",
    "status": "display_status",
    "triggerEvent": "trigger_event",
    "ref": "ref",
    "sha": "sha",
}
_STATUSES = frozenset(RunStatus)
_ENDED_BY_CLOCK = RUN_TERMINAL - {RunStatus.SUCCESS}  # may be shown as `timed_out`
_ON_ROWS: frozenset[SortField] = frozenset({"durationMs", "ref", "sha"})  # not in the filters' indexes
_FEW_ON_ROWS = 1_000


def _order(sort: SortField, direction: Direction) -> str:
    """Newest first within equal values when descending; the whole order turns round."""
    columns = [] if sort == "createdAt" else [f"{_SORT_COLUMN[sort]} {direction} NULLS LAST"]
    if sort not in {"createdAt", "durationMs"}:
        columns = [f"{_SORT_COLUMN[sort]} {direction}"]  # never NULL; saying more would hide the index
    return ", ".join([*columns, f"created_at {direction}", f"run_id {direction}"])


_decode_run = msgspec.json.Decoder(RunProjection).decode
_decode_job = msgspec.json.Decoder(JobProjection).decode
_decode_step = msgspec.json.Decoder(StepProjection).decode
_decode_event = msgspec.json.Decoder(RunEventView).decode


@dataclass(frozen=True, slots=True)
class Where:
    """A condition on execution_runs and its bound values. `exactly` is the number of matches when the
    text search alone decided them."""

    sql: str
    values: dict[str, Any]
    filtered: bool
    exactly: int | None


def where(org_id: str, query: RunQuery, run_ids: Sequence[str] | None) -> Where:
    """`run_ids`: what the text search found, None when there was none."""
    parts = ["org_id = :org_id"]
    values: dict[str, Any] = {"org_id": org_id}

    def any_of(column: str, kind: str, wanted: Sequence[Any]) -> None:
        if len(wanted) == 1:  # equality keeps the index's order
            parts.append(f"{column} = :{column}")
            values[column] = wanted[0]
        elif wanted:
            parts.append(f"{column} = ANY(CAST(:{column} AS {kind}[]))")
            values[column] = list(wanted)

    # A word is a status, or what is shown instead of one: `error` for a failure before any step, `timed_out` for
    # an end by a clock. Conditions are on one column if they can be, so that one index answers.
    words = set(query.statuses)
    if "failed" in words:
        words |= {"error"}
    if words <= _STATUSES | {"error"} and ("error" not in words or "failed" in words):
        any_of("status", "text", sorted(words - {"error"}))
    elif "timed_out" in words or not words & _ENDED_BY_CLOCK:
        any_of("display_status", "text", sorted(words))
    else:
        any_of("display_status", "text", sorted(words | {"timed_out"}))
        parts.append("(display_status <> 'timed_out' OR status = ANY(CAST(:ended AS text[])))")
        values["ended"] = sorted(words & _ENDED_BY_CLOCK)
    any_of("workflow_name", "text", query.workflows)
    any_of("branch", "text", query.branches)
    any_of("repo_identifier", "text", query.repositories)
    any_of("trigger_event", "text", query.trigger_types)
    any_of("source_key", "bigint", [source_key(routing_key) for routing_key in query.sources])
    if query.sha:
        parts.append("sha >= :sha AND sha < :sha_end")
        values |= {"sha": query.sha, "sha_end": query.sha + "g"}  # "g" follows every hex digit
    if query.since is not None:
        parts.append("created_at >= :since")
        values["since"] = query.since
    if query.until is not None:
        parts.append("created_at <= :until")
        values["until"] = query.until
    exactly: int | None = None
    if run_ids is not None:
        exactly = len(run_ids) if len(parts) == 1 or not run_ids else None
        parts.append("run_id = ANY(CAST(:run_ids AS uuid[]))")
        values["run_ids"] = list(run_ids)
    return Where(" AND ".join(parts), values, len(parts) > 1, exactly)


async def plan_for_values(tx: AsyncConnection) -> None:
    """Until the transaction ends: plans look at the filter values (which are far from evenly spread)
    instead of settling on one plan for all, and expect the rows of recent runs to be in memory."""
    await tx.execute(
        text("""
            SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
                   set_config('random_page_cost', '1.1', true)
        """)
    )


async def count(tx: AsyncConnection, condition: Where) -> int:
    """At most COUNT_CAP + 1."""
    if condition.exactly is not None:
        return condition.exactly
    statement = text(f"""
        SELECT count(*) FROM (SELECT FROM execution_runs WHERE {condition.sql} LIMIT {COUNT_CAP + 1}) AS found
    """)
    return await tx.scalar(statement, condition.values) or 0


def _collected(condition_sql: str, sort: SortField) -> str:
    """All matches with their sort column. What the filter indexes do not hold is fetched for the matches
    alone: an index scan that has to look at rows looks at those of everything it passes."""
    column = _SORT_COLUMN[sort]
    if sort in _ON_ROWS:
        return f"""
            WITH few AS MATERIALIZED (SELECT run_id, created_at FROM execution_runs WHERE {condition_sql})
            SELECT few.run_id, few.created_at, r.{column}
            FROM few JOIN execution_runs r ON r.org_id = :org_id AND r.run_id = few.run_id
        """
    columns = ", ".join(dict.fromkeys(("run_id", "created_at", column)))
    return f"""
        WITH few AS MATERIALIZED (SELECT {columns} FROM execution_runs WHERE {condition_sql})
        SELECT {columns} FROM few
    """


async def page(
    tx: AsyncConnection, condition: Where, query: RunQuery, *, matches: int
) -> list[RunProjection]:
    """`matches` as `count` gave it."""
    order = _order(query.sort, query.direction)
    few = _FEW_ON_ROWS if query.sort in _ON_ROWS else COUNT_CAP
    if condition.filtered and matches <= few:
        keys = _collected(condition.sql, query.sort)
    else:
        keys = f"SELECT run_id FROM execution_runs WHERE {condition.sql}"
    statement = text(f"""
        SELECT r.doc::text
        FROM (SELECT row_number() OVER () AS place, run_id
              FROM ({keys} ORDER BY {order} LIMIT :limit OFFSET :offset) AS sorted) AS keys
        JOIN execution_runs r ON r.org_id = :org_id AND r.run_id = keys.run_id
        ORDER BY keys.place
    """)
    bounds = {"limit": query.page_size, "offset": (query.page - 1) * query.page_size}
    rows = await tx.scalars(statement, condition.values | bounds)
    return [_decode_run(doc) for doc in rows]


# ── text search ──────────────────────────────────────────────────────────────────────────────────

_PROBE = text(f"""
    SELECT run_id FROM (
        SELECT run_id, words FROM run_search WHERE org_id = :org_id ORDER BY run_id DESC LIMIT {_SEARCH_PROBE}
    ) AS newest WHERE words LIKE :pattern
""")
_COMMON = text(f"""
    SELECT run_id FROM run_search WHERE org_id = :org_id AND words LIKE :pattern
    ORDER BY run_id DESC LIMIT {SEARCH_CAP}
""")
_RARE = text(f"""
    WITH hits AS MATERIALIZED (SELECT run_id FROM run_search WHERE org_id = :org_id AND words LIKE :pattern)
    SELECT run_id FROM hits ORDER BY run_id DESC LIMIT {SEARCH_CAP}
""")
_BY_SHA = text(f"""
    SELECT run_id FROM execution_runs WHERE org_id = :org_id AND sha >= :sha AND sha < :sha_end
    ORDER BY sha DESC, created_at DESC LIMIT {SEARCH_CAP}
""")


async def search(tx: AsyncConnection, org_id: str, words: str) -> list[str]:
    """Run ids whose workflow, repository, branch, actor or commit message holds `words`, newest first,
    at most SEARCH_CAP. A run id or the beginning of a commit is found as such. Words under three
    characters are looked for among the newest runs only."""
    words = words.lower()
    if is_uuid(words):
        return [words] if await get_cluster(tx, org_id, words) is not None else []
    if len(words) >= 6 and all(digit in "0123456789abcdef" for digit in words):
        found = await tx.scalars(_BY_SHA, {"org_id": org_id, "sha": words, "sha_end": words + "g"})
        run_ids = list(found)
        if run_ids:
            return run_ids
    escaped = words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    values = {"org_id": org_id, "pattern": f"%{escaped}%"}
    newest = list(await tx.scalars(_PROBE, values))
    if len(words) < 3:
        return newest[:SEARCH_CAP]
    if len(newest) >= _SEARCH_COMMON:
        return list(await tx.scalars(_COMMON, values))
    # Few among the newest: the trigram index finds them all. The planner knows nothing of our words.
    await tx.execute(
        text(
            "SELECT set_config('enable_seqscan', 'off', true), set_config('enable_indexscan', 'off', true)"
        )
    )
    try:
        return list(await tx.scalars(_RARE, values))
    finally:
        await tx.execute(
            text(
                "SELECT set_config('enable_seqscan', 'on', true), set_config('enable_indexscan', 'on', true)"
            )
        )


# ── filter options ───────────────────────────────────────────────────────────────────────────────


def _distinct(column: str) -> str:
    """Loose index scan: one probe per value, however many rows."""
    return f"""
        (WITH RECURSIVE v AS (
            (SELECT {column} AS value FROM execution_runs WHERE org_id = :org_id ORDER BY {column} LIMIT 1)
            UNION ALL
            SELECT (SELECT r.{column} FROM execution_runs r WHERE r.org_id = :org_id AND r.{column} > v.value
                    ORDER BY r.{column} LIMIT 1)
            FROM v WHERE v.value IS NOT NULL)
         SELECT array_agg(value) FROM (SELECT value FROM v WHERE value IS NOT NULL LIMIT {FACET_VALUES}) AS found)
    """


_FACETS = text(f"""
    SELECT {_distinct("display_status")} AS statuses, {_distinct("workflow_name")} AS workflows,
           {_distinct("branch")} AS branches, {_distinct("repo_identifier")} AS repositories,
           ARRAY(SELECT DISTINCT branch FROM (
               SELECT branch FROM execution_runs WHERE org_id = :org_id
               ORDER BY created_at DESC, run_id DESC LIMIT {_ACTIVE_RUNS}) AS newest) AS active_branches,
           {_distinct("trigger_event")} AS trigger_types
""")
_SOURCES = text(f"""
    SELECT (SELECT (r.doc -> 'source')::text FROM execution_runs r
            WHERE r.org_id = :org_id AND r.source_key = k.value ORDER BY r.created_at DESC LIMIT 1)
    FROM unnest({_distinct("source_key")}) AS k(value)
""")


async def filters(tx: AsyncConnection, org_id: str) -> RunFilters:
    facets = (await tx.execute(_FACETS, {"org_id": org_id})).one()
    sources = [
        msgspec.json.decode(source, type=SourceRef)
        for source in await tx.scalars(_SOURCES, {"org_id": org_id})
    ]
    return RunFilters(
        statuses=facets.statuses or [],
        workflows=facets.workflows or [],
        # There may be more than fit; those in use must not be the ones missing.
        branches=sorted({*(facets.branches or []), *facets.active_branches} - {""}),
        repositories=facets.repositories or [],
        trigger_types=facets.trigger_types or [],
        sources=sorted(sources, key=lambda source: source.name),
    )


# ── commits ──────────────────────────────────────────────────────────────────────────────────────


async def commits(tx: AsyncConnection, condition: Where, query: RunQuery) -> tuple[list[RunGroup], int]:
    """One page of commits, newest first, and how many there are among the newest COMMIT_WINDOW runs."""
    direction = query.direction if query.sort == "createdAt" else "desc"
    keys = text(f"""
        SELECT sha, repo_identifier, count(*) OVER () AS total FROM (
            SELECT sha, repo_identifier, max(created_at) AS newest FROM (
                SELECT sha, repo_identifier, created_at FROM execution_runs WHERE {condition.sql}
                ORDER BY created_at DESC, run_id DESC LIMIT {COMMIT_WINDOW}) AS recent
            GROUP BY sha, repo_identifier) AS grouped
        ORDER BY newest {direction}, sha LIMIT :limit OFFSET :offset
    """)
    bounds = {"limit": query.page_size, "offset": (query.page - 1) * query.page_size}
    rows = (await tx.execute(keys, condition.values | bounds)).all()
    if not rows:
        return [], 0
    members = text(f"""
        SELECT doc::text FROM (
            SELECT doc, created_at, run_id, row_number() OVER (
                PARTITION BY sha, repo_identifier ORDER BY created_at DESC, run_id DESC) AS place
            FROM execution_runs WHERE {condition.sql} AND sha = ANY(CAST(:shas AS text[]))) AS ranked
        WHERE place <= {COMMIT_RUNS} ORDER BY created_at DESC, run_id DESC
    """)
    found = await tx.scalars(members, condition.values | {"shas": [row.sha for row in rows]})
    by_commit: dict[tuple[str, str], list[RunProjection]] = {}
    for doc in found:
        run = _decode_run(doc)
        by_commit.setdefault((run.sha, run.repo_identifier), []).append(run)
    groups = [
        _group(by_commit[row.sha, row.repo_identifier])
        for row in rows
        if (row.sha, row.repo_identifier) in by_commit
    ]
    return groups, rows[0].total


def _group(runs: list[RunProjection]) -> RunGroup:
    statuses: dict[str, int] = {}
    for run in runs:
        statuses[run.display_status] = statuses.get(run.display_status, 0) + 1
    newest = runs[0]
    return RunGroup(
        sha=newest.sha,
        commit_message=newest.commit_message,
        repository=newest.repo_identifier,
        ref=newest.ref,
        statuses=statuses,
        runs=runs,
    )


# ── one run ──────────────────────────────────────────────────────────────────────────────────────


def is_uuid(value: str) -> bool:
    return (
        len(value) == 36
        and [value[place] for place in (8, 13, 18, 23)] == ["-"] * 4
        and all(digit in "0123456789abcdefABCDEF-" for digit in value)
        and value.count("-") == 4
    )


async def get_run(tx: AsyncConnection, org_id: str, run_id: str) -> RunProjection | None:
    if not is_uuid(run_id):
        return None
    doc = await tx.scalar(
        text("SELECT doc::text FROM execution_runs WHERE org_id = :org_id AND run_id = :run_id"),
        {"org_id": org_id, "run_id": run_id},
    )
    return None if doc is None else _decode_run(doc)


async def get_cluster(tx: AsyncConnection, org_id: str, run_id: str) -> str | None:
    """The cluster that owns a run."""
    if not is_uuid(run_id):
        return None
    return await tx.scalar(
        text("SELECT cluster_name FROM execution_runs WHERE org_id = :org_id AND run_id = :run_id"),
        {"org_id": org_id, "run_id": run_id},
    )


@dataclass(frozen=True, slots=True)
class Parts:
    jobs: list[JobProjection]
    steps: list[StepProjection]
    events: list[RunEventView]


_MAX_EVENTS = 1_000


async def get_parts(tx: AsyncConnection, org_id: str, run_id: str) -> Parts:
    values = {"org_id": org_id, "run_id": run_id}
    mine = "WHERE org_id = :org_id AND run_id = :run_id"
    jobs = await tx.scalars(text(f"SELECT doc::text FROM execution_jobs {mine}"), values)
    steps = await tx.scalars(text(f"SELECT doc::text FROM execution_steps {mine}"), values)
    events = await tx.scalars(
        text(f"SELECT doc::text FROM run_events {mine} ORDER BY rev, place LIMIT {_MAX_EVENTS}"), values
    )
    return Parts(
        jobs=[_decode_job(doc) for doc in jobs],
        steps=[_decode_step(doc) for doc in steps],
        events=[_decode_event(doc) for doc in events],
    )
