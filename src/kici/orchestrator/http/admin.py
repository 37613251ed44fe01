"""`/api/v1/admin/*`: what operators and `kici-admin` do (§21 of the orchestrator's requirements).

Every route needs an admin token; an auditor's only reads. Handlers translate and call services.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeVar, cast

import msgspec
from litestar import Request, Response, Router, delete, get, patch, post
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from kici.orchestrator.http.events import event_routes
from kici.orchestrator.http.tokens import AdminTokens, Operator
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.orgs import AgentTokenCreated, AgentTokenView, Organisation
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.views import RunQuery
from kici.orchestrator.sources.hook import HookView, hook_for
from kici.orchestrator.sources.local import LocalSources, Triggered, TriggerLocal
from kici.orchestrator.sources.service import (
    NewSource,
    SourceChange,
    SourceList,
    SourceNotFound,
    SourceView,
)
from kici.protocol.dashboard_v1 import (
    AgentView,
    CancelResult,
    DeliveryList,
    DeliveryView,
    DiagnosticsView,
    JobProjection,
    LogPage,
    PayloadView,
    RegistrationList,
    RunDetailView,
    RunList,
)
from kici.protocol.platform_v1 import Actor
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput
from kici.spec.states import known_run_words

log = get_logger(__name__)

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]


class Services(Struct, frozen=True, kw_only=True):
    """What the routes call. `public_url`: where this machine reaches us; `platform_url` of a routing key:
    where the Platform takes its deliveries, when that is known."""

    organisation: Organisation
    tokens: AdminTokens
    ingress: Ingress
    local: LocalSources
    runs: RunService
    logs: LogService
    public_url: str
    serves_webhooks: bool
    platform_url: Callable[[str], str | None]


class SourceDetail(Struct, frozen=True, kw_only=True, rename="camel"):
    """With the URLs that senders post to; null where nobody listens, or not yet."""

    source: SourceView
    direct_url: str | None
    platform_url: str | None


class RunListParams(Struct, frozen=True, kw_only=True, rename="camel"):
    """`status` may be repeated, or hold several separated by commas."""

    workflow: str | None = None
    repository: str | None = None
    branch: str | None = None
    since: datetime | None = None
    page: int = 1
    page_size: int = 20


class PageParams(Struct, frozen=True, kw_only=True, rename="camel"):
    limit: int = 50
    before: str | None = None


class LogParams(Struct, frozen=True, kw_only=True, rename="camel"):
    offset: int = 0
    limit: int = 1000
    tail: int | None = None
    attempt: int | None = None


class RemoveParams(Struct, frozen=True, kw_only=True, rename="camel"):
    hard: bool = False


class CancelBody(Struct, frozen=True, kw_only=True, rename="camel"):
    force: bool = False


class AgentTokenBody(Struct, frozen=True, kw_only=True, rename="camel"):
    """`labels`: the only labels that agents with this token may have besides `kici:` ones; null: any."""

    labels: list[str] | None = None


class PendingView(Struct, frozen=True, kw_only=True, rename="camel"):
    pending: int


def _query(request: AnyRequest, kind: type[T]) -> T:
    """Query parameters as a Struct. Raises InvalidInput."""
    try:
        return msgspec.convert(dict(request.query_params.items()), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"query: {error}") from error


async def _body(request: AnyRequest, kind: Any) -> Any:
    """The JSON body as `kind`; an absent one counts as `{}`. Raises InvalidInput."""
    raw = await request.body()
    try:
        return msgspec.json.decode(raw or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"body: {error}") from error


def admin_router(services: Services) -> Router:
    ingress, runs, organisation = services.ingress, services.runs, services.organisation

    async def guard(connection: ASGIConnection[Any, Any, Any, Any], _handler: BaseRouteHandler) -> None:
        write = cast("dict[str, Any]", connection.scope)["method"] not in {"GET", "HEAD"}
        operator = await services.tokens.require(connection.headers.get("authorization"), write=write)
        connection.state["operator"] = operator
        if write:
            log.info("admin.changed", operator=operator.name, path=connection.scope["path"])

    def detail(view: SourceView) -> SourceDetail:
        return SourceDetail(
            source=view,
            direct_url=f"{services.public_url}{view.webhook_path}" if services.serves_webhooks else None,
            platform_url=services.platform_url(view.routing_key),
        )

    # ── sources ──────────────────────────────────────────────────────────────────────────────────

    @get("/sources")
    async def sources() -> SourceList:
        return await ingress.sources.list(await organisation.id())

    @post("/sources")
    async def add_source(request: AnyRequest) -> SourceDetail:
        new: NewSource = await _body(request, NewSource)
        return detail(await ingress.sources.add(await organisation.id(), new))

    @get("/sources/{handle:str}")
    async def source(handle: str) -> SourceDetail:
        return detail(await ingress.sources.get(await organisation.id(), handle))

    @patch("/sources/{handle:str}")
    async def change_source(request: AnyRequest, handle: str) -> SourceDetail:
        change: SourceChange = await _body(request, SourceChange)
        return detail(await ingress.sources.change(await organisation.id(), handle, change))

    @delete("/sources/{handle:str}")
    async def remove_source(request: AnyRequest, handle: str) -> None:
        params = _query(request, RemoveParams)
        await ingress.sources.remove(await organisation.id(), handle, hard=params.hard)

    @post("/sources/{handle:str}/trigger", status_code=202)
    async def trigger_source(request: AnyRequest, handle: str) -> Response[Triggered]:
        asked: TriggerLocal = await _body(request, TriggerLocal)
        org_id = await organisation.id()
        found = ingress.index.by_name(org_id, handle)
        if found is None:
            view = await ingress.sources.get(org_id, handle)
            found = ingress.index.by_routing_key(view.routing_key)
        if found is None:
            raise SourceNotFound(f"source {handle!r} is disabled")
        triggered = await services.local.trigger(found, asked)
        return Response(triggered, status_code=200 if triggered.duplicate else 202)

    @get("/sources/{handle:str}/hook")
    async def source_hook(handle: str) -> HookView:
        view = await ingress.sources.get(await organisation.id(), handle)
        return await hook_for(view, base_url=services.public_url)

    # ── runs ─────────────────────────────────────────────────────────────────────────────────────

    @get("/runs")
    async def run_list(request: AnyRequest) -> RunList:
        params = _query(request, RunListParams)
        return await runs.list_runs(
            RunQuery(
                org_id=await organisation.id(),
                statuses=known_run_words(
                    word
                    for given in request.query_params.getall("status", [])
                    for word in given.split(",")
                    if word
                ),
                workflow_name=params.workflow,
                repo_identifier=params.repository,
                branch=params.branch,
                since=params.since,
                page=params.page,
                page_size=params.page_size,
            )
        )

    @get("/runs/{run_id:str}")
    async def run_detail(run_id: str) -> RunDetailView:
        return await runs.detail(run_id, org_id=await organisation.id())

    @get("/runs/{run_id:str}/payload")
    async def run_payload(run_id: str) -> PayloadView:
        return await ingress.deliveries.payload(await organisation.id(), run_id)

    @post("/runs/{run_id:str}/cancel", status_code=202)
    async def run_cancel(request: AnyRequest, run_id: str) -> CancelResult:
        body: CancelBody = await _body(request, CancelBody)
        operator: Operator = request.state["operator"]
        actor = Actor(kind="platform_operator", id=operator.name, display_name=operator.name)
        return await runs.cancel(run_id, actor, force=body.force, org_id=await organisation.id())

    @get("/runs/{run_id:str}/jobs/{job_id:str}/steps/{step_index:int}/logs")
    async def step_logs(request: AnyRequest, run_id: str, job_id: str, step_index: int) -> LogPage:
        params = _query(request, LogParams)
        return await services.logs.read(
            await organisation.id(),
            run_id,
            job_id,
            step_index,
            offset=params.offset,
            limit=params.limit,
            tail=params.tail,
            attempt=params.attempt,
        )

    # ── deliveries and registrations ─────────────────────────────────────────────────────────────

    @get(["/deliveries", "/event-log"])
    async def deliveries(request: AnyRequest) -> DeliveryList:
        params = _query(request, PageParams)
        return await ingress.deliveries.deliveries(
            await organisation.id(), limit=params.limit, before=params.before
        )

    @get("/deliveries/pending")
    async def pending() -> PendingView:
        return PendingView(pending=await ingress.deliveries.pending())

    @get(["/deliveries/{delivery_id:str}", "/event-log/{delivery_id:str}"])
    async def delivery(delivery_id: str) -> DeliveryView:
        return await ingress.deliveries.delivery(await organisation.id(), delivery_id)

    @post("/event-log/{delivery_id:str}/retry", status_code=202)
    async def retry_delivery(delivery_id: str) -> DeliveryView:
        org_id = await organisation.id()
        await ingress.deliveries.retry(org_id, delivery_id)
        ingress.unclaimed()
        return await ingress.deliveries.delivery(org_id, delivery_id)

    @get("/registrations")
    async def registrations() -> RegistrationList:
        return await ingress.registrations.listing(await organisation.id())

    @post("/registrations/{registration_id:str}/enable", status_code=204)
    async def enable(registration_id: str) -> None:
        await ingress.registrations.switch(await organisation.id(), registration_id, disabled=False)

    @post("/registrations/{registration_id:str}/disable", status_code=204)
    async def disable(registration_id: str) -> None:
        await ingress.registrations.switch(await organisation.id(), registration_id, disabled=True)

    # ── agents and queue ─────────────────────────────────────────────────────────────────────────

    @get("/agents")
    async def agents() -> list[AgentView]:
        return await runs.agents(org_id=await organisation.id())

    @get("/agent-tokens")
    async def agent_tokens() -> list[AgentTokenView]:
        return await organisation.agent_tokens()

    @post("/agent-tokens")
    async def add_agent_token(request: AnyRequest) -> AgentTokenCreated:
        body: AgentTokenBody = await _body(request, AgentTokenBody)
        return await organisation.add_agent_token(body.labels)

    @delete("/agent-tokens/{handle:str}")
    async def revoke_agent_token(handle: str) -> None:
        await organisation.revoke_agent_token(handle)

    @get("/queue")
    async def queue() -> list[JobProjection]:
        return await runs.queue(org_id=await organisation.id())

    @get("/diagnostics")
    async def diagnostics() -> DiagnosticsView:
        return await runs.diagnostics(org_id=await organisation.id())

    return Router(
        path="/api/v1/admin",
        guards=[guard],
        route_handlers=[
            sources,
            add_source,
            source,
            change_source,
            remove_source,
            trigger_source,
            source_hook,
            run_list,
            run_detail,
            run_payload,
            run_cancel,
            step_logs,
            deliveries,
            pending,
            delivery,
            retry_delivery,
            registrations,
            enable,
            disable,
            agents,
            agent_tokens,
            add_agent_token,
            revoke_agent_token,
            queue,
            diagnostics,
            *event_routes(ingress, organisation),
        ],
    )
