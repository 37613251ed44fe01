"""`/api/v1/admin`: the operator's API, behind a bearer token with a role (§21 of the requirements).

An auditor reads; owners and admins also change. One organisation per database for now: the first one.
"""

import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, ClassVar

from litestar import Request, Response, Router, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.params import Parameter
from msgspec import Struct

from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.db.bootstrap import add_agent_token, only_org
from kici.orchestrator.http.tokens import AdminTokens, Operator
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.link.link import Link
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.views import RunQuery
from kici.orchestrator.sources.hook import HookView, hook_for
from kici.orchestrator.sources.local import LocalSources, Triggered, TriggerLocal
from kici.orchestrator.sources.service import NewSource, SourceChange, SourceView
from kici.protocol.dashboard_v1 import (
    AgentView,
    CancelResult,
    DeliveryList,
    DeliveryView,
    DiagnosticsView,
    JobProjection,
    LogPage,
    RegistrationList,
    RunDetailView,
    RunList,
)
from kici.protocol.platform_v1 import Actor
from kici.runtime.database import AsyncEngine, text
from kici.spec.errors import Conflict, NotFound


class NoOrganisation(Conflict):
    code: ClassVar[str] = "no_organisation"


class TokenNotFound(NotFound):
    code: ClassVar[str] = "token_not_found"


@dataclass(frozen=True, slots=True)
class Admin:
    """What the routes act on."""

    engine: AsyncEngine
    tokens: AdminTokens
    ingress: Ingress
    local: LocalSources
    runs: RunService
    hub: Hub
    logs: LogService
    link: Link | None
    public_url: str

    async def org_id(self) -> str:
        async with self.engine.connect() as connection:
            org_id = await only_org(connection)
        if org_id is None:
            raise NoOrganisation("no organisation is known here yet: connect to a Platform first")
        return org_id


class SourceAnswer(Struct, frozen=True, kw_only=True, rename="camel"):
    """A source and where its deliveries go; None while the Platform has not said."""

    source: SourceView
    direct_url: str
    platform_url: str | None


class SourceAnswers(Struct, frozen=True, kw_only=True, rename="camel"):
    sources: list[SourceView]


class CancelBody(Struct, frozen=True, kw_only=True, rename="camel"):
    force: bool = False


class RegistrationSwitch(Struct, frozen=True, kw_only=True, rename="camel"):
    disabled: bool


class Pending(Struct, frozen=True, kw_only=True, rename="camel"):
    pending: int


class AgentTokenView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    display: str
    kind: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewAgentToken(Struct, frozen=True, kw_only=True, rename="camel"):
    """`token` is shown this once."""

    id: str
    token: str


_TOKENS = text(
    "SELECT id, display, kind, created_at, last_used_at, revoked_at FROM agent_tokens"
    " WHERE org_id = :org_id ORDER BY created_at"
)
_REVOKE = text(
    "UPDATE agent_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE org_id = :org_id AND id::text = :id"
    " RETURNING id"
)

Handle = Annotated[str, Parameter(description="Name, id or routing key")]


def admin_router(admin: Admin) -> Router:
    """All routes; every one asks for the operator first."""

    async def authorize(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        write = connection.scope.get("method") not in {"GET", "HEAD"}
        connection.state.operator = await admin.tokens.require(
            connection.headers.get("authorization"), write=write
        )

    def answer(source: SourceView) -> SourceAnswer:
        return SourceAnswer(
            source=source,
            direct_url=f"{admin.public_url}{source.webhook_path}",
            platform_url=admin.link.webhook_url(source.routing_key) if admin.link else None,
        )

    # ── sources ──────────────────────────────────────────────────────────────────────────────────

    @get("/sources")
    async def list_sources() -> SourceAnswers:
        return SourceAnswers(sources=(await admin.ingress.sources.list(await admin.org_id())).sources)

    @post("/sources")
    async def add_source(data: NewSource) -> SourceAnswer:
        return answer(await admin.ingress.sources.add(await admin.org_id(), data))

    @get("/sources/{handle:str}")
    async def get_source(handle: Handle) -> SourceAnswer:
        return answer(await admin.ingress.sources.get(await admin.org_id(), handle))

    @patch("/sources/{handle:str}")
    async def change_source(handle: Handle, data: SourceChange) -> SourceAnswer:
        return answer(await admin.ingress.sources.change(await admin.org_id(), handle, data))

    @delete("/sources/{handle:str}")
    async def remove_source(handle: Handle, hard: bool = False) -> None:
        await admin.ingress.sources.remove(await admin.org_id(), handle, hard=hard)

    @post("/sources/{handle:str}/trigger", status_code=202)
    async def trigger_source(handle: Handle, data: TriggerLocal) -> Triggered:
        view = await admin.ingress.sources.get(await admin.org_id(), handle)
        source = admin.ingress.index.by_routing_key(view.routing_key)
        if source is None:
            raise Conflict(f"source {view.name!r} is disabled")
        return await admin.local.trigger(source, data)

    @get("/sources/{handle:str}/hook")
    async def source_hook(handle: Handle) -> HookView:
        view = await admin.ingress.sources.get(await admin.org_id(), handle)
        return await hook_for(view, base_url=admin.public_url)

    # ── deliveries and registrations ─────────────────────────────────────────────────────────────

    @get("/deliveries")
    async def list_deliveries(limit: int = 50, before: str | None = None) -> DeliveryList:
        return await admin.ingress.deliveries.deliveries(await admin.org_id(), limit=limit, before=before)

    @get("/deliveries/pending")
    async def pending_deliveries() -> Pending:
        return Pending(pending=await admin.ingress.deliveries.pending())

    @get("/deliveries/{delivery_id:str}")
    async def get_delivery(delivery_id: str) -> DeliveryView:
        return await admin.ingress.deliveries.delivery(await admin.org_id(), delivery_id)

    @get("/registrations")
    async def list_registrations() -> RegistrationList:
        return await admin.ingress.registrations.listing(await admin.org_id())

    @patch("/registrations/{registration_id:str}", status_code=204)
    async def switch_registration(registration_id: str, data: RegistrationSwitch) -> None:
        await admin.ingress.registrations.switch(
            await admin.org_id(), registration_id, disabled=data.disabled
        )

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────

    @get("/runs")
    async def list_runs(
        status: list[str] | None = None,
        workflow: str | None = None,
        repository: str | None = None,
        branch: str | None = None,
        page: int = 1,
        page_size: Annotated[int, Parameter(query="pageSize", ge=1, le=100)] = 20,
    ) -> RunList:
        return await admin.runs.list_runs(
            RunQuery(
                statuses=status or (),
                workflow_name=workflow,
                repo_identifier=repository,
                branch=branch,
                page=page,
                page_size=page_size,
            )
        )

    @get("/runs/{run_id:str}")
    async def get_run(run_id: str) -> RunDetailView:
        return await admin.runs.detail(run_id)

    @post("/runs/{run_id:str}/cancel", status_code=202)
    async def cancel_run(request: Request[Any, Any, Any], run_id: str, data: CancelBody) -> CancelResult:
        operator: Operator = request.state.operator
        actor = Actor(kind="platform_operator", id=operator.name, display_name=operator.name)
        return await admin.runs.cancel(run_id, actor, force=data.force)

    @get("/runs/{run_id:str}/jobs/{job_id:str}/steps/{step_index:int}/logs")
    async def read_log(
        run_id: str,
        job_id: str,
        step_index: int,
        offset: int = 0,
        limit: Annotated[int, Parameter(ge=1, le=20_000)] = 500,
        tail: int | None = None,
    ) -> LogPage:
        return await admin.logs.read(
            await admin.org_id(), run_id, job_id, step_index, offset=offset, limit=limit, tail=tail
        )

    # ── agents ───────────────────────────────────────────────────────────────────────────────────

    @get("/agents")
    async def list_agents() -> list[AgentView]:
        return await admin.runs.agents()

    @get("/agent-tokens")
    async def list_agent_tokens() -> list[AgentTokenView]:
        async with admin.engine.connect() as connection:
            rows = (await connection.execute(_TOKENS, {"org_id": await admin.org_id()})).mappings()
            return [AgentTokenView(**row) for row in rows]

    @post("/agent-tokens")
    async def add_token() -> NewAgentToken:
        token = f"kat_{secrets.token_hex(32)}"
        org_id = await admin.org_id()
        async with admin.engine.begin() as tx:
            token_id = await add_agent_token(tx, org_id, token)
        return NewAgentToken(id=token_id, token=token)

    @delete("/agent-tokens/{token_id:str}")
    async def revoke_token(token_id: str) -> None:
        org_id = await admin.org_id()
        async with admin.engine.begin() as tx:
            found = await tx.scalar(_REVOKE, {"org_id": org_id, "id": token_id})
        if found is None:
            raise TokenNotFound(f"there is no agent token {token_id}")
        admin.hub.close_tokens({found})

    @get("/queue")
    async def list_queue() -> list[JobProjection]:
        return await admin.runs.queue()

    @get("/diagnostics")
    async def diagnostics() -> DiagnosticsView:
        return await admin.runs.diagnostics()

    @get("/token")
    async def whoami(request: Request[Any, Any, Any]) -> Response[dict[str, str]]:
        operator: Operator = request.state.operator
        return Response({"name": operator.name, "role": operator.role})

    return Router(
        path="/api/v1/admin",
        route_handlers=[
            list_sources,
            add_source,
            get_source,
            change_source,
            remove_source,
            trigger_source,
            source_hook,
            list_deliveries,
            pending_deliveries,
            get_delivery,
            list_registrations,
            switch_registration,
            list_runs,
            get_run,
            cancel_run,
            read_log,
            list_agents,
            list_agent_tokens,
            add_token,
            revoke_token,
            list_queue,
            diagnostics,
            whoami,
        ],
        guards=[authorize],
    )
