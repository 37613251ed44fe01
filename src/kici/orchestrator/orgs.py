"""The organisation that this database belongs to, and the tokens its agents come with."""

import secrets
from collections.abc import Callable
from datetime import datetime
from typing import Any, ClassVar

from msgspec import Struct

from kici.engine.labels import normalise
from kici.orchestrator.db.bootstrap import add_agent_token, ensure_org, only_org
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.spec.errors import Conflict, InvalidInput, NotFound

log = get_logger(__name__)


class NoOrganisation(Conflict):
    code: ClassVar[str] = "no_organisation"


class AgentTokenNotFound(NotFound):
    code: ClassVar[str] = "agent_token_not_found"


class AgentTokenView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`display`: the first characters, by which people know it."""

    id: str
    display: str
    kind: str
    labels: list[str] | None
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class AgentTokenCreated(Struct, frozen=True, kw_only=True, rename="camel"):
    """`token` is shown once and kept nowhere."""

    id: str
    token: str


_TOKENS = text("""
SELECT id, display, kind, labels, created_at, last_used_at, revoked_at FROM agent_tokens
WHERE org_id = :org_id ORDER BY created_at, id
""")

_LABELS = text("UPDATE agent_tokens SET labels = CAST(:labels AS text[]) WHERE id = :id")

_REVOKE = text("""
UPDATE agent_tokens SET revoked_at = coalesce(revoked_at, now())
WHERE org_id = :org_id AND (id::text = :handle OR display = :handle) RETURNING id
""")


class Organisation:
    """`from_platform` names the organisation that the Platform put our key into, when it has answered."""

    def __init__(self, engine: AsyncEngine, from_platform: Callable[[], str | None]) -> None:
        self._engine = engine
        self._from_platform = from_platform
        self._id: str | None = None

    async def id(self) -> str:
        """Raises NoOrganisation."""
        if self._id is None:
            async with self._engine.begin() as tx:
                self._id = await only_org(tx)
                named = self._from_platform()
                if self._id is None and named:
                    await ensure_org(tx, named)
                    self._id = named
        if self._id is None:
            raise NoOrganisation(
                "this orchestrator belongs to no organisation yet: connect it to its Platform, or start it"
                " with KICI_BOOTSTRAP_FILE"
            )
        return self._id

    async def agent_tokens(self) -> list[AgentTokenView]:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_TOKENS, {"org_id": await self.id()})).mappings()
            return [_view(dict(row)) for row in rows]

    async def add_agent_token(self, labels: list[str] | None) -> AgentTokenCreated:
        """Raises InvalidInput."""
        wanted = None if labels is None else normalise(labels)
        if wanted and any(label.startswith("kici:") for label in wanted):
            raise InvalidInput("labels that begin with kici: are reserved; every agent reports its own")
        org_id = await self.id()
        token = f"kat_{secrets.token_hex(32)}"
        async with self._engine.begin() as tx:
            token_id = await add_agent_token(tx, org_id, token)
            if wanted is not None:
                await tx.execute(_LABELS, {"id": token_id, "labels": wanted})
        log.info("agent_token.added", token_id=token_id)
        return AgentTokenCreated(id=token_id, token=token)

    async def revoke_agent_token(self, handle: str) -> None:
        """By id or by its first characters as listed; its agents are disconnected. Raises
        AgentTokenNotFound."""
        async with self._engine.begin() as tx:
            found = (await tx.execute(_REVOKE, {"org_id": await self.id(), "handle": handle})).first()
        if found is None:
            raise AgentTokenNotFound(f"there is no agent token {handle}")
        log.info("agent_token.revoked", token_id=found.id)


def _view(row: dict[str, Any]) -> AgentTokenView:
    if row["labels"] is not None:
        row["labels"] = list(row["labels"])
    return AgentTokenView(**row)
