"""Statements about orchestrator connections and the sources that they register."""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from kici.protocol.platform_v1 import AuthRequest, SourceInfo
from kici.runtime.database import AsyncConnection, text


async def note_connected(
    tx: AsyncConnection,
    *,
    org_id: str,
    key_id: str,
    connection_id: str,
    hello: AuthRequest,
    replica: str,
    now: datetime,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO platform_connections (org_id, cluster_name, instance_id, connection_id, key_id, replica,
                                              version, mode, hostname, connected_at, last_seen_at)
            VALUES (:org_id, :cluster_name, :instance_id, :connection_id, :key_id, :replica, :version, :mode,
                    :hostname, :now, :now)
            ON CONFLICT (org_id, cluster_name, instance_id) DO UPDATE SET
                connection_id = excluded.connection_id, key_id = excluded.key_id, replica = excluded.replica,
                version = excluded.version, mode = excluded.mode, hostname = excluded.hostname,
                connected_at = excluded.connected_at, last_seen_at = excluded.last_seen_at
        """),
        {
            "org_id": org_id,
            "cluster_name": hello.cluster_name,
            "instance_id": hello.instance_id,
            "connection_id": connection_id,
            "key_id": key_id,
            "replica": replica,
            "version": hello.version,
            "mode": hello.mode,
            "hostname": hello.hostname,
            "now": now,
        },
    )


async def note_seen(tx: AsyncConnection, connection_id: str, now: datetime) -> None:
    await tx.execute(
        text("""
            UPDATE platform_connections SET last_seen_at = :now WHERE connection_id = :id
        """),
        {"id": connection_id, "now": now},
    )


async def note_gone(tx: AsyncConnection, connection_id: str, now: datetime) -> None:
    """A newer connection of the same orchestrator keeps its row."""
    await tx.execute(
        text("""
            UPDATE platform_connections SET replica = NULL, last_seen_at = :now
            WHERE connection_id = :id
        """),
        {"id": connection_id, "now": now},
    )


async def release_replica(tx: AsyncConnection, replica: str) -> int:
    """At start: sockets that a crash of this replica left behind."""
    result = await tx.execute(
        text("""
            UPDATE platform_connections SET replica = NULL WHERE replica = :replica RETURNING connection_id
        """),
        {"replica": replica},
    )
    return len(result.all())


async def release_silent(tx: AsyncConnection, since: datetime) -> int:
    """Sockets of replicas that are no more: nothing was heard from them `since` then."""
    result = await tx.execute(
        text("""
            UPDATE platform_connections SET replica = NULL
            WHERE replica IS NOT NULL AND last_seen_at < :since RETURNING connection_id
        """),
        {"since": since},
    )
    return len(result.all())


async def register_sources(
    tx: AsyncConnection, org_id: str, cluster_name: str, sources: Sequence[SourceInfo], now: datetime
) -> None:
    """The whole set of one cluster: what is missing from it is marked removed."""
    await tx.execute(
        text("""
            INSERT INTO sources (org_id, routing_key, name, provider, subtype, max_payload_bytes, cluster_name,
                                 registered_at)
            SELECT :org_id, s."routingKey", s.name, s.provider, s.subtype, s."maxPayloadBytes", :cluster, :now
            FROM jsonb_to_recordset(CAST(:sources AS jsonb)) AS s("routingKey" text, name text, provider text,
                                                                   subtype text, "maxPayloadBytes" int)
            ON CONFLICT (org_id, routing_key) DO UPDATE SET
                name = excluded.name, provider = excluded.provider, subtype = excluded.subtype,
                max_payload_bytes = excluded.max_payload_bytes, cluster_name = excluded.cluster_name,
                registered_at = excluded.registered_at, removed_at = NULL
        """),
        {
            "org_id": org_id,
            "cluster": cluster_name,
            "now": now,
            "sources": msgspec.json.encode(sources).decode(),
        },
    )
    await tx.execute(
        text("""
            UPDATE sources SET removed_at = :now
            WHERE org_id = :org_id AND cluster_name = :cluster AND removed_at IS NULL
              AND NOT routing_key = ANY(CAST(:keys AS text[]))
        """),
        {"org_id": org_id, "cluster": cluster_name, "now": now, "keys": [s.routing_key for s in sources]},
    )
