"""Runs of registered workflows, at the commit that the default branch has (OR-46, OR-76)."""

from typing import Any, cast

from kici.engine.inputs import resolve
from kici.engine.triggers import Decision
from kici.orchestrator.registry.index import Registered
from kici.orchestrator.runs.start import Commit, RunRequest
from kici.orchestrator.sources.source import Source
from kici.protocol.dashboard_v1 import DeliveryCheck, DeliveryDecision
from kici.spec.events import Event
from kici.spec.triggers import DispatchTrigger, Trigger


def decision_view(workflow_name: str, found: Decision, *, disabled: bool) -> DeliveryDecision:
    """What people are shown of a match; a disabled workflow never matches (OR-75)."""
    blocked = found.matched and disabled
    return DeliveryDecision(
        workflow_name=workflow_name,
        matched=found.matched and not disabled,
        trigger_index=found.trigger_index,
        reason=f"{found.reason}, but the workflow is disabled" if blocked else found.reason,
        run_id=None,
        checks=[
            DeliveryCheck(check=c.check, expected=c.expected, actual=c.actual, matched=c.matched)
            for c in found.checks
        ],
    )


def dispatch_inputs(trigger: Trigger, event: Event) -> dict[str, Any]:
    """What a `dispatch` that came as an event gives to a workflow with typed inputs (AU-83). Raises
    InvalidInputs."""
    if not isinstance(trigger, DispatchTrigger) or not trigger.inputs:
        return {}
    given = event.payload.get("client_payload")
    return resolve(trigger.inputs, cast("dict[str, object]", given) if isinstance(given, dict) else {})


def registered_commit(entry: Registered, repository: Source) -> Commit:
    return Commit(
        repo_identifier=entry.repo_identifier,
        repo_url=repository.config.path,
        ref=f"refs/heads/{entry.default_branch}",
        branch=entry.default_branch,
        sha=entry.commit_sha,
        message=entry.commit_message,
    )


def registered_run(
    entry: Registered,
    repository: Source,
    *,
    event: Event,
    trigger_event: str,
    decision: DeliveryDecision,
    dedup_key: str,
    request_id: str,
    delivery_id: str | None = None,
    chain_depth: int = 0,
    triggered_by: str | None = None,
    inputs: dict[str, Any] | None = None,
) -> RunRequest:
    """`repository`: the source that the workflow was registered from."""
    return RunRequest(
        source=repository.attribution,
        commit=registered_commit(entry, repository),
        workflow=entry.workflow,
        event=event,
        trigger_event=trigger_event,
        decision=decision,
        dedup_key=dedup_key,
        request_id=request_id,
        delivery_id=delivery_id,
        chain_depth=chain_depth,
        triggered_by=triggered_by,
        inputs=inputs or {},
    )
