"""Registered workflows in memory (OR-72): asked for every webhook, so never a query.

Loaded when its version has moved: at start, on a wake-up, and twice a minute. The organisation is part of
every key.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Struct

from kici.engine.triggers import trigger_type
from kici.orchestrator.runs.planning import StoredWorkflow
from kici.orchestrator.runs.start import PlannedWorkflow, plan_workflow
from kici.runtime.database import AsyncEngine, text
from kici.runtime.logging import get_logger
from kici.spec.triggers import GenericWebhookTrigger, WebhookTrigger

log = get_logger(__name__)

_VERSIONS = text("SELECT org_id, version FROM registry_versions")

_LOAD = text("""
SELECT id, org_id, routing_key, repo_identifier, workflow_name, lock_entry::text AS lock_entry, sdk_version,
    default_branch, commit_sha, commit_message, disabled
FROM workflow_registrations ORDER BY org_id, repo_identifier, workflow_name
""")

_HEADS = text("SELECT routing_key, repo_identifier, commit_sha, pushed_at FROM registry_heads")


class Registered(Struct, frozen=True, kw_only=True):
    """A workflow as the default branch has it; it runs at `commit_sha`."""

    id: str
    org_id: str
    routing_key: str
    repo_identifier: str
    workflow: PlannedWorkflow
    default_branch: str
    commit_sha: str
    commit_message: str | None
    disabled: bool


class Head(Struct, frozen=True, kw_only=True):
    commit_sha: str
    pushed_at: datetime


class RegistryIndex:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._versions: dict[str, int] | None = None
        self._by_name: dict[tuple[str, str, str], Registered] = {}
        self._by_source: dict[tuple[str, str], list[Registered]] = {}
        self._any_webhook: dict[str, list[Registered]] = {}
        self._by_id: dict[str, Registered] = {}
        self._by_repo: dict[tuple[str, str], list[Registered]] = {}
        self._by_type: dict[tuple[str, str], list[Registered]] = {}
        self._heads: dict[tuple[str, str], Head] = {}
        # By SDK version and lock entry: a push that changes no workflow decodes nothing.
        self._plans: dict[tuple[str, str], PlannedWorkflow] = {}

    async def load(self) -> None:
        """Versions are read before the rows: a change in between is seen by the next load."""
        async with self._engine.connect() as connection:
            versions: dict[str, int] = {
                row.org_id: row.version for row in await connection.execute(_VERSIONS)
            }
            if versions == self._versions:
                return
            rows = (await connection.execute(_LOAD)).mappings().all()
            heads = (await connection.execute(_HEADS)).all()
        plans: dict[tuple[str, str], PlannedWorkflow] = {}
        registered = [self._registered(dict(row), plans) for row in rows]
        self._plans = plans
        by_source: defaultdict[tuple[str, str], list[Registered]] = defaultdict(list)
        any_webhook: defaultdict[str, list[Registered]] = defaultdict(list)
        by_repo: defaultdict[tuple[str, str], list[Registered]] = defaultdict(list)
        by_type: defaultdict[tuple[str, str], list[Registered]] = defaultdict(list)
        for entry in registered:
            triggers = entry.workflow.lock.triggers
            for source in {t.source for t in triggers if isinstance(t, GenericWebhookTrigger)}:
                by_source[entry.org_id, source].append(entry)
            if any(isinstance(trigger, WebhookTrigger) for trigger in triggers):
                any_webhook[entry.org_id].append(entry)
            by_repo[entry.org_id, entry.repo_identifier].append(entry)
            for kind in {trigger_type(trigger) for trigger in triggers}:
                by_type[entry.org_id, kind].append(entry)
        self._by_id = {entry.id: entry for entry in registered}
        self._by_repo = dict(by_repo)
        self._by_type = dict(by_type)
        self._by_name = {
            (entry.routing_key, entry.repo_identifier, entry.workflow.lock.name): entry
            for entry in registered
        }
        self._by_source = dict(by_source)
        self._any_webhook = dict(any_webhook)
        self._heads = {
            (row.routing_key, row.repo_identifier): Head(commit_sha=row.commit_sha, pushed_at=row.pushed_at)
            for row in heads
        }
        self._versions = versions
        log.info("registry.loaded", workflows=len(registered))

    def is_disabled(self, routing_key: str, repo_identifier: str, workflow_name: str) -> bool:
        """A workflow that nobody registered yet is not disabled."""
        entry = self._by_name.get((routing_key, repo_identifier, workflow_name))
        return entry is not None and entry.disabled

    def head(self, routing_key: str, repo_identifier: str) -> Head | None:
        return self._heads.get((routing_key, repo_identifier))

    def listening_to(self, org_id: str, source_name: str) -> list[Registered]:
        """Workflows that a delivery of this source could start: those that name it, and those with a
        `webhook` trigger, which take the events of any source (OR-55, OR-88)."""
        named = self._by_source.get((org_id, source_name), [])
        known = {entry.id for entry in named}
        return named + [entry for entry in self._any_webhook.get(org_id, []) if entry.id not in known]

    def find(self, org_id: str, registration_id: str) -> Registered | None:
        entry = self._by_id.get(registration_id)
        return entry if entry is not None and entry.org_id == org_id else None

    def of_repo(self, org_id: str, repo_identifier: str) -> list[Registered]:
        """The repository's workflows, whichever source has it."""
        return self._by_repo.get((org_id, repo_identifier), [])

    def waiting_for(self, org_id: str, trigger_types: Iterable[str]) -> list[Registered]:
        """Workflows with a trigger of any of these types, each once (OR-72)."""
        found = {
            entry.id: entry for kind in trigger_types for entry in self._by_type.get((org_id, kind), ())
        }
        return list(found.values())

    def _registered(self, row: dict[str, Any], plans: dict[tuple[str, str], PlannedWorkflow]) -> Registered:
        key = (row["sdk_version"], row["lock_entry"])
        workflow = self._plans.get(key) or plan_workflow(
            msgspec.json.decode(row["lock_entry"], type=StoredWorkflow), row["sdk_version"]
        )
        plans[key] = workflow
        return Registered(
            id=row["id"],
            org_id=row["org_id"],
            routing_key=row["routing_key"],
            repo_identifier=row["repo_identifier"],
            workflow=workflow,
            default_branch=row["default_branch"],
            commit_sha=row["commit_sha"],
            commit_message=row["commit_message"],
            disabled=row["disabled"],
        )
