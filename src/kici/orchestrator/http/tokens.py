"""Who calls the admin API: bearer tokens with a role (§21 of the orchestrator's requirements)."""

import time
from typing import ClassVar, Literal

from msgspec import Struct

from kici.orchestrator.db.bootstrap import digest
from kici.runtime.database import AsyncEngine, text
from kici.spec.errors import KiciError

Role = Literal["owner", "admin", "auditor"]

_FIND = text("SELECT name, role FROM admin_tokens WHERE token_sha256 = :digest")
_KEEP_S = 15.0  # a revoked token works at most this much longer
_KEEP_MAX = 256


class Unauthorized(KiciError):
    code: ClassVar[str] = "unauthorized"
    status: ClassVar[int] = 401


class Forbidden(KiciError):
    code: ClassVar[str] = "forbidden"
    status: ClassVar[int] = 403


class Operator(Struct, frozen=True, kw_only=True):
    name: str
    role: Role


class AdminTokens:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[bytes, tuple[float, Operator]] = {}

    async def operator(self, authorization: str | None) -> Operator | None:
        """For the value of an `Authorization` header; None when it lets nobody in."""
        scheme, _, token = (authorization or "").strip().partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            return None
        key = digest(token.strip())
        kept = self._known.get(key)
        now = time.monotonic()
        if kept is not None and kept[0] > now:
            return kept[1]
        async with self._engine.connect() as connection:
            row = (await connection.execute(_FIND, {"digest": key})).first()
        if row is None:
            self._known.pop(key, None)
            return None
        found = Operator(name=row.name, role=row.role)
        if len(self._known) >= _KEEP_MAX:
            self._known.clear()
        self._known[key] = (now + _KEEP_S, found)
        return found

    async def require(self, authorization: str | None, *, write: bool) -> Operator:
        """Raises Unauthorized, or Forbidden when an auditor wants to change something."""
        found = await self.operator(authorization)
        if found is None:
            raise Unauthorized("an admin token is needed: `Authorization: Bearer kici_admin_…`")
        if write and found.role == "auditor":
            raise Forbidden("an auditor's token only reads")
        return found
