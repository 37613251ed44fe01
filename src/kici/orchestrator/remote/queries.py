"""Statements about uploads and what runs bring along."""

from collections.abc import Sequence
from datetime import timedelta

from msgspec import Struct

from kici.runtime.database import AsyncConnection, text


class Upload(Struct, frozen=True, kw_only=True):
    """`private_key`: sealed for its id."""

    id: str
    object_key: str
    sha: str
    private_key: bytes


async def insert_upload(
    tx: AsyncConnection,
    *,
    upload_id: str,
    org_id: str,
    object_key: str,
    sha: str,
    private_key: bytes,
    created_by: str,
) -> None:
    await tx.execute(
        text("""
            INSERT INTO remote_uploads (id, org_id, object_key, sha, private_key, created_by)
            VALUES (:id, :org_id, :object_key, :sha, :private_key, :created_by)
        """),
        {
            "id": upload_id,
            "org_id": org_id,
            "object_key": object_key,
            "sha": sha,
            "private_key": private_key,
            "created_by": created_by,
        },
    )


async def find_upload(tx: AsyncConnection, org_id: str, upload_id: str, kept: timedelta) -> Upload | None:
    """None when unknown, of another org, or about to be swept."""
    row = (
        (
            await tx.execute(
                text("""
                    SELECT id, object_key, sha, private_key FROM remote_uploads
                    WHERE id::text = :id AND org_id = :org_id
                        AND created_at > now() - CAST(:kept AS interval)
                """),
                {"id": upload_id, "org_id": org_id, "kept": kept},
            )
        )
        .mappings()
        .one_or_none()
    )
    return None if row is None else Upload(**row)


async def count_uploads(tx: AsyncConnection, org_id: str) -> int:
    """Those that still take space."""
    return (
        await tx.scalar(
            text("SELECT count(*) FROM remote_uploads WHERE org_id = :org_id"), {"org_id": org_id}
        )
    ) or 0


async def old_uploads(tx: AsyncConnection, kept: timedelta, limit: int) -> list[str]:
    """Their object keys, oldest first."""
    rows = await tx.scalars(
        text("""
            SELECT object_key FROM remote_uploads WHERE created_at <= now() - CAST(:kept AS interval)
            ORDER BY created_at LIMIT :limit
        """),
        {"kept": kept, "limit": limit},
    )
    return list(rows)


async def forget(tx: AsyncConnection, object_keys: Sequence[str]) -> None:
    """Rows of uploads whose objects are gone, and the secrets of the runs that used them."""
    values = {"keys": list(object_keys)}
    await tx.execute(
        text("DELETE FROM execution_run_remotes WHERE overlay_key = ANY(CAST(:keys AS text[]))"), values
    )
    await tx.execute(
        text("DELETE FROM remote_uploads WHERE object_key = ANY(CAST(:keys AS text[]))"), values
    )


async def brought_along(tx: AsyncConnection, run_ids: Sequence[str]) -> list[tuple[str, str, bytes]]:
    """(run, object key, sealed brief) of those among `run_ids` that are remote runs."""
    rows = await tx.execute(
        text("""
            SELECT run_id, overlay_key, secrets FROM execution_run_remotes
            WHERE run_id = ANY(CAST(:run_ids AS uuid[]))
                AND overlay_key IS NOT NULL AND secrets IS NOT NULL
        """),
        {"run_ids": list(run_ids)},
    )
    return [(row[0], row[1], row[2]) for row in rows]
