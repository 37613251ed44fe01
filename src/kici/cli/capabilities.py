"""What this CLI can ask for and a server may not have yet (AU-142)."""

from typing import Any, ClassVar

from kici.cli.client import Client, Refused
from kici.runtime.buildinfo import build_info
from kici.spec.errors import KiciError

_ABSENT = frozenset({404, 405, 501})


class CapabilityMissing(KiciError):
    """Names both versions and who must upgrade."""

    code: ClassVar[str] = "capability_missing"


async def collection(client: Client, path: str, what: str, **params: Any) -> Any:
    """GET a listing. A server without the route has no `what`: CapabilityMissing."""
    try:
        return await client.get(await client.org(path), **params)
    except Refused as refused:
        if refused.status_code not in _ABSENT:
            raise
        raise await missing(client, what) from None


async def missing(client: Client, what: str) -> CapabilityMissing:
    """`raise await missing(client, "approvals")`."""
    try:
        server = str((await client.get("/api/v1/auth/config"))["version"])
    except (KiciError, KeyError, TypeError):
        server = "of an unknown version"
    mine = build_info().version
    return CapabilityMissing(
        f"the server at {client.target.platform_url} (kici {server}) does not offer {what}; this is kici {mine}. "
        "Its operator must upgrade Platform and orchestrator to a version that has them"
    )
