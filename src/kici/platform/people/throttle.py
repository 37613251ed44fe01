"""How often somebody may try a password: 5 failures per account, 20 per address, in 15 minutes (PD-43).

Counted in the database, so replicas share the count. A try is written down before the password is
looked at, under a lock per key: parallel guesses can't slip past the limit.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from kici.platform.errors import TooManyRequests
from kici.runtime.database import AsyncConnection, AsyncEngine, text

WINDOW = timedelta(minutes=15)
PER_ACCOUNT = 5
PER_ADDRESS = 20

_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 0))")
_RECENT = text("SELECT count(*), min(at) FROM sign_in_failures WHERE key = :key AND at > :since")
_NOTE = text("INSERT INTO sign_in_failures (key, at) VALUES (:key, :now)")


def _limits(email: str, ip: str | None) -> list[tuple[str, int]]:
    limits = [(f"account:{email}", PER_ACCOUNT)]
    if ip is not None:
        limits.append((f"ip:{ip}", PER_ADDRESS))
    return limits


async def note_try(engine: AsyncEngine, *, email: str, ip: str | None, now: datetime) -> None:
    """Raises TooManyRequests when the limit is reached; that try is not counted."""
    await count(engine, _limits(email, ip), now=now, message="too many failed sign-ins: wait a little")


async def count(
    engine: AsyncEngine, limits: Sequence[tuple[str, int]], *, now: datetime, message: str
) -> None:
    """One try under each (key, how many in WINDOW). Raises TooManyRequests, then none is counted."""
    async with engine.begin() as tx:
        for key, limit in limits:
            await tx.execute(_LOCK, {"key": key})
            tries, oldest = (await tx.execute(_RECENT, {"key": key, "since": now - WINDOW})).one()
            if tries >= limit:
                wait = (oldest + WINDOW - now).total_seconds()
                raise TooManyRequests(message, retry_after_seconds=int(wait) + 1)
        for key, _ in limits:
            await tx.execute(_NOTE, {"key": key, "now": now})


async def forgive(tx: AsyncConnection, *, email: str, ip: str | None, now: datetime) -> None:
    """The try was good: it was none of the failures, and the account starts afresh."""
    await tx.execute(text("DELETE FROM sign_in_failures WHERE key = :key"), {"key": f"account:{email}"})
    await tx.execute(
        text("""
            DELETE FROM sign_in_failures WHERE ctid = (
                SELECT ctid FROM sign_in_failures WHERE key = :key AND at = :now LIMIT 1)
        """),
        {"key": f"ip:{ip}", "now": now},
    )
