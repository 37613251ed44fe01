"""What people and their tools ask about runs: routes, RPC and `kici-admin` call this."""

from typing import ClassVar

from kici.orchestrator.runs import views
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.request import StartPolicy
from kici.orchestrator.runs.rerun import Mode, rerun
from kici.orchestrator.runs.shortage import shortages
from kici.orchestrator.runs.views import RunNotFound, RunQuery, checked
from kici.protocol.dashboard_v1 import (
    AgentView,
    BranchCancelResult,
    CancelResult,
    DiagnosticsView,
    JobProjection,
    NewRun,
    RunDetailView,
    RunList,
)
from kici.protocol.platform_v1 import Actor
from kici.runtime.buildinfo import build_info
from kici.runtime.clock import Clock
from kici.runtime.database import text
from kici.spec.errors import Conflict, InvalidInput
from kici.spec.states import RUN_TERMINAL, RunStatus


class RunEnded(Conflict):
    code: ClassVar[str] = "run_ended"


_AT_ONCE = 100
_OF_BRANCH = text("""
    SELECT id FROM execution_runs
    WHERE org_id = :org_id AND branch = :branch AND completed_at IS NULL AND status <> 'cancelling'
    ORDER BY id LIMIT :limit
""")
_EXISTS = text("SELECT status, org_id FROM execution_runs WHERE id = :run_id")


class RunService:
    """`org_id` None means any: for the operator. Times out with the statement limit of the engine."""

    def __init__(self, execution: Execution, clock: Clock, *, cluster_name: str) -> None:
        self._execution = execution
        self._clock = clock
        self._cluster_name = cluster_name
        self._started_ms = clock.now_ms()

    async def detail(self, run_id: str, *, org_id: str | None = None) -> RunDetailView:
        """Raises RunNotFound."""
        async with self._execution.engine.connect() as tx:
            return await views.run_detail(tx, run_id, org_id)

    async def list_runs(self, query: RunQuery) -> RunList:
        async with self._execution.engine.connect() as tx:
            return await views.run_list(tx, query)

    async def queue(self, *, org_id: str | None = None, limit: int = 200) -> list[JobProjection]:
        async with self._execution.engine.connect() as tx:
            return await views.queue(tx, org_id=org_id, limit=limit)

    async def agents(self, *, org_id: str | None = None) -> list[AgentView]:
        async with self._execution.engine.connect() as tx:
            return await views.agents(tx, org_id=org_id)

    async def cancel(
        self, run_id: str, actor: Actor, *, force: bool = False, org_id: str | None = None
    ) -> CancelResult:
        """Committed when this returns; agents are told at once and again whenever they come back (OR-170…172).
        Asking twice is asking with force. Raises RunNotFound, RunEnded."""
        run_id = checked(run_id)
        who = actor.display_name or actor.id
        async with self._execution.change() as change:
            if org_id is not None:
                owner = (await change.tx.execute(_EXISTS, {"run_id": run_id})).one_or_none()
                if owner is None or owner[1] != org_id:
                    raise RunNotFound(f"no run {run_id}")
            outcomes = await cancel_runs(
                change, {run_id: Request(reason=f"cancelled by {who}", by=who, force=force)}
            )
            run = change.runs.get(run_id)
        if run is None:
            raise RunNotFound(f"no run {run_id}")
        if run_id not in outcomes:
            raise RunEnded(f"the run has already ended: {run.status}")
        outcome = outcomes[run_id]
        return CancelResult(agents_notified=outcome.stopping, pending_cancelled=outcome.ended)

    async def cancel_branch(self, branch: str, actor: Actor, *, org_id: str) -> BranchCancelResult:
        """All runs of a branch that have not ended, gracefully; those that stop already are left to it
        (OR-174). Raises InvalidInput."""
        if not branch:
            raise InvalidInput("branch is empty")
        who = actor.display_name or actor.id
        cancelled = 0
        while True:
            async with self._execution.change() as change:
                rows = await change.tx.execute(
                    _OF_BRANCH, {"org_id": org_id, "branch": branch, "limit": _AT_ONCE}
                )
                wanted = list(rows.scalars())
                await change.lock_runs(wanted)
                active = [
                    run_id
                    for run_id in wanted
                    if change.runs[run_id].status not in {*RUN_TERMINAL, RunStatus.CANCELLING}
                ]
                reason = f"cancelled by {who}, with branch {branch}"
                outcomes = await cancel_runs(
                    change, {run_id: Request(reason=reason, by=who) for run_id in active}
                )
                cancelled += len(outcomes)
            if len(wanted) < _AT_ONCE:
                return BranchCancelResult(cancelled_runs=cancelled)

    async def rerun(
        self, run_id: str, actor: Actor, *, mode: Mode = "all", org_id: str | None = None
    ) -> NewRun:
        """Raises RunNotFound and what `runs.rerun` says."""
        run_id = checked(run_id)
        limits = self._execution.limits
        policy = StartPolicy(
            queue_max_depth=limits.queue_max_depth,
            queue_timeout_ms=limits.queue_timeout_ms,
            concurrency_wait_timeout_ms=limits.concurrency_wait_timeout_ms,
            cache_build_timeout_ms=limits.cache_build_timeout_ms,
        )
        async with self._execution.change() as change:
            new_run_id = await rerun(change, run_id, mode, actor, policy, org_id=org_id)
        return NewRun(new_run_id=new_run_id)

    async def diagnostics(self, *, org_id: str | None = None) -> DiagnosticsView:
        async with self._execution.engine.connect() as tx:
            depths = await views.depths(tx)
            agents = await views.agents(tx, org_id=org_id)
            lacking = await shortages(tx, org_id=org_id)
        return DiagnosticsView(
            instance_id=self._execution.instance_id,
            cluster_name=self._cluster_name,
            version=build_info().version,
            uptime_seconds=(self._clock.now_ms() - self._started_ms) // 1000,
            agents=agents,
            queued_jobs=depths.queued_jobs,
            running_jobs=depths.running_jobs,
            inbox_depth=depths.inbox,
            outbox_depth=depths.outbox,
            shortages=lacking,
        )
