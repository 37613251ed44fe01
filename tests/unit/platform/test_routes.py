"""Every route says who may use it; the committed document is the code's (PD-55, PD-65)."""

from pathlib import Path

import msgspec
import pytest
from litestar.handlers import HTTPRouteHandler

from kici.platform.http import routes
from kici.platform.orgs.routes import HANDLERS as ORG_HANDLERS
from kici.platform.permissions import ROLES, allowed
from kici.platform.remote.routes import HANDLERS as REMOTE_HANDLERS
from kici.platform.runs.routes import HANDLERS as RUN_HANDLERS

DOCUMENT = msgspec.json.decode(routes.openapi_document())


def test_the_committed_document_is_current():
    committed = Path(__file__).parents[3] / "dashboard" / "openapi.json"
    assert committed.read_bytes() == routes.openapi_document()


@pytest.mark.parametrize(
    "handler", [*ORG_HANDLERS, *RUN_HANDLERS, *REMOTE_HANDLERS], ids=lambda h: h.operation_id
)
def test_org_routes_name_a_permission_and_changing_ones_a_write(handler: HTTPRouteHandler):
    permission = handler.opt["permission"]
    assert allowed("owner", permission)
    changes = bool(handler.http_methods - {"GET", "HEAD", "OPTIONS"})
    assert permission.endswith(".write") is changes


def test_members_have_no_right_that_owners_lack():
    assert ROLES["member"] < ROLES["owner"]


def test_responses_have_no_optional_fields():
    requests = {name for name in DOCUMENT["components"]["schemas"] if name.endswith("Body")}
    for name, schema in DOCUMENT["components"]["schemas"].items():
        if name not in requests and schema.get("type") == "object":
            assert set(schema.get("required", ())) == set(schema["properties"]), name


def test_every_operation_has_an_id_and_one_error_shape():
    ids = []
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            ids.append(operation["operationId"])
            content = operation["responses"]["default"]["content"]["application/json"]
            assert content["schema"] == {"$ref": "#/components/schemas/ErrorView"}
    assert len(ids) == len(set(ids)) == 40
