"""The org, its orchestrator keys and who uses them."""

from typing import Annotated

from litestar import delete, get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from kici.platform.http.caller import Org
from kici.platform.orgs.views import (
    CapabilitiesView,
    CreateKeyBody,
    OrchestratorKeyCreated,
    OrchestratorKeyList,
    OrchestratorList,
)
from kici.platform.people.views import OrgMembershipView
from kici.platform.services import Platform


@get("/", operation_id="getOrg", tags=["orgs"], permission="org.read")
async def get_org(org: Org, platform: Platform) -> OrgMembershipView:
    return await platform.orgs.get(org)


@get("/orchestrator-keys", operation_id="listOrchestratorKeys", tags=["orgs"], permission="api_keys.read")
async def list_keys(org: Org, platform: Platform) -> OrchestratorKeyList:
    return await platform.orgs.list_keys(org.org_id)


@post(
    "/orchestrator-keys",
    operation_id="createOrchestratorKey",
    tags=["orgs"],
    status_code=201,
    permission="api_keys.write",
)
async def create_key(data: JSONBody[CreateKeyBody], org: Org, platform: Platform) -> OrchestratorKeyCreated:
    return await platform.orgs.create_key(org, data.name)


@delete(
    "/orchestrator-keys/{key_id:str}",
    operation_id="deleteOrchestratorKey",
    tags=["orgs"],
    status_code=204,
    permission="api_keys.write",
)
async def delete_key(key_id: FromPath[str], org: Org, platform: Platform) -> None:
    await platform.orgs.revoke_key(org, key_id)


@get("/orchestrators", operation_id="listOrchestrators", tags=["orgs"], permission="orchestrators.read")
async def list_orchestrators(org: Org, platform: Platform) -> OrchestratorList:
    return await platform.orgs.orchestrators(org.org_id)


@get("/capabilities", operation_id="getCapabilities", tags=["orgs"], permission="orchestrators.read")
async def capabilities(
    org: Org,
    platform: Platform,
    cluster: Annotated[str | None, QueryParameter(max_length=63)] = None,
) -> CapabilitiesView:
    """What the connected orchestrator of `cluster` answers, so that pages and commands ask for nothing else."""
    return platform.remote.capabilities(org.org_id, cluster)


HANDLERS = [capabilities, get_org, list_keys, create_key, delete_key, list_orchestrators]
