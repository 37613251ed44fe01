"""Runs of whole workflows, begun as every trigger begins them, and worked off by agents without sockets."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from kici.engine.labels import normalise
from kici.orchestrator.dispatch.claim import ClaimedJob, FreeAgent, claim
from kici.orchestrator.dispatch.frame import dispatch_frame
from kici.orchestrator.runs.builds import Builds
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.planning import StoredWorkflow, plan_workflow
from kici.orchestrator.runs.request import Commit, RunRequest, RunSource, StartedRun, StartPolicy
from kici.orchestrator.runs.start import start_runs
from kici.protocol.agent_v1 import JobDispatch
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.runtime.ids import uuid7
from kici.spec.events import Event
from kici.spec.lock import Inline, LabelMatcher, LockJob, LockStep, LockWorkflow, Need, Rule, SourceLocation
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import Held, report
from tests.db.execution.rows import ORG
from tests.support.postgres import Database

FILE = ".kici/workflows/ci.py"
BRANCH = ["attr", ["attr", ["arg"], "event"], "target_branch"]
ON_MAIN = Rule(label="on main", inline=Inline(expression=["compare", BRANCH, "==", "main"]))
BROKEN = Rule(label="broken", inline=Inline(expression=["index", ["arg"], "nothing"]))
IMPURE = Rule(label="asks a server")


def job(name: str, *needs: str | Need, **more: Any) -> LockJob:
    return LockJob(
        name=name,
        source=SourceLocation(file=FILE, line=3),
        runs_on=[LabelMatcher(kind="exact", value="kici:os:linux")],
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
        steps=[LockStep(name="only", source_location=SourceLocation(file=FILE, line=4))],
        **more,
    )


def generator(name: str, *needs: str | Need, index: int = 0) -> LockJob:
    return LockJob(
        type="dynamic",
        name=name,
        source=SourceLocation(file=FILE, line=9, index=index),
        needs=[n if isinstance(n, Need) else Need(name=n, run_on=["success"]) for n in needs],
    )


def workflow(*jobs: LockJob, name: str = "ci", **more: Any) -> LockWorkflow:
    return LockWorkflow(
        name=name,
        source=SourceLocation(file=FILE, export=f"#{name}"),
        content_hash="c" * 64,
        compile_schema_version=1,
        triggers=[],
        jobs=list(jobs),
        **more,
    )


def stored(lock: LockWorkflow, lockfile_hash: str | None = "d" * 64) -> StoredWorkflow:
    """With dependencies."""
    return StoredWorkflow(**msgspec.structs.asdict(lock), lockfile_hash=lockfile_hash)


def asked(lock: LockWorkflow, *, branch: str = "main", **more: Any) -> RunRequest:
    fields: dict[str, Any] = {
        "source": RunSource(
            org_id=ORG, routing_key=f"generic:{ORG}:s1", name="shop", subtype="local", provider="local"
        ),
        "commit": Commit(
            repo_identifier="acme/shop",
            repo_url="file:///srv/shop.git",
            ref=f"refs/heads/{branch}",
            branch=branch,
            sha="0" * 40,
            message="Say hello",
        ),
        "workflow": plan_workflow(lock, "0.1.0"),
        "event": Event(type="push", target_branch=branch, payload={"n": 1}),
        "trigger_event": "push",
        "decision": DeliveryDecision(
            workflow_name=lock.name, matched=True, trigger_index=0, reason="Push", run_id=None, checks=[]
        ),
        "dedup_key": uuid7(),
        "request_id": "r1",
    }
    return RunRequest(**{**fields, **more})


async def begin(db: Database, lock: LockWorkflow, **more: Any) -> StartedRun:
    (started,) = await begin_all(db, asked(lock, **more))
    return started


async def begin_all(db: Database, *requests: RunRequest) -> list[StartedRun]:
    async with db.engine.begin() as tx:
        return await start_runs(tx, requests, StartPolicy())


async def statuses(db: Database, run_id: str) -> dict[str, str]:
    found = await rows.fetch(
        db.engine,
        "SELECT job_name, status FROM execution_jobs WHERE run_id = :id ORDER BY position, id",
        id=run_id,
    )
    return {row["job_name"]: row["status"] for row in found}


async def job_rows(db: Database, run_id: str) -> dict[str, dict[str, Any]]:
    found = await rows.fetch(
        db.engine, "SELECT * FROM execution_jobs WHERE run_id = :id ORDER BY position, id", id=run_id
    )
    return {row["job_name"]: row for row in found}


class Crew:
    """Agents that take one job after another. What they were sent is kept in `sent`, by job name."""

    def __init__(self, db: Database, ex: Execution, labels: Sequence[str] = ("kici:os:linux",)) -> None:
        self.db = db
        self.ex = ex
        self.groups = Groups(ex)
        self.builds = Builds(ex)
        self.sent: dict[str, JobDispatch] = {}
        self.order: list[str] = []
        self._labels = normalise(labels)

    async def take(self) -> Held | None:
        """The next job in the queue, with an agent of its own."""
        while await self.groups.settle_all() + await self.builds.settle_all():
            pass
        agent = await rows.add_agent(self.db.engine, f"agent-{uuid7()}", self._labels)
        async with self.db.engine.begin() as tx:
            found = await claim(tx, [agent], [], ack_timeout_ms=10_000)
        if not found.jobs:
            return None
        return self._held(agent, found.jobs[0])

    def _held(self, agent: FreeAgent, claimed: ClaimedJob) -> Held:
        self.sent[claimed.job_name] = dispatch_frame(
            claimed, now_ms=1_700_000_000_000, max_log_size_bytes=1
        )
        self.order.append(claimed.job_name)
        return Held(agent, claimed.run_id, claimed.job_id, claimed.job_name, claimed.attempt)

    async def start(self) -> Held:
        held = await self.take()
        assert held is not None, "nothing is queued"
        assert await report(self.ex, held.ack(), held.job(JobStatus.RUNNING)) == []
        return held

    async def work(
        self, endings: Mapping[str, JobStatus | Mapping[str, Any]] | None = None, *, at_most: int = 100
    ) -> list[str]:
        """Works off what is queued; names in order. An ending is a status, or fields of its report."""
        for _ in range(at_most):
            held = await self.take()
            if held is None:
                break
            ending = (endings or {}).get(held.job_name, JobStatus.SUCCESS)
            fields = {"state": ending} if isinstance(ending, JobStatus) else dict(ending)
            state = fields.pop("state", JobStatus.SUCCESS)
            assert await report(self.ex, held.ack(), held.job(JobStatus.RUNNING)) == []
            assert await report(self.ex, held.job(state, **fields)) == []
        return self.order


async def completions(db: Database) -> list[dict[str, Any]]:
    """`__workflow_complete` and `__job_complete`, in order."""
    found = await rows.fetch(db.engine, "SELECT event_name, payload FROM kici_events ORDER BY id")
    return [{"event": row["event_name"], **_document(row["payload"])} for row in found]


def _document(value: Any) -> dict[str, Any]:
    return msgspec.json.decode(value) if isinstance(value, str | bytes) else value


async def told_of(db: Database, run_id: str) -> list[dict[str, Any]]:
    """Every document of the run's jobs that the Platform was told, in order."""
    found = await rows.fetch(
        db.engine, "SELECT payload::text AS payload FROM outbox WHERE key = :id ORDER BY seq", id=run_id
    )
    return [shown for row in found for shown in _document(row["payload"])["jobs"]]


async def told(db: Database) -> dict[str, dict[str, Any]]:
    """What the Platform knows last about each job, by name."""
    found = await rows.fetch(db.engine, "SELECT payload::text AS payload FROM outbox ORDER BY seq")
    jobs: dict[str, dict[str, Any]] = {}
    by_id: dict[str, str] = {}
    for row in found:
        for shown in _document(row["payload"])["jobs"]:
            jobs.pop(by_id.get(shown["jobId"], ""), None)
            by_id[shown["jobId"]] = shown["jobName"]
            jobs[shown["jobName"]] = shown
    return jobs
