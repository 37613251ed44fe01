"""Answers about runs: lists from the projection, the rest from the orchestrator that owns the run."""

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from kici.platform.errors import OrchestratorOffline, OrchestratorRefused, OrchestratorTimeout
from kici.platform.link import rpc
from kici.platform.link.connection import BytesAnswer
from kici.platform.link.rpc import RpcClient
from kici.platform.orgs.service import InOrg
from kici.platform.relay import deliveries
from kici.platform.runs import queries
from kici.platform.runs.views import RunQuery, RunView
from kici.protocol.dashboard_v1 import (
    BranchCancelResult,
    CancelResult,
    DeliveryList,
    DiagnosticsView,
    JobView,
    LogPage,
    LogSearchResult,
    NewRun,
    PayloadView,
    RegistrationList,
    RunDetailView,
    RunFilters,
    RunGroupList,
    RunList,
)
from kici.protocol.platform_v1 import Actor
from kici.runtime.database import AsyncEngine
from kici.spec.errors import InvalidInput, NotFound

RAW_PAGE_BYTES = 1 << 20


def actor_of(org: InOrg) -> Actor:
    account = org.caller.account
    return Actor(kind="user", id=account.user_id, display_name=account.acting_name)


class RunService:
    def __init__(self, engine: AsyncEngine, rpc_client: RpcClient) -> None:
        self._engine = engine
        self._rpc = rpc_client

    # ── lists ────────────────────────────────────────────────────────────────────────────────────

    async def page(self, org_id: str, query: RunQuery) -> RunList:
        async with self._engine.connect() as tx:
            await queries.plan_for_values(tx)
            found = await queries.search(tx, org_id, query.text) if query.text else None
            condition = queries.where(org_id, query, found)
            matches = await queries.count(tx, condition)
            runs = await queries.page(tx, condition, query, matches=matches) if matches else []
        capped = matches > queries.COUNT_CAP or (found is not None and len(found) >= queries.SEARCH_CAP)
        seen = (query.page - 1) * query.page_size + len(runs)
        return RunList(
            runs=runs,
            total=min(matches, queries.COUNT_CAP),
            total_is_capped=capped,
            page=query.page,
            page_size=query.page_size,
            has_more=len(runs) == query.page_size and (matches > queries.COUNT_CAP or seen < matches),
        )

    async def by_commit(self, org_id: str, query: RunQuery) -> RunGroupList:
        async with self._engine.connect() as tx:
            await queries.plan_for_values(tx)
            found = await queries.search(tx, org_id, query.text) if query.text else None
            condition = queries.where(org_id, query, found)
            groups, total = ([], 0) if found == [] else await queries.commits(tx, condition, query)
        return RunGroupList(
            groups=groups,
            total=total,
            page=query.page,
            page_size=query.page_size,
            has_more=(query.page - 1) * query.page_size + len(groups) < total,
        )

    async def filters(self, org_id: str) -> RunFilters:
        async with self._engine.connect() as tx:
            return await queries.filters(tx, org_id)

    # ── one run ──────────────────────────────────────────────────────────────────────────────────

    async def get(self, org_id: str, run_id: str) -> RunView:
        async with self._engine.connect() as tx:
            run = await queries.get_run(tx, org_id, run_id)
        if run is None:
            raise NotFound("no such run")
        return RunView(run=run)

    async def cluster_of(self, org_id: str, run_id: str) -> str | None:
        async with self._engine.connect() as tx:
            return await queries.get_cluster(tx, org_id, run_id)

    async def _about_run(
        self, method: rpc.Method[rpc.ResultT], org: InOrg, run_id: str, params: dict[str, Any]
    ) -> rpc.ResultT:
        if not queries.is_uuid(run_id):
            raise NotFound("no such run")
        cluster_name = await self.cluster_of(org.org_id, run_id)
        return await self._rpc.call(
            method, org.org_id, actor_of(org), {"runId": run_id, **params}, cluster_name=cluster_name
        )

    async def detail(self, org: InOrg, run_id: str) -> RunDetailView:
        """The orchestrator's answer, or what the projection holds while it is away (PD-41)."""
        try:
            return await self._about_run(rpc.RUN_DETAIL, org, run_id, {})
        except (OrchestratorOffline, OrchestratorTimeout):
            pass
        except OrchestratorRefused as refused:
            if refused.status != NotFound.status:
                raise
        async with self._engine.connect() as tx:
            run = await queries.get_run(tx, org.org_id, run_id)
            if run is None:
                raise NotFound("no such run")
            parts = await queries.get_parts(tx, org.org_id, run_id)
        jobs = [
            JobView(
                **{name: getattr(job, name) for name in job.__struct_fields__},
                description="",
                place=None,
                step_places=[],
                steps=sorted(
                    (s for s in parts.steps if s.job_id == job.job_id and s.attempt == job.attempt),
                    key=lambda step: step.step_index,
                ),
                context=None,
            )
            for job in sorted(parts.jobs, key=lambda job: (job.position, job.job_name))
        ]
        return RunDetailView(run=run, jobs=jobs, events=parts.events, source="projection")

    async def payload(self, org: InOrg, run_id: str) -> PayloadView:
        return await self._about_run(rpc.RUN_PAYLOAD, org, run_id, {})

    async def cancel(self, org: InOrg, run_id: str, *, force: bool) -> CancelResult:
        return await self._about_run(rpc.RUN_CANCEL, org, run_id, {"force": force})

    async def rerun(self, org: InOrg, run_id: str, *, mode: str) -> NewRun:
        return await self._about_run(rpc.RUN_RERUN, org, run_id, {"mode": mode})

    async def cancel_branch(self, org: InOrg, branch: str) -> BranchCancelResult:
        """On every orchestrator of the org: a branch may have runs on several."""
        branch = branch.strip()
        if not branch:
            raise InvalidInput("branch is empty")
        params = {"branch": branch}
        answers = [
            await self._rpc.call(
                rpc.RUN_CANCEL_BRANCH, org.org_id, actor_of(org), params, cluster_name=cluster_name
            )
            for cluster_name in self._rpc.clusters(org.org_id) or [None]
        ]
        return BranchCancelResult(cancelled_runs=sum(answer.cancelled_runs for answer in answers))

    async def run_now(self, org: InOrg, registration_id: str, inputs: dict[str, Any]) -> NewRun:
        params = {"registrationId": registration_id, "inputs": inputs}
        return await self._rpc.call(rpc.REGISTRATION_RUN, org.org_id, actor_of(org), params)

    # ── logs ─────────────────────────────────────────────────────────────────────────────────────

    async def logs(
        self,
        org: InOrg,
        run_id: str,
        job_id: str,
        step_index: int,
        *,
        offset: int,
        limit: int,
        tail: int | None,
    ) -> LogPage:
        params = {"jobId": job_id, "stepIndex": step_index, "offset": offset, "limit": limit, "tail": tail}
        return await self._about_run(rpc.LOGS_READ, org, run_id, params)

    async def search_logs(
        self, org: InOrg, run_id: str, job_id: str, step_index: int, *, text: str, regex: bool, limit: int
    ) -> LogSearchResult:
        params = {"jobId": job_id, "stepIndex": step_index, "query": text, "regex": regex, "limit": limit}
        return await self._about_run(rpc.LOGS_SEARCH, org, run_id, params)

    async def raw_logs(self, org: InOrg, run_id: str, job_id: str, step_index: int) -> AsyncIterator[bytes]:
        """The first page is there before this returns, so that a refusal still is an HTTP status."""
        if not queries.is_uuid(run_id):
            raise NotFound("no such run")
        cluster_name = await self.cluster_of(org.org_id, run_id)
        actor = actor_of(org)

        async def read(from_byte: int) -> BytesAnswer:
            params = {
                "runId": run_id,
                "jobId": job_id,
                "stepIndex": step_index,
                "fromByte": from_byte,
                "maxBytes": RAW_PAGE_BYTES,
            }
            return await self._rpc.call_bytes(
                rpc.LOGS_RAW, org.org_id, actor, params, cluster_name=cluster_name
            )

        first = await read(0)

        async def pages() -> AsyncIterator[bytes]:
            answer = first
            while True:
                place = msgspec.convert(answer.meta, _RawPlace)
                if answer.data:
                    yield bytes(answer.data)
                if place.done:
                    return
                answer = await read(place.next_byte)

        return pages()

    # ── the rest of the orchestrator's world ─────────────────────────────────────────────────────

    async def registrations(self, org: InOrg) -> RegistrationList:
        return await self._rpc.call(rpc.REGISTRATIONS, org.org_id, actor_of(org), {})

    async def deliveries(self, org: InOrg, *, limit: int, before: str | None) -> DeliveryList:
        """While the orchestrator is away: what came in here, without decisions."""
        if not deliveries.is_own_cursor(before):
            try:
                params = {"limit": limit, "before": before}
                return await self._rpc.call(rpc.DELIVERIES, org.org_id, actor_of(org), params)
            except (OrchestratorOffline, OrchestratorTimeout):
                before = None
        async with self._engine.connect() as tx:
            return await deliveries.listing(tx, org.org_id, limit=limit, before=before)

    async def diagnostics(self, org: InOrg) -> DiagnosticsView:
        return await self._rpc.call(rpc.DIAGNOSTICS, org.org_id, actor_of(org), {})


class _RawPlace(msgspec.Struct, frozen=True, rename="camel"):
    next_byte: int
    done: bool
