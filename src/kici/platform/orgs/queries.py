"""Statements about orgs, orchestrator keys, connections and sources."""

import secrets
from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import RowMapping

from kici.platform.orgs.views import OrchestratorKeyView
from kici.platform.permissions import Role
from kici.runtime.database import AsyncConnection, text

_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"


def new_org_ids() -> tuple[str, str]:
    """`org_<12>` and the public alias `oal_<12>`, which says nothing about the org (PD-8)."""
    org, alias = ("".join(secrets.choice(_ALPHABET) for _ in range(12)) for _ in range(2))
    return f"org_{org}", f"oal_{alias}"


async def insert_org(tx: AsyncConnection, *, org_id: str, alias: str, name: str) -> bool:
    """False when it was there already."""
    result = await tx.execute(
        text("""
            INSERT INTO orgs (id, alias, name) VALUES (:id, :alias, :name)
            ON CONFLICT (id) DO NOTHING RETURNING id
        """),
        {"id": org_id, "alias": alias, "name": name},
    )
    return result.first() is not None


async def add_member(tx: AsyncConnection, *, org_id: str, user_id: str, role: Role) -> None:
    await tx.execute(
        text("""
            INSERT INTO org_members (org_id, user_id, role) VALUES (:org_id, :user_id, :role)
            ON CONFLICT (org_id, user_id) DO NOTHING
        """),
        {"org_id": org_id, "user_id": user_id, "role": role},
    )


async def get_org(tx: AsyncConnection, org_id: str) -> RowMapping:
    result = await tx.execute(text("SELECT id, name, alias FROM orgs WHERE id = :id"), {"id": org_id})
    return result.mappings().one()


async def list_keys(tx: AsyncConnection, org_id: str) -> list[OrchestratorKeyView]:
    rows = await tx.execute(
        text("""
            SELECT id, name, display, created_at, last_used_at FROM orchestrator_keys
            WHERE org_id = :org_id AND revoked_at IS NULL ORDER BY created_at DESC, id DESC
        """),
        {"org_id": org_id},
    )
    return [OrchestratorKeyView(**row) for row in rows.mappings()]


async def insert_key(
    tx: AsyncConnection, *, key_id: str, org_id: str, name: str, token: bytes, display: str, now: datetime
) -> bool:
    """False when this very token is there already."""
    result = await tx.execute(
        text("""
            INSERT INTO orchestrator_keys (id, org_id, name, token_sha256, display, created_at)
            VALUES (:id, :org_id, :name, :token, :display, :now)
            ON CONFLICT (token_sha256) DO NOTHING RETURNING id
        """),
        {"id": key_id, "org_id": org_id, "name": name, "token": token, "display": display, "now": now},
    )
    return result.first() is not None


async def revoke_key(tx: AsyncConnection, org_id: str, key_id: str, now: datetime) -> bool:
    result = await tx.execute(
        text("""
            UPDATE orchestrator_keys SET revoked_at = :now
            WHERE org_id = :org_id AND id::text = :id AND revoked_at IS NULL RETURNING id
        """),
        {"org_id": org_id, "id": key_id, "now": now},
    )
    return result.first() is not None


async def use_key(tx: AsyncConnection, token: bytes, now: datetime) -> RowMapping | None:
    """The key's row and its org's alias; None when unknown or revoked. Notes the use."""
    result = await tx.execute(
        text("""
            UPDATE orchestrator_keys k SET last_used_at = :now FROM orgs o
            WHERE k.token_sha256 = :token AND k.revoked_at IS NULL AND o.id = k.org_id
            RETURNING k.id, k.org_id, o.alias
        """),
        {"token": token, "now": now},
    )
    return result.mappings().one_or_none()


async def list_connections(
    tx: AsyncConnection, org_id: str, *, heard_since: datetime
) -> Sequence[RowMapping]:
    """Connected: some replica holds the socket and heard from it since then."""
    result = await tx.execute(
        text("""
            SELECT connection_id, instance_id, cluster_name, version, mode, hostname,
                   replica IS NOT NULL AND last_seen_at >= :heard_since AS connected,
                   connected_at, last_seen_at
            FROM platform_connections WHERE org_id = :org_id
            ORDER BY connected DESC, cluster_name, instance_id LIMIT 200
        """),
        {"org_id": org_id, "heard_since": heard_since},
    )
    return result.mappings().all()


async def list_sources(tx: AsyncConnection, org_id: str) -> Sequence[RowMapping]:
    result = await tx.execute(
        text("""
            SELECT routing_key, name, provider, subtype FROM sources
            WHERE org_id = :org_id AND removed_at IS NULL ORDER BY lower(name), routing_key
        """),
        {"org_id": org_id},
    )
    return result.mappings().all()
