"""Statements about codes, devices and grants. What is spent is spent in the statement that reads it."""

from datetime import datetime

from sqlalchemy import RowMapping

from kici.runtime.database import AsyncConnection, text


async def insert_code(
    tx: AsyncConnection,
    *,
    code: bytes,
    user_id: str,
    redirect_uri: str,
    challenge: str,
    now: datetime,
    expires_at: datetime,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO oauth_codes (code_sha256, user_id, redirect_uri, challenge, created_at, expires_at)
            VALUES (:code, :user_id, :redirect_uri, :challenge, :now, :expires_at)
        """),
        {
            "code": code,
            "user_id": user_id,
            "redirect_uri": redirect_uri,
            "challenge": challenge,
            "now": now,
            "expires_at": expires_at,
        },
    )


async def use_code(tx: AsyncConnection, code: bytes, now: datetime) -> RowMapping | None:
    """None when unknown, spent or expired."""
    result = await tx.execute(
        text("""
            UPDATE oauth_codes SET used_at = :now
            WHERE code_sha256 = :code AND used_at IS NULL AND expires_at > :now
            RETURNING user_id, redirect_uri, challenge
        """),
        {"code": code, "now": now},
    )
    return result.mappings().one_or_none()


async def end_grants_of(tx: AsyncConnection, origin: bytes, now: datetime) -> str | None:
    """Somebody shows a spent code: what it gave is taken back. The user whose token ended, if any."""
    return await tx.scalar(
        text("""
            WITH ended AS (
                UPDATE oauth_grants SET expires_at = least(expires_at, :now)
                WHERE origin_sha256 = :origin RETURNING pat_id)
            UPDATE pats p SET revoked_at = :now FROM ended
            WHERE p.id = ended.pat_id AND p.revoked_at IS NULL RETURNING p.user_id
        """),
        {"origin": origin, "now": now},
    )


async def insert_device(
    tx: AsyncConnection,
    *,
    device: bytes,
    user_code: bytes,
    challenge: str | None,
    ip: str | None,
    interval_s: int,
    now: datetime,
    expires_at: datetime,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO oauth_devices (device_sha256, user_code_sha256, challenge, ip, interval_s, created_at,
                                       expires_at)
            VALUES (:device, :user_code, :challenge, :ip, :interval_s, :now, :expires_at)
        """),
        {
            "device": device,
            "user_code": user_code,
            "challenge": challenge,
            "ip": ip,
            "interval_s": interval_s,
            "now": now,
            "expires_at": expires_at,
        },
    )


async def open_device(tx: AsyncConnection, user_code: bytes, now: datetime) -> RowMapping | None:
    """One that still waits for a decision."""
    result = await tx.execute(
        text("""
            SELECT ip, created_at FROM oauth_devices
            WHERE user_code_sha256 = :user_code AND approved IS NULL AND expires_at > :now
        """),
        {"user_code": user_code, "now": now},
    )
    return result.mappings().one_or_none()


async def decide_device(
    tx: AsyncConnection, user_code: bytes, *, user_id: str, approved: bool, now: datetime
) -> bool:
    result = await tx.execute(
        text("""
            UPDATE oauth_devices SET user_id = :user_id, approved = :approved
            WHERE user_code_sha256 = :user_code AND approved IS NULL AND expires_at > :now
            RETURNING device_sha256
        """),
        {"user_code": user_code, "user_id": user_id, "approved": approved, "now": now},
    )
    return result.first() is not None


async def lock_device(tx: AsyncConnection, device: bytes) -> RowMapping | None:
    result = await tx.execute(
        text("""
            SELECT challenge, user_id, approved, interval_s, polled_at, expires_at, used_at
            FROM oauth_devices WHERE device_sha256 = :device FOR UPDATE
        """),
        {"device": device},
    )
    return result.mappings().one_or_none()


async def note_poll(tx: AsyncConnection, device: bytes, *, interval_s: int, now: datetime) -> None:
    await tx.execute(
        text(
            "UPDATE oauth_devices SET polled_at = :now, interval_s = :interval_s WHERE device_sha256 = :device"
        ),
        {"device": device, "interval_s": interval_s, "now": now},
    )


async def spend_device(tx: AsyncConnection, device: bytes, now: datetime) -> None:
    await tx.execute(
        text("UPDATE oauth_devices SET used_at = :now WHERE device_sha256 = :device"),
        {"device": device, "now": now},
    )


async def insert_grant(
    tx: AsyncConnection, *, token: bytes, user_id: str, origin: bytes, now: datetime, expires_at: datetime
) -> None:
    await tx.execute(
        text("""
            INSERT INTO oauth_grants (token_sha256, user_id, origin_sha256, created_at, expires_at)
            VALUES (:token, :user_id, :origin, :now, :expires_at)
        """),
        {"token": token, "user_id": user_id, "origin": origin, "now": now, "expires_at": expires_at},
    )


async def use_grant(tx: AsyncConnection, token: bytes, now: datetime) -> RowMapping | None:
    """Who it stands for; None when unknown, spent, expired, or the account is suspended."""
    result = await tx.execute(
        text("""
            UPDATE oauth_grants g SET used_at = :now FROM users u
            WHERE g.token_sha256 = :token AND g.used_at IS NULL AND g.expires_at > :now
              AND u.id = g.user_id AND u.suspended_at IS NULL
            RETURNING g.user_id
        """),
        {"token": token, "now": now},
    )
    return result.mappings().one_or_none()


async def note_exchanged(tx: AsyncConnection, token: bytes, pat_id: str) -> None:
    await tx.execute(
        text("UPDATE oauth_grants SET pat_id = :pat_id WHERE token_sha256 = :token"),
        {"token": token, "pat_id": pat_id},
    )
