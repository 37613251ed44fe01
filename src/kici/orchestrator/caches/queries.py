"""The table user_cache_entries. An entry is `uploading`, then `ready`, at last `doomed` until its object is gone."""

from collections.abc import Sequence

from msgspec import Struct

from kici.orchestrator.caches.scopes import DEPENDENCIES, SHARED
from kici.runtime.database import AsyncConnection, text

UPLOAD_WITHIN_S = 3600


class Entry(Struct, frozen=True, kw_only=True):
    """A ready one."""

    entry_id: str
    key: str
    object_key: str
    size_bytes: int
    sha256: str


class Owner(Struct, frozen=True, kw_only=True):
    """Whose entries: `scope` is SHARED, DEPENDENCIES (of no repository), or the id of the run that alone may
    read them."""

    org_id: str
    repo_identifier: str
    scope: str


_FIND = text("""
    WITH wanted AS (
        SELECT * FROM unnest(CAST(:keys AS text[])) WITH ORDINALITY AS w (key, place)
    ), found AS (
        SELECT e.id FROM wanted w JOIN user_cache_entries e
            ON e.org_id = :org_id AND e.repo_identifier = :repo_identifier AND e.state = 'ready'
            AND e.scope = ANY(CAST(:scopes AS text[]))
            AND CASE WHEN w.place = 1 THEN e.key = w.key ELSE starts_with(e.key, w.key) END
        ORDER BY w.place, w.place = 1 AND e.scope = 'shared', e.created_at DESC, e.id DESC LIMIT 1
    )
    UPDATE user_cache_entries e SET last_used_at = now() FROM found f WHERE e.id = f.id
    RETURNING e.id, e.key, e.object_key, e.size_bytes, e.sha256
""")
_HAS = text("""
    SELECT EXISTS (SELECT FROM user_cache_entries WHERE org_id = :org_id
        AND repo_identifier = :repo_identifier AND scope = :scope AND key = :key AND state = 'ready')
""")
_BEGIN = text("""
    INSERT INTO user_cache_entries (id, org_id, repo_identifier, scope, run_id, key, object_key, state)
    VALUES (:id, :org_id, :repo_identifier, :scope, :run_id, :key, :object_key, 'uploading')
""")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended('user_cache:' || :org_id, 0))")
_UPLOADED = text("""
    SELECT object_key, state, sha256 FROM user_cache_entries WHERE id = CAST(:id AS uuid) AND org_id = :org_id
        AND repo_identifier = :repo_identifier AND scope = :scope AND key = :key
""")
# The first one stands: keys are immutable.
_READY = text("""
    UPDATE user_cache_entries e SET size_bytes = :size_bytes, sha256 = :sha256, last_used_at = now(),
        state = CASE WHEN EXISTS (SELECT FROM user_cache_entries o WHERE o.org_id = e.org_id
            AND o.repo_identifier = e.repo_identifier AND o.scope = e.scope AND o.key = e.key
            AND o.state = 'ready') THEN 'doomed' ELSE 'ready' END
    WHERE e.id = CAST(:id AS uuid) AND e.state = 'uploading' RETURNING e.state
""")
# Least recently used first, until the rest and the new entry fit.
_EVICT = text("""
    WITH kept AS (
        SELECT id, sum(size_bytes) OVER (ORDER BY last_used_at DESC, id DESC) AS total
        FROM user_cache_entries WHERE org_id = :org_id AND state = 'ready' AND id <> CAST(:id AS uuid)
    )
    UPDATE user_cache_entries e SET state = 'doomed' FROM kept k
    WHERE e.id = k.id AND k.total > CAST(:room AS bigint) RETURNING e.id
""")
_DOOM = text(f"""
    UPDATE user_cache_entries e SET state = 'doomed'
    WHERE (e.state = 'ready' AND e.last_used_at < now() - make_interval(secs => CAST(:ttl_s AS float8)))
        OR (e.state = 'uploading' AND e.created_at < now() - interval '{UPLOAD_WITHIN_S} s')
        OR (e.state = 'ready' AND e.scope NOT IN ('{SHARED}', '{DEPENDENCIES}') AND EXISTS (
            SELECT FROM execution_runs r WHERE r.id = e.run_id AND r.completed_at IS NOT NULL))
""")
_REJECT = text("""
    UPDATE user_cache_entries SET state = 'doomed' WHERE org_id = :org_id AND repo_identifier = :repo_identifier
        AND scope = :scope AND key = :key AND sha256 = :sha256 AND state = 'ready'
""")
_DOOMED = text("SELECT id, object_key FROM user_cache_entries WHERE state = 'doomed' LIMIT :limit")
_GONE = text("DELETE FROM user_cache_entries WHERE id = ANY(CAST(:ids AS uuid[])) AND state = 'doomed'")


async def find(tx: AsyncConnection, owner: Owner, keys: Sequence[str]) -> Entry | None:
    """The first of `keys` exactly, else the newest that begins with the second, and so on. Counts as used."""
    rows = await tx.execute(
        _FIND,
        {
            "org_id": owner.org_id,
            "repo_identifier": owner.repo_identifier,
            "scopes": sorted({owner.scope, SHARED} if owner.scope != DEPENDENCIES else {DEPENDENCIES}),
            "keys": list(keys),
        },
    )
    row = rows.one_or_none()
    if row is None:
        return None
    return Entry(entry_id=row[0], key=row[1], object_key=row[2], size_bytes=row[3], sha256=row[4])


async def has(tx: AsyncConnection, owner: Owner, key: str) -> bool:
    return bool(await tx.scalar(_HAS, {**_words(owner), "key": key}))


async def begin(
    tx: AsyncConnection, owner: Owner, *, entry_id: str, run_id: str, key: str, object_key: str
) -> None:
    await tx.execute(
        _BEGIN, {**_words(owner), "id": entry_id, "run_id": run_id, "key": key, "object_key": object_key}
    )


async def lock_org(tx: AsyncConnection, org_id: str) -> None:
    """Commits of one organisation follow each other: each sees what the one before evicted."""
    await tx.execute(_LOCK, {"org_id": org_id})


async def uploaded(
    tx: AsyncConnection, owner: Owner, *, entry_id: str, key: str
) -> tuple[str, str, str | None] | None:
    """Object key, state, checksum of a begun entry."""
    row = (await tx.execute(_UPLOADED, {**_words(owner), "id": entry_id, "key": key})).one_or_none()
    return None if row is None else (row[0], row[1], row[2])


async def make_ready(tx: AsyncConnection, *, entry_id: str, size_bytes: int, sha256: str) -> bool:
    """False: another entry of that key was faster, and this one is doomed."""
    rows = await tx.execute(_READY, {"id": entry_id, "size_bytes": size_bytes, "sha256": sha256})
    return rows.scalar_one_or_none() == "ready"


async def evict(tx: AsyncConnection, org_id: str, *, but: str, room: int) -> int:
    """Entries doomed so that all but `but` have at most `room` bytes."""
    rows = await tx.execute(_EVICT, {"org_id": org_id, "id": but, "room": room})
    return len(rows.all())


async def doom(tx: AsyncConnection, *, ttl_s: float) -> None:
    """Unused for too long, never completed, or of a run that has ended."""
    await tx.execute(_DOOM, {"ttl_s": ttl_s})


async def reject(tx: AsyncConnection, owner: Owner, *, key: str, sha256: str) -> bool:
    """Whether there was such an entry; another one under the same key stays."""
    rows = await tx.execute(_REJECT, {**_words(owner), "key": key, "sha256": sha256})
    return rows.rowcount > 0


async def doomed(tx: AsyncConnection, limit: int) -> list[tuple[str, str]]:
    """Ids and object keys."""
    return [(row[0], row[1]) for row in await tx.execute(_DOOMED, {"limit": limit})]


async def gone(tx: AsyncConnection, entry_ids: Sequence[str]) -> None:
    await tx.execute(_GONE, {"ids": list(entry_ids)})


def _words(owner: Owner) -> dict[str, str]:
    return {"org_id": owner.org_id, "repo_identifier": owner.repo_identifier, "scope": owner.scope}
