"""Statements about people. The transaction comes first; nothing here commits."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import RowMapping

from kici.platform.people.accounts import Account, Pat
from kici.platform.people.views import OrgMembershipView, PatKind, PatView, UserView
from kici.platform.permissions import Role
from kici.runtime.database import AsyncConnection, text

_ROLES = """
    coalesce((SELECT jsonb_object_agg(m.org_id, m.role) FROM org_members m WHERE m.user_id = u.id), '{}')::text
"""
_decode_roles = msgspec.json.Decoder(dict[str, Role]).decode

_BY_SESSION = text(f"""
    SELECT u.id, u.email, u.display_name, s.last_seen_at, s.expires_at, {_ROLES} AS roles
    FROM sessions s JOIN users u ON u.id = s.user_id
    WHERE s.token_sha256 = :token AND u.suspended_at IS NULL
""")
_BY_PAT = text(f"""
    SELECT u.id, u.email, u.display_name, p.id AS pat_id, p.name AS pat_name, p.kind, p.agent_label,
           p.last_used_at, p.expires_at, p.revoked_at, {_ROLES} AS roles
    FROM pats p JOIN users u ON u.id = p.user_id
    WHERE p.token_sha256 = :token AND u.suspended_at IS NULL
""")


async def by_session(tx: AsyncConnection, token: bytes) -> RowMapping | None:
    return (await tx.execute(_BY_SESSION, {"token": token})).mappings().one_or_none()


async def by_pat(tx: AsyncConnection, token: bytes) -> RowMapping | None:
    return (await tx.execute(_BY_PAT, {"token": token})).mappings().one_or_none()


def account(row: RowMapping, session_sha256: bytes | None, pat: Pat | None = None) -> Account:
    return Account(
        user_id=row["id"],
        email=row["email"],
        display_name=row["display_name"],
        roles=_decode_roles(row["roles"]),
        session_sha256=session_sha256,
        pat=pat,
    )


def pat_of(row: RowMapping) -> Pat:
    return Pat(
        id=row["pat_id"],
        name=row["pat_name"],
        kind=row["kind"],
        agent_label=row["agent_label"],
        expires_at=row["expires_at"],
    )


async def touch_session(tx: AsyncConnection, token: bytes, now: datetime) -> None:
    await tx.execute(
        text("UPDATE sessions SET last_seen_at = :now WHERE token_sha256 = :token"),
        {"now": now, "token": token},
    )


async def touch_pat(tx: AsyncConnection, pat_id: str, now: datetime) -> None:
    await tx.execute(text("UPDATE pats SET last_used_at = :now WHERE id = :id"), {"now": now, "id": pat_id})


async def insert_session(
    tx: AsyncConnection,
    *,
    token: bytes,
    user_id: str,
    user_agent: str,
    ip: str | None,
    now: datetime,
    expires_at: datetime,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO sessions (token_sha256, user_id, user_agent, ip, created_at, last_seen_at, expires_at)
            VALUES (:token, :user_id, :user_agent, :ip, :now, :now, :expires_at)
        """),
        {
            "token": token,
            "user_id": user_id,
            "user_agent": user_agent[:400],
            "ip": ip,
            "now": now,
            "expires_at": expires_at,
        },
    )


async def delete_session(tx: AsyncConnection, token: bytes) -> str | None:
    """The user that it belonged to."""
    return await tx.scalar(
        text("DELETE FROM sessions WHERE token_sha256 = :token RETURNING user_id"), {"token": token}
    )


async def delete_other_sessions(tx: AsyncConnection, user_id: str, keep: bytes | None) -> Sequence[bytes]:
    rows = await tx.scalars(
        text("""
            DELETE FROM sessions
            WHERE user_id = :user_id AND token_sha256 IS DISTINCT FROM CAST(:keep AS bytea)
            RETURNING token_sha256
        """),
        {"user_id": user_id, "keep": keep},
    )
    return rows.all()


async def find_user(tx: AsyncConnection, email: str) -> RowMapping | None:
    result = await tx.execute(
        text("SELECT id, password_hash, suspended_at FROM users WHERE email = :email"), {"email": email}
    )
    return result.mappings().one_or_none()


async def lock_user(tx: AsyncConnection, user_id: str) -> RowMapping | None:
    result = await tx.execute(
        text("SELECT email, display_name, password_hash FROM users WHERE id = :id FOR UPDATE"),
        {"id": user_id},
    )
    return result.mappings().one_or_none()


async def insert_user(
    tx: AsyncConnection, *, user_id: str, email: str, display_name: str, password_hash: str | None
) -> None:
    await tx.execute(
        text("""
            INSERT INTO users (id, email, display_name, password_hash)
            VALUES (:id, :email, :display_name, :password_hash)
        """),
        {"id": user_id, "email": email, "display_name": display_name, "password_hash": password_hash},
    )


async def set_profile(
    tx: AsyncConnection, *, user_id: str, display_name: str | None, password_hash: str | None
) -> None:
    """None leaves a column as it is."""
    await tx.execute(
        text("""
            UPDATE users SET display_name = coalesce(:display_name, display_name),
                             password_hash = coalesce(:password_hash, password_hash)
            WHERE id = :id
        """),
        {"id": user_id, "display_name": display_name, "password_hash": password_hash},
    )


async def user_view(tx: AsyncConnection, user_id: str) -> UserView:
    user = (
        (
            await tx.execute(
                text("""
                    SELECT id, email, display_name, password_hash IS NOT NULL AS has_password
                    FROM users WHERE id = :id
                """),
                {"id": user_id},
            )
        )
        .mappings()
        .one()
    )
    orgs = (
        await tx.execute(
            text("""
                SELECT o.id, o.name, o.alias, m.role FROM org_members m JOIN orgs o ON o.id = m.org_id
                WHERE m.user_id = :id ORDER BY lower(o.name), o.id
            """),
            {"id": user_id},
        )
    ).mappings()
    return UserView(
        id=user["id"],
        email=user["email"],
        display_name=user["display_name"],
        has_password=user["has_password"],
        orgs=[OrgMembershipView(**org) for org in orgs],
    )


async def anybody_with_password(tx: AsyncConnection) -> bool:
    return bool(await tx.scalar(text("SELECT EXISTS (SELECT FROM users WHERE password_hash IS NOT NULL)")))


async def insert_link(
    tx: AsyncConnection,
    *,
    token: bytes,
    kind: str,
    user_id: str | None,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Arms a link. The same token again (a restart) is armed anew."""
    await tx.execute(
        text("""
            INSERT INTO sign_in_links (token_sha256, kind, user_id, created_at, expires_at)
            VALUES (:token, :kind, :user_id, :now, :expires_at)
            ON CONFLICT (token_sha256) DO UPDATE SET expires_at = excluded.expires_at
        """),
        {"token": token, "kind": kind, "user_id": user_id, "now": now, "expires_at": expires_at},
    )


async def use_link(tx: AsyncConnection, *, token: bytes, kind: str, now: datetime) -> RowMapping | None:
    """Spends the link; None when it is unknown, spent or expired."""
    result = await tx.execute(
        text("""
            UPDATE sign_in_links SET used_at = :now
            WHERE token_sha256 = :token AND kind = :kind AND used_at IS NULL AND expires_at > :now
            RETURNING user_id
        """),
        {"token": token, "kind": kind, "now": now},
    )
    return result.mappings().one_or_none()


async def setup_link_alive(tx: AsyncConnection, now: datetime) -> bool:
    return bool(
        await tx.scalar(
            text("""
                SELECT EXISTS (SELECT FROM sign_in_links
                               WHERE kind = 'setup' AND used_at IS NULL AND expires_at > :now)
            """),
            {"now": now},
        )
    )


async def join_all_orgs(tx: AsyncConnection, user_id: str, role: Role) -> int:
    """For the first account only: how many orgs there are."""
    result = await tx.execute(
        text("""
            INSERT INTO org_members (org_id, user_id, role) SELECT id, :user_id, :role FROM orgs
            ON CONFLICT (org_id, user_id) DO UPDATE SET role = excluded.role
            RETURNING org_id
        """),
        {"user_id": user_id, "role": role},
    )
    return len(result.all())


async def list_pats(tx: AsyncConnection, user_id: str, *, soon: datetime) -> list[PatView]:
    """What expires before `soon` says so."""
    rows = (
        await tx.execute(
            text("""
                SELECT id, name, display, kind, agent_label, created_at, expires_at,
                       coalesce(expires_at <= :soon, false) AS expires_soon, last_used_at
                FROM pats
                WHERE user_id = :user_id AND revoked_at IS NULL ORDER BY created_at DESC, id DESC
            """),
            {"user_id": user_id, "soon": soon},
        )
    ).mappings()
    return [PatView(**row) for row in rows]


async def insert_pat(
    tx: AsyncConnection,
    *,
    pat_id: str,
    user_id: str,
    name: str,
    token: bytes,
    display: str,
    now: datetime,
    expires_at: datetime | None,
    kind: PatKind = "user",
    agent_label: str | None = None,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO pats (id, user_id, name, token_sha256, display, kind, agent_label, created_at,
                              expires_at)
            VALUES (:id, :user_id, :name, :token, :display, :kind, :agent_label, :now, :expires_at)
            ON CONFLICT (token_sha256) DO NOTHING
        """),
        {
            "id": pat_id,
            "user_id": user_id,
            "name": name,
            "token": token,
            "display": display,
            "kind": kind,
            "agent_label": agent_label,
            "now": now,
            "expires_at": expires_at,
        },
    )


async def revoke_pat(tx: AsyncConnection, user_id: str, pat_id: str, now: datetime) -> bool:
    result = await tx.execute(
        text("""
            UPDATE pats SET revoked_at = :now
            WHERE id::text = :id AND user_id = :user_id AND revoked_at IS NULL RETURNING id
        """),
        {"id": pat_id, "user_id": user_id, "now": now},
    )
    return result.first() is not None
