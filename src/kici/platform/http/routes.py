"""All REST routes, and the OpenAPI document that follows from them (PD-65)."""

from functools import cache
from typing import Any

import msgspec
from litestar import Litestar, Response, Router, get
from litestar.di import Provide
from litestar.openapi.config import OpenAPIConfig
from litestar.types import ControllerRouterHandler

from kici.platform.errors import HANDLERS as EXCEPTION_HANDLERS
from kici.platform.errors import camel
from kici.platform.http.caller import provide_caller, provide_org
from kici.platform.oauth import routes as oauth
from kici.platform.orgs import routes as orgs
from kici.platform.people import routes as people
from kici.platform.permissions import ROLES
from kici.platform.remote import routes as remote
from kici.platform.runs import routes as runs
from kici.platform.services import Services
from kici.runtime.http import ErrorView

_REQUEST_CAP_BYTES = 1 << 20


def _org_router() -> Router:
    return Router(
        path="/api/v1/orgs/{org_id:str}",
        route_handlers=[*orgs.HANDLERS, *runs.HANDLERS, *remote.HANDLERS],
        dependencies={
            "caller": provide_caller,
            "org": provide_org,
            "run_query": Provide(runs.provide_run_query, sync_to_thread=False),
        },
    )


def build(
    services: Services | None, extra: list[ControllerRouterHandler], openapi: OpenAPIConfig | None = None
) -> Litestar:
    """The REST application. Without services it can only describe itself."""

    def provide_services() -> Services:
        assert services is not None
        return services

    org_router = _org_router()
    for handler in [*orgs.HANDLERS, *runs.HANDLERS, *remote.HANDLERS]:
        if handler.opt.get("permission") not in ROLES["owner"]:
            raise AssertionError(f"{handler.operation_id} names no known permission")
    return Litestar(
        route_handlers=[
            *people.PUBLIC,
            *oauth.HANDLERS,
            people.SIGNED_IN,
            org_router,
            openapi_json,
            *extra,
        ],
        dependencies={"platform": Provide(provide_services, sync_to_thread=False, use_cache=True)},
        exception_handlers=EXCEPTION_HANDLERS,
        openapi_config=openapi,
        request_max_body_size=_REQUEST_CAP_BYTES,
        logging_config=None,
    )


@cache
def openapi_document() -> bytes:
    """OpenAPI 3.1 as JSON: camelCase path names, one error shape for everything that is not 2xx."""
    config = OpenAPIConfig(title="KiCI Platform", version="1")
    document: dict[str, Any] = build(None, [], config).openapi_schema.to_schema()
    components: dict[str, Any] = document["components"]["schemas"]
    _, shared = msgspec.json.schema_components([ErrorView], ref_template="#/components/schemas/{name}")
    components.update(shared)
    failure = {
        "description": "The request failed",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorView"}}},
    }
    paths: dict[str, Any] = {}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            good = {code: body for code, body in operation["responses"].items() if code[0] in "23"}
            operation["responses"] = {**good, "default": failure}
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["name"] = camel(parameter["name"])
        paths["/".join(camel(part) for part in path.split("/"))] = operations
    document["paths"] = dict(sorted(paths.items()))
    document["components"]["schemas"] = dict(sorted(components.items()))
    document.pop("servers", None)
    return msgspec.json.format(msgspec.json.encode(document, order="deterministic"), indent=2) + b"\n"


@get("/api/v1/openapi.json", include_in_schema=False, sync_to_thread=True)
def openapi_json() -> Response[bytes]:
    return Response(openapi_document(), media_type="application/json")
