"""`/api/v1/admin` on internal events, dead letters, trust and starts by hand (§21 of the orchestrator's
requirements)."""

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request, delete, get, post
from litestar.handlers import BaseRouteHandler
from msgspec import Struct

from kici.orchestrator.events.emit import Emitted, NewEvent
from kici.orchestrator.events.service import (
    DeadEvent,
    DeadEventCount,
    DeadEventList,
    EventList,
    EventView,
)
from kici.orchestrator.events.trust import NewTrust, TrustList, TrustView
from kici.orchestrator.http.tokens import Operator
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.orgs import Organisation
from kici.orchestrator.registry.manual import Dispatched
from kici.protocol.dashboard_v1 import NewRun
from kici.protocol.platform_v1 import Actor
from kici.spec.errors import InvalidInput

AnyRequest = Request[Any, Any, Any]


class DeadParams(Struct, frozen=True, kw_only=True, rename="camel"):
    limit: int = 50
    before: datetime | None = None


class EventParams(Struct, frozen=True, kw_only=True, rename="camel"):
    limit: int = 50
    before: str | None = None


class EmitBody(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """`target_repos` null: every repository of the organisation."""

    name: str
    payload: dict[str, Any] = {}
    target_repos: list[str] | None = None


class RunBody(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    inputs: dict[str, Any] = {}


class DispatchBody(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    repository: str
    type: str
    inputs: dict[str, Any] = {}


def _query(request: AnyRequest, kind: Any) -> Any:
    try:
        return msgspec.convert(dict(request.query_params.items()), kind, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"query: {error}") from error


async def _body(request: AnyRequest, kind: Any) -> Any:
    try:
        return msgspec.json.decode(await request.body() or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"body: {error}") from error


def _operator(request: AnyRequest) -> Actor:
    operator: Operator = request.state["operator"]
    return Actor(kind="platform_operator", id=operator.name, display_name=operator.name)


def event_routes(ingress: Ingress, organisation: Organisation) -> list[BaseRouteHandler]:
    """For the router that has the guard."""
    events = ingress.events

    @get("/events")
    async def event_list(request: AnyRequest) -> EventList:
        params: EventParams = _query(request, EventParams)
        return await events.log.events(await organisation.id(), limit=params.limit, before=params.before)

    @get("/events/{event_id:str}")
    async def event(event_id: str) -> EventView:
        return await events.log.event(await organisation.id(), event_id)

    @post("/events/emit", status_code=202)
    async def emit(request: AnyRequest) -> Emitted:
        body: EmitBody = await _body(request, EmitBody)
        return await events.emitter.accept(
            NewEvent(
                org_id=await organisation.id(),
                name=body.name,
                payload=body.payload,
                origin="operator",
                source_repo=None,
                source_routing_key=None,
                target_repos=body.target_repos,
            )
        )

    @get("/event-dlq")
    async def dead(request: AnyRequest) -> DeadEventList:
        params: DeadParams = _query(request, DeadParams)
        return await events.log.dead(await organisation.id(), limit=params.limit, before=params.before)

    @get("/event-dlq/count")
    async def dead_count() -> DeadEventCount:
        return await events.log.dead_count(await organisation.id())

    @get("/event-dlq/{event_id:str}")
    async def dead_one(event_id: str) -> DeadEvent:
        return await events.log.dead_one(await organisation.id(), event_id)

    @post("/event-dlq/{event_id:str}/retry", status_code=202)
    async def retry(request: AnyRequest, event_id: str) -> None:
        await events.log.retry(await organisation.id(), event_id, actor=_operator(request).id)

    @delete("/event-dlq/{event_id:str}")
    async def discard(request: AnyRequest, event_id: str) -> None:
        await events.log.discard(await organisation.id(), event_id, actor=_operator(request).id)

    @get("/trust")
    async def trust_list() -> TrustList:
        return await events.trust.listing(await organisation.id())

    @post("/trust")
    async def trust_add(request: AnyRequest) -> TrustView:
        new: NewTrust = await _body(request, NewTrust)
        return await events.trust.add(await organisation.id(), new)

    @delete("/trust/{trust_id:str}")
    async def trust_remove(trust_id: str) -> None:
        await events.trust.remove(await organisation.id(), trust_id)

    @post("/registrations/{registration_id:str}/run", status_code=202)
    async def run_now(request: AnyRequest, registration_id: str) -> NewRun:
        body: RunBody = await _body(request, RunBody)
        return await ingress.manual.run_now(
            await organisation.id(), registration_id, body.inputs, _operator(request)
        )

    @post("/dispatch", status_code=202)
    async def dispatch(request: AnyRequest) -> Dispatched:
        body: DispatchBody = await _body(request, DispatchBody)
        return await ingress.manual.dispatch(
            await organisation.id(), body.repository, body.type, body.inputs, _operator(request)
        )

    return [
        event_list,
        event,
        emit,
        dead,
        dead_count,
        dead_one,
        retry,
        discard,
        trust_list,
        trust_add,
        trust_remove,
        run_now,
        dispatch,
    ]
