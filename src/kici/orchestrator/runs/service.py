"""What people and their tools ask about runs: routes, RPC and `kici-admin` call this."""

from typing import ClassVar

from kici.orchestrator.runs import views
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.views import RunNotFound, RunQuery, checked
from kici.protocol.dashboard_v1 import (
    AgentView,
    CancelResult,
    DiagnosticsView,
    JobProjection,
    RunDetailView,
    RunList,
)
from kici.protocol.platform_v1 import Actor
from kici.runtime.buildinfo import build_info
from kici.runtime.clock import Clock
from kici.runtime.database import text
from kici.spec.errors import Conflict


class RunEnded(Conflict):
    code: ClassVar[str] = "run_ended"


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

    async def diagnostics(self, *, org_id: str | None = None) -> DiagnosticsView:
        async with self._execution.engine.connect() as tx:
            depths = await views.depths(tx)
            agents = await views.agents(tx, org_id=org_id)
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
        )
