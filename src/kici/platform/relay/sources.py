"""Which webhook routes exist: what orchestrators registered, in memory, with the database behind.

A miss is looked up once and remembered for a minute, so that strangers' URLs cost nothing (PD-29).
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from kici.protocol.platform_v1 import SourceInfo
from kici.runtime.clock import Clock
from kici.runtime.database import AsyncEngine, text

MISS_TTL_MS = 60_000
MAX_MISSES = 10_000


@dataclass(frozen=True, slots=True)
class Source:
    org_id: str
    routing_key: str
    name: str
    max_payload_bytes: int
    cluster_name: str


class SourceDirectory:
    """Sources answer to their name and to the id at the end of their routing key."""

    def __init__(self, engine: AsyncEngine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._known: dict[str, dict[str, Source]] = {}  # org → name or id → source
        self._misses: OrderedDict[tuple[str, str], int] = OrderedDict()

    async def load(self) -> None:
        async with self._engine.connect() as tx:
            rows = await tx.execute(
                text("""
                    SELECT org_id, routing_key, name, max_payload_bytes, cluster_name FROM sources
                    WHERE removed_at IS NULL ORDER BY registered_at
                """)
            )
            for row in rows.mappings():
                self._add(Source(**row))

    def _add(self, source: Source) -> None:
        of_org = self._known.setdefault(source.org_id, {})
        of_org[source.routing_key.rsplit(":", 1)[-1]] = source
        of_org[source.name] = source

    def replace(self, org_id: str, cluster_name: str, sources: Sequence[SourceInfo]) -> None:
        """One cluster's whole set; other clusters' sources stay."""
        self._known[org_id] = {
            name: source
            for name, source in self._known.get(org_id, {}).items()
            if source.cluster_name != cluster_name
        }
        for info in sources:
            self._add(
                Source(
                    org_id=org_id,
                    routing_key=info.routing_key,
                    name=info.name,
                    max_payload_bytes=info.max_payload_bytes,
                    cluster_name=cluster_name,
                )
            )
        for miss in [miss for miss in self._misses if miss[0] == org_id]:
            del self._misses[miss]

    async def find(self, org_id: str, name: str) -> Source | None:
        source = self._known.get(org_id, {}).get(name)
        if source is not None:
            return source
        now_ms = self._clock.now_ms()
        miss = (org_id, name)
        missed_at = self._misses.get(miss)
        if missed_at is not None and now_ms - missed_at < MISS_TTL_MS:
            return None
        async with self._engine.connect() as tx:  # another replica may have registered it
            row = (
                (
                    await tx.execute(
                        text("""
                            SELECT org_id, routing_key, name, max_payload_bytes, cluster_name FROM sources
                            WHERE org_id = :org_id AND removed_at IS NULL
                              AND (name = :name OR routing_key = 'generic:' || :org_id || ':' || :name)
                            ORDER BY registered_at DESC LIMIT 1
                        """),
                        {"org_id": org_id, "name": name},
                    )
                )
                .mappings()
                .first()
            )
        if row is not None:
            source = Source(**row)
            self._add(source)
            return source
        self._misses[miss] = now_ms
        self._misses.move_to_end(miss)
        while len(self._misses) > MAX_MISSES:
            self._misses.popitem(last=False)
        return None
