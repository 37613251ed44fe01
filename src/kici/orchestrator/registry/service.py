"""Keeping and showing the registrations of default branches (OR-70, 71, 73…75, 79)."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec
from msgspec import Struct

from kici.engine.capabilities import refusal
from kici.engine.triggers import trigger_type
from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.events.listening import CHANNEL as EVENTS
from kici.orchestrator.events.listening import EVENT_TTL_S
from kici.orchestrator.registry.index import RegistryIndex
from kici.orchestrator.runs.start import PlannedWorkflow
from kici.orchestrator.schedules.plan import plan_registration, plan_repository
from kici.protocol.dashboard_v1 import RegistrationList, RegistrationView, SourceRef
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncConnection, AsyncEngine, Wakeups, text
from kici.runtime.ids import uuid7
from kici.spec.errors import NotFound
from kici.spec.lock import LockWorkflow

STALE_AFTER_DAYS = 30  # OR-74

_decode = msgspec.json.Decoder(LockWorkflow).decode


class RegistrationNotFound(NotFound):
    code: ClassVar[str] = "registration_not_found"


class DefaultBranchPush(Struct, frozen=True, kw_only=True):
    """The workflows that a repository's default branch has since `pushed_at`; none when its lock file is
    gone."""

    org_id: str
    routing_key: str
    repo_identifier: str
    default_branch: str
    commit_sha: str
    commit_message: str | None
    pushed_at: datetime
    workflows: Sequence[PlannedWorkflow]


class _Row(Struct, frozen=True, kw_only=True):
    id: str
    workflow_name: str
    lock_entry: LockWorkflow
    sdk_version: str
    trigger_types: list[str]
    source_file: str


# The head's row is the lock of its repository; an older push finds it newer and stops (OR-70).
_HEAD = text("""
INSERT INTO registry_heads (routing_key, repo_identifier, org_id, commit_sha, pushed_at)
VALUES (:routing_key, :repo, :org_id, :commit_sha, :pushed_at)
ON CONFLICT (routing_key, repo_identifier) DO UPDATE SET commit_sha = EXCLUDED.commit_sha,
    pushed_at = EXCLUDED.pushed_at
WHERE registry_heads.pushed_at <= EXCLUDED.pushed_at
RETURNING commit_sha
""")

_REPLACE = text(f"""
WITH given AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:rows AS json)) AS x (
        id uuid, workflow_name text, lock_entry json, sdk_version text, trigger_types text[],
        source_file text)
), gone AS (
    DELETE FROM workflow_registrations
    WHERE routing_key = :routing_key AND repo_identifier = :repo
      AND workflow_name NOT IN (SELECT workflow_name FROM given)
), kept AS (
    INSERT INTO workflow_registrations (id, org_id, routing_key, repo_identifier, workflow_name, lock_entry,
        sdk_version, default_branch, trigger_types, commit_sha, commit_message, pushed_at, source_file)
    SELECT id, :org_id, :routing_key, :repo, workflow_name, lock_entry, sdk_version, :default_branch,
        trigger_types, :commit_sha, :commit_message, :pushed_at, source_file
    FROM given ORDER BY workflow_name
    ON CONFLICT (routing_key, repo_identifier, workflow_name) DO UPDATE SET
        lock_entry = EXCLUDED.lock_entry, sdk_version = EXCLUDED.sdk_version,
        default_branch = EXCLUDED.default_branch, trigger_types = EXCLUDED.trigger_types,
        commit_sha = EXCLUDED.commit_sha, commit_message = EXCLUDED.commit_message,
        pushed_at = EXCLUDED.pushed_at, source_file = EXCLUDED.source_file, updated_at = now()
), told AS (
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, expires_at)
    SELECT :event_id, :org_id, 'registration.updated', jsonb_build_object('repo', CAST(:repo AS text),
        'workflowCount', count(*), 'workflows', coalesce(jsonb_agg(workflow_name ORDER BY workflow_name), '[]')),
        :repo, :routing_key, now() + interval '{EVENT_TTL_S} seconds'
    FROM given
)
INSERT INTO registry_versions (org_id, version) VALUES (:org_id, 1)
ON CONFLICT (org_id) DO UPDATE SET version = registry_versions.version + 1, updated_at = now()
""")

# The row is locked by what has just bumped it, so that two repositories do not overwrite each other's part.
_LISTENS = text("""
UPDATE registry_versions SET listens = (
    SELECT coalesce(array_agg(DISTINCT kind ORDER BY kind), '{}')
    FROM workflow_registrations, unnest(trigger_types) AS kind
    WHERE org_id = :org_id AND NOT disabled)
WHERE org_id = :org_id
""")

_LIST = text(f"""
SELECT w.id, w.workflow_name, w.repo_identifier, w.trigger_types, w.lock_entry->'triggers' AS triggers,
    w.lock_entry::text AS lock_entry,
    w.routing_key, w.source_file, w.commit_sha, w.disabled, w.last_triggered_at, w.updated_at,
    coalesce(s.name, '') AS source_name, coalesce(s.subtype, '') AS subtype, coalesce(s.kind, '') AS provider,
    NOT w.disabled AND coalesce(w.last_triggered_at, w.created_at) < now() - interval '{STALE_AFTER_DAYS} days'
        AS stale,
    CASE WHEN NOT w.disabled THEN
        (SELECT min(c.next_fire_at) FROM schedules c WHERE c.registration_id = w.id) END AS next_fire_at,
    (SELECT c.problem FROM schedules c WHERE c.registration_id = w.id AND c.problem IS NOT NULL
     ORDER BY c.trigger_index LIMIT 1) AS schedule_problem
FROM workflow_registrations w
LEFT JOIN sources s ON s.routing_key = w.routing_key AND s.deleted_at IS NULL
WHERE w.org_id = :org_id ORDER BY w.repo_identifier, w.workflow_name
""")

_VERSION = text("SELECT version, updated_at FROM registry_versions WHERE org_id = :org_id")

_SWITCH = text(f"""
WITH switched AS (
    UPDATE workflow_registrations SET disabled = :disabled, updated_at = now()
    WHERE org_id = :org_id AND id::text = :id
    RETURNING org_id, routing_key, repo_identifier, workflow_name
), told AS (
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, expires_at)
    SELECT :event_id, org_id, 'registration.updated', jsonb_build_object('repo', repo_identifier,
        'workflowCount', 1, 'workflows', jsonb_build_array(workflow_name)), repo_identifier, routing_key,
        now() + interval '{EVENT_TTL_S} seconds'
    FROM switched
)
INSERT INTO registry_versions (org_id, version) SELECT org_id, 1 FROM switched
ON CONFLICT (org_id) DO UPDATE SET version = registry_versions.version + 1, updated_at = now()
""")


async def replace_registrations(tx: AsyncConnection, push: DefaultBranchPush, now: datetime) -> bool:
    """False when a newer push was there before. Ids and `disabled` of workflows that stay are kept. Wake
    `registry` and the event router after the commit."""
    repository: dict[str, Any] = {
        "routing_key": push.routing_key,
        "repo": push.repo_identifier,
        "org_id": push.org_id,
        "commit_sha": push.commit_sha,
        "pushed_at": push.pushed_at,
    }
    if (await tx.execute(_HEAD, repository)).first() is None:
        return False
    rows = [
        _Row(
            id=uuid7(),
            workflow_name=workflow.lock.name,
            lock_entry=workflow.lock,
            sdk_version=workflow.sdk_version,
            trigger_types=list(dict.fromkeys(trigger_type(t) for t in workflow.lock.triggers)),
            source_file=workflow.lock.source.file,
        )
        for workflow in push.workflows
        if workflow.lock.triggers  # without a trigger nothing ever asks for it (OR-71)
    ]
    await tx.execute(
        _REPLACE,
        {
            **repository,
            "rows": encode_rows(rows),
            "default_branch": push.default_branch,
            "commit_message": push.commit_message,
            "event_id": uuid7(),
        },
    )
    await tx.execute(_LISTENS, {"org_id": push.org_id})
    await plan_repository(tx, push.routing_key, push.repo_identifier, now)
    return True


class Registrations:
    """What people see and switch."""

    def __init__(self, engine: AsyncEngine, index: RegistryIndex, wakeups: Wakeups, clock: Clock) -> None:
        self._engine = engine
        self._index = index
        self._wakeups = wakeups
        self._clock = clock

    async def listing(self, org_id: str) -> RegistrationList:
        async with self._engine.connect() as connection:
            version = (await connection.execute(_VERSION, {"org_id": org_id})).first()
            rows = (await connection.execute(_LIST, {"org_id": org_id})).mappings()
            return RegistrationList(
                registrations=[_view(dict(row)) for row in rows],
                registry_version=version.version if version else 0,
                registry_updated_at=version.updated_at if version else None,
            )

    async def switch(self, org_id: str, registration_id: str, *, disabled: bool) -> None:
        """New events stop (or start) matching at once; running runs go on (OR-75). Raises
        RegistrationNotFound."""
        async with self._engine.begin() as tx:
            done = await tx.execute(
                _SWITCH,
                {"org_id": org_id, "id": registration_id, "disabled": disabled, "event_id": uuid7()},
            )
            if done.rowcount == 0:
                raise RegistrationNotFound(f"there is no registration {registration_id}")
            await tx.execute(_LISTENS, {"org_id": org_id})
            await plan_registration(tx, registration_id, to_datetime(self._clock.now_ms()))
        await self._index.load()
        self._wakeups.wake("registry")
        self._wakeups.wake(EVENTS)


def _view(row: dict[str, Any]) -> RegistrationView:
    return RegistrationView(
        id=row["id"],
        workflow_name=row["workflow_name"],
        repo_identifier=row["repo_identifier"],
        trigger_types=list(row["trigger_types"]),
        triggers=row["triggers"] or [],
        source=SourceRef(
            routing_key=row["routing_key"],
            name=row["source_name"],
            subtype=row["subtype"],
            provider=row["provider"],
        ),
        source_file=row["source_file"],
        commit_sha=row["commit_sha"],
        disabled=row["disabled"],
        stale=row["stale"],
        next_fire_at=row["next_fire_at"],
        problem=refusal(_decode(row["lock_entry"])) or row["schedule_problem"],
        last_triggered_at=row["last_triggered_at"],
        updated_at=row["updated_at"],
    )
