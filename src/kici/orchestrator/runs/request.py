"""What asks for a run, and what it gets."""

from typing import Any

from msgspec import Struct

from kici.orchestrator.runs.planning import PlannedWorkflow
from kici.protocol.dashboard_v1 import DeliveryDecision, InitFailure
from kici.spec.events import Event
from kici.spec.ids import JobId, RunId


class RunSource(Struct, frozen=True, kw_only=True):
    """Which source a run is attributed to."""

    org_id: str
    routing_key: str
    name: str
    subtype: str
    provider: str


class Commit(Struct, frozen=True, kw_only=True):
    """What is checked out. `ref` is the full name, `branch` its short form for branches."""

    repo_identifier: str
    repo_url: str | None
    ref: str
    branch: str | None
    sha: str
    message: str | None


class RunRequest(Struct, frozen=True, kw_only=True):
    """One run to start. Every trigger builds this and nothing else (OR-6).

    `failure` makes a run that has already failed: it explains what stands in its way and holds no job.
    `inputs` are checked and complete. `overlay_key` and `remote_secrets` (sealed) belong to remote runs.
    """

    source: RunSource
    commit: Commit
    workflow: PlannedWorkflow
    event: Event
    trigger_event: str
    decision: DeliveryDecision
    dedup_key: str
    request_id: str
    delivery_id: str | None = None
    inbox_id: str | None = None
    chain_depth: int = 0
    triggered_by: str | None = None
    parent_run_id: str | None = None
    original_run_id: str | None = None
    failure: InitFailure | None = None
    check_mode: str = "apply"
    is_test_run: bool = False
    inputs: dict[str, Any] = {}
    overlay_key: str | None = None
    remote_secrets: bytes | None = None


class StartPolicy(Struct, frozen=True, kw_only=True):
    queue_max_depth: int = 1000  # 0: unbounded (OR-148)
    queue_timeout_ms: int = 3_600_000  # 0: none (OR-149)
    concurrency_wait_timeout_ms: int = 3_600_000  # 0: none (OR-181)
    cache_build_timeout_ms: int = 600_000  # (AG-69)


class StartedRun(Struct, frozen=True, kw_only=True):
    """`created` False: a run with this dedup key was there already, and it is `run_id`. `waits`: it asks for
    a place in a concurrency group, or for a build; wake `concurrency`."""

    run_id: RunId
    created: bool
    job_ids: list[JobId]
    failure: InitFailure | None
    waits: bool = False
