"""The org of a request: its keys, its orchestrators, its sources."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Protocol

from kici.platform import audit
from kici.platform.orgs import queries
from kici.platform.orgs.views import (
    ClusterView,
    OrchestratorKeyCreated,
    OrchestratorKeyList,
    OrchestratorList,
    OrchestratorView,
    SourceView,
)
from kici.platform.people import tokens
from kici.platform.people.service import WhoAsks, with_label
from kici.platform.people.views import OrgMembershipView
from kici.platform.permissions import Role
from kici.platform.settings import Origins
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncConnection, AsyncEngine
from kici.runtime.ids import uuid7
from kici.spec.errors import InvalidInput, NotFound

HEARD_WITHIN = timedelta(seconds=90)  # heartbeats come every 30 s (PD-14)


class InOrg(Protocol):
    """A caller inside an org, its permission checked."""

    @property
    def org_id(self) -> str: ...
    @property
    def role(self) -> Role: ...
    @property
    def caller(self) -> WhoAsks: ...


class OrgService:
    """`on_key_revoked` is told the key id: sockets that came with it are closed (PD-49)."""

    def __init__(self, engine: AsyncEngine, clock: Clock, origins: Origins) -> None:
        self._engine = engine
        self._clock = clock
        self._origins = origins
        self.on_key_revoked: list[Callable[[str], None]] = []

    def _now(self) -> datetime:
        return to_datetime(self._clock.now_ms())

    async def get(self, org: InOrg) -> OrgMembershipView:
        async with self._engine.connect() as tx:
            row = await queries.get_org(tx, org.org_id)
        return OrgMembershipView(id=row["id"], name=row["name"], alias=row["alias"], role=org.role)

    async def list_keys(self, org_id: str) -> OrchestratorKeyList:
        async with self._engine.connect() as tx:
            return OrchestratorKeyList(keys=await queries.list_keys(tx, org_id))

    async def create_key(self, org: InOrg, name: str) -> OrchestratorKeyCreated:
        name = name.strip()
        if not 1 <= len(name) <= 100:
            raise InvalidInput("a key's name has 1 to 100 characters")
        token = tokens.mint(tokens.ORCHESTRATOR_KEY)
        key_id = uuid7()
        async with self._engine.begin() as tx:
            await queries.insert_key(
                tx,
                key_id=key_id,
                org_id=org.org_id,
                name=name,
                token=tokens.digest(token),
                display=tokens.display(token),
                now=self._now(),
            )
            await self._audit(tx, org, "orchestrator_key.create", key_id, {"name": name})
        return OrchestratorKeyCreated(id=key_id, name=name, token=token)

    async def revoke_key(self, org: InOrg, key_id: str) -> None:
        async with self._engine.begin() as tx:
            if not await queries.revoke_key(tx, org.org_id, key_id, self._now()):
                raise NotFound("no such orchestrator key")
            await self._audit(tx, org, "orchestrator_key.revoke", key_id, {})
        for told in self.on_key_revoked:
            told(key_id)

    async def orchestrators(self, org_id: str) -> OrchestratorList:
        async with self._engine.connect() as tx:
            connections = await queries.list_connections(tx, org_id, heard_since=self._now() - HEARD_WITHIN)
            sources = await queries.list_sources(tx, org_id)
        views = [OrchestratorView(**row) for row in connections]
        clusters = _clusters(views)
        answering = [cluster.name for cluster in clusters if cluster.connected]
        return OrchestratorList(
            connected=any(view.connected for view in views),
            orchestrators=views,
            clusters=clusters,
            default_cluster=answering[0] if len(answering) == 1 else None,
            sources=[
                SourceView(**row, webhook_url=self._origins.webhook_url(org_id, row["name"]))
                for row in sources
            ],
        )

    async def _audit(
        self, tx: AsyncConnection, org: InOrg, action: str, key_id: str, details: dict[str, object]
    ) -> None:
        await audit.record(
            tx,
            action=action,
            target=("orchestrator_key", key_id),
            actor=("user", org.caller.account.user_id),
            org_id=org.org_id,
            details=with_label(org.caller.account, details),
            ip=org.caller.ip,
            request_id=org.caller.request_id,
        )


def _clusters(views: list[OrchestratorView]) -> list[ClusterView]:
    """Versions are those of the members that answer, or else of all."""
    members: dict[str, list[OrchestratorView]] = {}
    for view in views:
        members.setdefault(view.cluster_name, []).append(view)
    found: list[ClusterView] = []
    for name, group in sorted(members.items()):
        answering = [view for view in group if view.connected]
        versions = sorted({view.version for view in answering or group})
        found.append(ClusterView(name=name, connected=bool(answering), versions=versions))
    return found
