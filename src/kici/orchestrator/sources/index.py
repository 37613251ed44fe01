"""The sources of this database in memory, looked up once per delivery.

Loaded at start, on every wake-up and once a minute (OR-10): the table is the truth.
"""

from collections.abc import Callable
from typing import Any

import msgspec

from kici.orchestrator.sources import verification
from kici.orchestrator.sources.sealing import Sealer, Unsealable
from kici.orchestrator.sources.source import Bucket, Source, SourceConfig
from kici.orchestrator.sources.verification import Verification
from kici.protocol.platform_v1 import SourceInfo
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger

log = get_logger(__name__)

_LOAD = text("""
SELECT id, org_id, kind, subtype, name, routing_key, config::text AS config, verification_method, secrets,
    max_payload_bytes, rate_limit_rpm, dedup_window_seconds
FROM sources WHERE enabled AND deleted_at IS NULL
""")


class SourceIndex:
    def __init__(self, engine: AsyncEngine, sealer: Sealer) -> None:
        self._engine = engine
        self._sealer = sealer
        self._by_name: dict[tuple[str, str], Source] = {}
        self._by_key: dict[str, Source] = {}
        self._buckets: dict[tuple[str, int], Bucket] = {}
        self._listeners: list[Callable[[], None]] = []

    def on_change(self, listener: Callable[[], None]) -> None:
        """Called after a load that found something new."""
        self._listeners.append(listener)

    async def load(self) -> None:
        async with self._engine.connect() as connection:
            rows = (await connection.execute(_LOAD)).mappings().all()
        sources = [self._source(dict(row)) for row in rows]
        by_key = {source.routing_key: source for source in sources}
        changed = by_key != self._by_key
        self._by_key = by_key
        self._by_name = {(source.org_id, source.name): source for source in sources}
        limits = {(source.id, source.rate_limit_rpm) for source in sources}
        self._buckets = {key: bucket for key, bucket in self._buckets.items() if key in limits}
        if changed:
            log.info("sources.loaded", count=len(sources))
            for listener in self._listeners:
                listener()

    def _source(self, row: dict[str, Any]) -> Source:
        found: Verification | None = None
        problem: str | None = None
        if row["verification_method"] == "none":
            found = verification.NoVerification()
        elif row["secrets"] is None:
            problem = "no secret is stored"
        else:
            try:
                opened = verification.decode(self._sealer.unseal(row["id"], bytes(row["secrets"])))
                problem = verification.check(opened)
                found = opened if problem is None else None
            except (Unsealable, msgspec.MsgspecError) as error:
                problem = str(error)
        if problem is not None:
            log.warning(
                "source.misconfigured", source=row["name"], routing_key=row["routing_key"], reason=problem
            )
            found = None
        return Source(
            id=row["id"],
            org_id=row["org_id"],
            kind=row["kind"],
            subtype=row["subtype"],
            name=row["name"],
            routing_key=row["routing_key"],
            config=msgspec.json.decode(row["config"], type=SourceConfig),
            verification=found,
            problem=problem,
            max_payload_bytes=row["max_payload_bytes"],
            rate_limit_rpm=row["rate_limit_rpm"],
            dedup_window_s=row["dedup_window_seconds"],
        )

    def by_name(self, org_id: str, name: str) -> Source | None:
        return self._by_name.get((org_id, name))

    def by_routing_key(self, routing_key: str) -> Source | None:
        return self._by_key.get(routing_key)

    def take(self, source: Source) -> int:
        """One delivery against the source's rate; 0, or seconds to wait (OR-32)."""
        if source.rate_limit_rpm <= 0:
            return 0
        key = (source.id, source.rate_limit_rpm)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket(source.rate_limit_rpm)
        return bucket.take()

    def all(self) -> list[Source]:
        return list(self._by_key.values())

    def infos(self) -> list[SourceInfo]:
        """What `source.register` announces, in a stable order."""
        return [self._by_key[key].info for key in sorted(self._by_key)]
