"""Remote runs: choose the cluster, pass on what the CLI sends, read back what the run does (AU-123)."""

from typing import Any

import msgspec

from kici.platform import audit
from kici.platform.errors import OrchestratorOffline, Unprocessable
from kici.platform.link import rpc
from kici.platform.link.connection import Connections
from kici.platform.link.rpc import RpcClient
from kici.platform.orgs.service import InOrg
from kici.platform.orgs.views import CapabilitiesView
from kici.platform.people.service import with_label
from kici.platform.remote.views import RemoteCancelled, RemoteJobView, RemoteLogs, RemoteRunView
from kici.platform.runs.service import RunService, actor_of
from kici.protocol.dashboard_v1 import JobView, RunDetailView, StepProjection
from kici.protocol.remote_v1 import (
    BaseBody,
    BaseView,
    RemoteTriggerBody,
    RemoteTriggered,
    UploadBody,
    UploadView,
)
from kici.runtime.buildinfo import build_info
from kici.runtime.database import AsyncEngine
from kici.spec.ids import OUTSIDE_STEP
from kici.spec.states import JOB_TERMINAL, RUN_TERMINAL, STEP_TERMINAL, StepStatus

PAGE_LINES = 5_000


class RemoteService:
    def __init__(
        self, engine: AsyncEngine, connections: Connections, rpc_client: RpcClient, runs: RunService
    ) -> None:
        self._engine = engine
        self._connections = connections
        self._rpc = rpc_client
        self._runs = runs

    # ── which cluster ────────────────────────────────────────────────────────────────────────────

    def choose(self, org_id: str, wanted: str | None, default: str | None) -> str:
        """The wanted one, or the saved default, or the only one. Raises Unprocessable `no_cluster` or
        `ambiguous_cluster` with the names to choose from."""
        clusters = self._rpc.clusters(org_id)
        details = {"clusters": clusters}
        known = ", ".join(clusters) or "none is connected"
        if wanted:
            if wanted in clusters:
                return wanted
            message = f"no orchestrator of the cluster {wanted!r} is connected: {known}"
            raise Unprocessable(message, code="no_cluster", details=details)
        if default and default in clusters:
            return default
        if not clusters:
            message = "no orchestrator of this organization is connected"
            raise Unprocessable(message, code="no_cluster", details=details)
        if len(clusters) > 1:
            message = f"there are several clusters: {known}. Choose one with --orchestrator"
            raise Unprocessable(message, code="ambiguous_cluster", details=details)
        return clusters[0]

    def capabilities(self, org_id: str, cluster_name: str | None) -> CapabilitiesView:
        """Of the named cluster, or of the one that answers for the org. Raises OrchestratorOffline."""
        connection = self._connections.for_run(org_id, cluster_name)
        if connection is None or (
            cluster_name is not None and connection.hello.cluster_name != cluster_name
        ):
            raise OrchestratorOffline
        return CapabilitiesView(
            cluster_name=connection.hello.cluster_name,
            orch_version=connection.hello.version,
            platform_version=build_info().version,
            supported_dashboard_requests=sorted(connection.hello.methods),
        )

    # ── starting ─────────────────────────────────────────────────────────────────────────────────

    async def find_base(self, org: InOrg, cluster_name: str, body: BaseBody) -> BaseView:
        return await self._ask(rpc.REMOTE_BASE, org, cluster_name, body)

    async def begin_upload(self, org: InOrg, cluster_name: str, body: UploadBody) -> UploadView:
        return await self._ask(rpc.REMOTE_UPLOAD, org, cluster_name, body)

    async def trigger(self, org: InOrg, cluster_name: str, body: RemoteTriggerBody) -> RemoteTriggered:
        """Raises Unprocessable with the reason of a rejection."""
        answer = await self._ask(rpc.REMOTE_TRIGGER, org, cluster_name, body)
        if answer.status == "rejected":
            raise Unprocessable(
                answer.message or "the orchestrator rejected this run",
                code=answer.reason or "rejected",
                details={"status": "rejected", "reason": answer.reason},
            )
        async with self._engine.begin() as tx:
            for run in answer.runs:
                await audit.record(
                    tx,
                    action="remote_run.start",
                    target=("run", run.run_id),
                    actor=("user", org.caller.account.user_id),
                    org_id=org.org_id,
                    details=with_label(
                        org.caller.account, {"workflow": run.workflow_name, "cluster": cluster_name}
                    ),
                    ip=org.caller.ip,
                    request_id=org.caller.request_id,
                )
        return answer

    async def _ask(
        self, method: rpc.Method[rpc.ResultT], org: InOrg, cluster_name: str, body: msgspec.Struct
    ) -> rpc.ResultT:
        params: dict[str, Any] = msgspec.to_builtins(body)
        return await self._rpc.call(method, org.org_id, actor_of(org), params, cluster_name=cluster_name)

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    async def run(self, org: InOrg, run_id: str) -> RemoteRunView:
        detail = await self._runs.detail(org, run_id)
        return RemoteRunView(
            run_id=run_id,
            workflow_name=detail.run.workflow_name,
            status=detail.run.status,
            failure_reason=detail.run.failure_reason,
            jobs=[_job(job) for job in detail.jobs],
            done=detail.run.status in RUN_TERMINAL,
        )

    async def logs(self, org: InOrg, run_id: str, cursor: int) -> RemoteLogs:
        """All jobs one behind the other and in each its steps, in the order in which they began. What goes on
        holds back what began after it, so that a cursor means the same lines for ever."""
        detail = await self._runs.detail(org, run_id)
        skip, lines = cursor, list[str]()
        for job in _in_order(detail):
            for step in _steps_in_order(job):
                size = step.log_lines if step.status in STEP_TERMINAL else None
                if size is not None and skip >= size:
                    skip -= size
                    continue
                room = PAGE_LINES - len(lines)
                if room <= 0:
                    return RemoteLogs(lines=lines, next_cursor=cursor + len(lines), done=False)
                page = await self._runs.logs(
                    org, run_id, job.job_id, step.step_index, offset=skip, limit=room, tail=None
                )
                fresh = page.lines
                end = skip + len(fresh)
                if not page.complete and fresh and end >= page.total_lines:
                    fresh = fresh[:-1]  # it may be half a line
                lines += fresh
                if not page.complete or end < page.total_lines:
                    return RemoteLogs(lines=lines, next_cursor=cursor + len(lines), done=False)
                skip = max(0, skip - page.total_lines)
            if job.status not in JOB_TERMINAL:
                return RemoteLogs(lines=lines, next_cursor=cursor + len(lines), done=False)
        return RemoteLogs(
            lines=lines, next_cursor=cursor + len(lines), done=detail.run.status in RUN_TERMINAL
        )

    async def cancel(self, org: InOrg, run_id: str) -> RemoteCancelled:
        await self._runs.cancel(org, run_id, force=False)
        return RemoteCancelled(cancelled=True)


def _job(job: JobView) -> RemoteJobView:
    failed = next((step for step in job.steps if step.status == StepStatus.FAILED), None)
    return RemoteJobView(
        job_id=job.job_id,
        job_name=job.job_name,
        status=job.status,
        exit_code=None if failed is None else failed.exit_code,
        error_message=job.error_message,
    )


def _in_order(detail: RunDetailView) -> list[JobView]:
    """Jobs that began, in an order that later ones never change (clocks of agents being alike)."""
    return sorted(
        (job for job in detail.jobs if job.started_at is not None),
        key=lambda job: (job.started_at, job.position, job.job_id),
    )


def _steps_in_order(job: JobView) -> list[StepProjection]:
    """The same of the rows that have or had a log. What was printed outside of steps goes on until the job
    ends, and so comes last."""
    over = job.status in JOB_TERMINAL
    return sorted(
        (
            step
            for step in job.steps
            if step.started_at is not None and (over or step.step_index != OUTSIDE_STEP)
        ),
        key=lambda step: (step.step_index == OUTSIDE_STEP, step.started_at, step.step_index),
    )
