"""Which repository may send events to which other one (OR-101): itself always, others by a row each."""

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, ClassVar
from uuid import UUID

from msgspec import Struct

from kici.engine.patterns import InvalidPattern, PatternSet
from kici.orchestrator.sources.index import SourceIndex
from kici.runtime.database import AsyncConnection, AsyncEngine, text
from kici.runtime.ids import uuid7
from kici.spec.errors import Conflict, InvalidInput, NotFound
from kici.spec.triggers import Pattern

_LIST = text("""
SELECT id, source_repo, source_routing_key, target_repo, target_routing_key, allowed_events, enabled, created_at
FROM cross_repo_trust WHERE org_id = :org_id
ORDER BY source_repo, target_repo, created_at
""")
_OF_SOURCES = text("""
SELECT org_id, source_repo, source_routing_key, target_repo, target_routing_key, allowed_events
FROM cross_repo_trust
JOIN unnest(CAST(:orgs AS text[]), CAST(:repos AS text[])) AS k (org_id, source_repo)
    USING (org_id, source_repo)
WHERE enabled
""")
_ADD = text("""
INSERT INTO cross_repo_trust (id, org_id, source_repo, source_routing_key, target_repo, target_routing_key,
    allowed_events)
VALUES (:id, :org_id, :source_repo, :source_routing_key, :target_repo, :target_routing_key, :allowed_events)
ON CONFLICT (org_id, source_repo, source_routing_key, target_repo, target_routing_key) DO NOTHING
RETURNING id
""")
_REMOVE = text("DELETE FROM cross_repo_trust WHERE org_id = :org_id AND id = CAST(:id AS uuid)")


class TrustNotFound(NotFound):
    code: ClassVar[str] = "trust_not_found"


class TrustExists(Conflict):
    code: ClassVar[str] = "trust_exists"


class TrustView(Struct, frozen=True, kw_only=True, rename="camel"):
    """`allowed_events`: globs over event names; null: all."""

    id: str
    source_repo: str
    source_routing_key: str
    target_repo: str
    target_routing_key: str
    allowed_events: list[str] | None
    enabled: bool
    created_at: datetime


class TrustList(Struct, frozen=True, kw_only=True, rename="camel"):
    trust: list[TrustView]


class NewTrust(Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    """Routing keys may be left out where only one source has the repository."""

    source_repo: str
    target_repo: str
    source_routing_key: str = ""
    target_routing_key: str = ""
    allowed_events: list[str] | None = None


class Trusted(Struct, frozen=True, kw_only=True):
    """One enabled row, as deciding needs it."""

    org_id: str
    source_repo: str
    source_routing_key: str
    target_repo: str
    target_routing_key: str
    allowed_events: list[str] | None

    def covers(self, event_name: str) -> bool:
        if self.allowed_events is None:
            return True
        return bool(self.allowed_events) and _globs(tuple(self.allowed_events)).matches(event_name)


@lru_cache(maxsize=512)
def _globs(patterns: tuple[str, ...]) -> PatternSet:
    return PatternSet([Pattern(type="glob", pattern=pattern) for pattern in patterns])


class TrustedBy:
    """The rows that a batch of events may need, read in one go."""

    def __init__(self, rows: Sequence[Trusted]) -> None:
        self._rows = rows

    def allows(
        self, org_id: str, event_name: str, source: tuple[str | None, str | None], target: tuple[str, str]
    ) -> bool:
        """`source` and `target`: repository and routing key. An empty target key stands for any."""
        if source[0] == target[0] and (not target[1] or source[1] == target[1]):
            return True
        return any(
            row.org_id == org_id
            and (row.source_repo, row.source_routing_key) == source
            and row.target_repo == target[0]
            and (not target[1] or row.target_routing_key == target[1])
            and row.covers(event_name)
            for row in self._rows
        )


async def trusted_by(tx: AsyncConnection, sources: Sequence[tuple[str, str]]) -> TrustedBy:
    """For organisations and their repositories that send."""
    if not sources:
        return TrustedBy([])
    rows = await tx.execute(
        _OF_SOURCES, {"orgs": [org for org, _ in sources], "repos": [repo for _, repo in sources]}
    )
    return TrustedBy([Trusted(**dict(row)) for row in rows.mappings()])


class Trust:
    """What operators see and change."""

    def __init__(self, engine: AsyncEngine, sources: SourceIndex) -> None:
        self._engine = engine
        self._sources = sources

    async def listing(self, org_id: str) -> TrustList:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_LIST, {"org_id": org_id})).mappings().all()
        return TrustList(trust=[TrustView(**dict(row)) for row in rows])

    async def add(self, org_id: str, new: NewTrust) -> TrustView:
        """Raises InvalidInput for a repository that no source has, or several, and TrustExists."""
        for glob in new.allowed_events or ():
            try:
                PatternSet([Pattern(type="glob", pattern=glob)])
            except InvalidPattern as error:
                raise InvalidInput(f"allowedEvents: {error}") from error
        if not new.source_repo or not new.target_repo:
            raise InvalidInput("name the repository that sends and the one that receives")
        row: dict[str, Any] = {
            "id": uuid7(),
            "org_id": org_id,
            "source_repo": new.source_repo,
            "source_routing_key": new.source_routing_key or self._key_of(org_id, new.source_repo),
            "target_repo": new.target_repo,
            "target_routing_key": new.target_routing_key or self._key_of(org_id, new.target_repo),
            "allowed_events": new.allowed_events,
        }
        async with self._engine.begin() as tx:
            if (await tx.execute(_ADD, row)).first() is None:
                raise TrustExists(f"{new.target_repo} takes events of {new.source_repo} already")
        listed = await self.listing(org_id)
        return next(view for view in listed.trust if view.id == row["id"])

    async def remove(self, org_id: str, trust_id: str) -> None:
        """Raises TrustNotFound."""
        missing = TrustNotFound(f"there is no trust {trust_id}")
        try:
            UUID(trust_id)
        except ValueError:
            raise missing from None
        async with self._engine.begin() as tx:
            if (await tx.execute(_REMOVE, {"org_id": org_id, "id": trust_id})).rowcount == 0:
                raise missing

    def _key_of(self, org_id: str, repo: str) -> str:
        keys = [
            source.routing_key
            for source in self._sources.all()
            if source.org_id == org_id and source.config.repository == repo
        ]
        if len(keys) == 1:
            return keys[0]
        raise InvalidInput(
            f"{len(keys) or 'no'} sources have the repository {repo!r}: give its routing key, too"
        )
