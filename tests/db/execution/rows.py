"""Runs as `start_runs` leaves them, without sources, deliveries or lock files."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from kici.orchestrator.dispatch.claim import FreeAgent
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.ids import request_id, uuid7
from kici.spec.events import Event
from kici.spec.lock import LabelMatcher, LockJob, LockStep, Need, SourceLocation
from kici.spec.states import WHEN

ORG = "org_000000000001"
_json = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Job:
    """One base job. `children` > 1 makes it a matrix with labels 0, 1, 2 …"""

    name: str
    needs: Sequence[tuple[str, str]] = ()  # (base job, `when` word)
    children: int = 1
    max_parallel: int | None = None
    fail_fast: bool = False
    runs_on: Sequence[str] = ("kici:os:linux",)
    exclude: Sequence[str] = ()
    patterns: Sequence[str] = ()
    priority: int = 0
    timeout_ms: int | None = None


@dataclass(frozen=True)
class Run:
    id: str
    jobs: dict[str, str]  # job name → job id
    ids: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> str:
        return self.jobs[name]


_RUN = text(f"""
    INSERT INTO execution_runs (id, org_id, routing_key, source_name, source_subtype, provider, workflow_name,
        workflow_file, workflow_export, content_hash, status, repo_identifier, repo_url, ref, branch, sha,
        commit_message, trigger_event, trigger_decision, event, dedup_key, request_id, jobs_open, job_count,
        workflow_timeout_ms, deadline_at)
    VALUES (CAST(:id AS uuid), '{ORG}', 'generic:{ORG}:s1', 'shop', 'local', 'local', 'ci', '.kici/workflows/ci.py', 'ci',
        :hash, 'queued', 'acme/shop', 'file:///srv/shop.git', 'refs/heads/main', 'main',
        '0123456789abcdef0123456789abcdef01234567', 'Add a cart', 'push',
        jsonb_build_object('workflowName', 'ci', 'matched', true, 'reason', 'push to main'),
        CAST(:event AS jsonb), CAST(:id AS text), :request_id, :count, :count, CAST(:timeout_ms AS int),
        now() + make_interval(secs => CAST(:timeout_ms AS int) / 1000.0))
""")
_JOB = text(f"""
    INSERT INTO execution_jobs (id, run_id, org_id, position, job_name, base_job_name, variant_kind,
        variant_label, matrix_values, status, needs_pending, max_parallel, fail_fast, priority, ready_at,
        runs_on, exclude_labels, runs_on_patterns, timeout_ms, queue_expires_at)
    VALUES (:id, :run_id, '{ORG}', :position, :name, :base, :kind, :label, CAST(:matrix AS jsonb), :status,
        :needs_pending, :max_parallel, :fail_fast, :priority,
        CASE WHEN :status = 'queued' THEN clock_timestamp() END, :runs_on, :exclude,
        CAST(:patterns AS jsonb), :timeout_ms,
        CASE WHEN :status = 'queued' THEN now() + interval '1 hour' END)
""")
_SPEC = text(
    "INSERT INTO execution_job_specs (job_id, run_id, spec) VALUES (:id, :run_id, CAST(:spec AS jsonb))"
)
_NEED = text("""
    INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on)
    VALUES (:run_id, :job_id, :upstream, :run_on)
""")


def _spec(job: Job) -> LockJob:
    return LockJob(
        name=job.name,
        source=SourceLocation(file=".kici/workflows/ci.py", line=3, column=1),
        runs_on=[LabelMatcher(kind="exact", value=label) for label in job.runs_on]
        + [LabelMatcher(kind="regex", source=source) for source in job.patterns],
        needs=[Need(name=base, run_on=sorted(WHEN[when])) for base, when in job.needs],
        steps=[LockStep(name="work", source_location=SourceLocation(file=".kici/workflows/ci.py", line=4))],
    )


async def add_run(
    engine: AsyncEngine, jobs: Sequence[Job] = (Job("build"),), *, timeout_ms: int | None = None
) -> Run:
    """Commits one run. Jobs without needs are queued as far as their window allows."""
    async with engine.begin() as tx:
        return await insert_run(tx, jobs, timeout_ms=timeout_ms)


async def insert_run(tx: AsyncConnection, jobs: Sequence[Job], *, timeout_ms: int | None = None) -> Run:
    run_id = uuid7()
    children = {job.name: [_child(job, index) for index in range(job.children)] for job in jobs}
    ids = {name: uuid7() for job in jobs for name in children[job.name]}
    event = Event(type="push", target_branch="main", provider="local", payload={"n": 1})
    await tx.execute(
        _RUN,
        {
            "id": run_id,
            "hash": "f" * 64,
            "event": _json(event).decode(),
            "request_id": request_id(),
            "count": len(ids),
            "timeout_ms": timeout_ms,
        },
    )
    for position, job in enumerate(jobs):
        upstream = [(ids[name], sorted(WHEN[when])) for base, when in job.needs for name in children[base]]
        for index, name in enumerate(children[job.name]):
            waits = bool(upstream) or (job.max_parallel is not None and index >= job.max_parallel)
            await tx.execute(
                _JOB,
                {
                    "id": ids[name],
                    "run_id": run_id,
                    "position": position,
                    "name": name,
                    "base": job.name,
                    "kind": "matrix" if job.children > 1 else None,
                    "label": str(index) if job.children > 1 else None,
                    "matrix": _json({"value": index}).decode() if job.children > 1 else None,
                    "status": "pending" if waits else "queued",
                    "needs_pending": len(upstream),
                    "max_parallel": job.max_parallel,
                    "fail_fast": job.fail_fast,
                    "priority": job.priority,
                    "runs_on": list(job.runs_on),
                    "exclude": list(job.exclude),
                    "patterns": _patterns(job),
                    "timeout_ms": job.timeout_ms,
                },
            )
            await tx.execute(_SPEC, {"id": ids[name], "run_id": run_id, "spec": _json(_spec(job)).decode()})
    for job in jobs:
        for name in children[job.name]:
            for base, when in job.needs:
                for upstream_name in children[base]:
                    await tx.execute(
                        _NEED,
                        {
                            "run_id": run_id,
                            "job_id": ids[name],
                            "upstream": ids[upstream_name],
                            "run_on": sorted(WHEN[when]),
                        },
                    )
    return Run(run_id, ids, list(ids.values()))


def _child(job: Job, index: int) -> str:
    return job.name if job.children == 1 else f"{job.name} ({index})"


def _patterns(job: Job) -> str | None:
    if not job.patterns:
        return None
    return _json(
        {"include": [LabelMatcher(kind="regex", source=source) for source in job.patterns]}
    ).decode()


async def add_agent(
    engine: AsyncEngine, agent_id: str = "agent-1", labels: Sequence[str] = ("kici:os:linux",)
) -> FreeAgent:
    """A connected agent, as its registration leaves it in the table."""
    session = uuid7()
    async with engine.begin() as tx:
        await tx.execute(
            text("""
                INSERT INTO agents (agent_id, org_id, token_id, session_id, instance_id, connection_id, labels,
                    hostname, platform, arch, version, connected_at)
                VALUES (:id, :org, :token, :session, 'orch-1', :session, :labels, 'host', 'linux', 'x64', '0',
                    now())
            """),
            {"id": agent_id, "org": ORG, "token": uuid7(), "session": session, "labels": list(labels)},
        )
    return FreeAgent(agent_id=agent_id, session_id=session, org_id=ORG, labels=frozenset(labels))


async def fetch(engine: AsyncEngine, sql: str, **values: Any) -> list[dict[str, Any]]:
    async with engine.connect() as connection:
        return [dict(row) for row in (await connection.execute(text(sql), values)).mappings()]


async def job(engine: AsyncEngine, job_id: str) -> dict[str, Any]:
    return (await fetch(engine, "SELECT * FROM execution_jobs WHERE id = :id", id=job_id))[0]


async def run(engine: AsyncEngine, run_id: str) -> dict[str, Any]:
    return (await fetch(engine, "SELECT * FROM execution_runs WHERE id = :id", id=run_id))[0]


async def statuses(engine: AsyncEngine, run_: Run) -> dict[str, str]:
    rows = await fetch(
        engine,
        "SELECT job_name, status FROM execution_jobs WHERE run_id = :id ORDER BY position, id",
        id=run_.id,
    )
    return {row["job_name"]: row["status"] for row in rows}
