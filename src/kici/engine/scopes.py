"""What a pure function's parameter is when the orchestrator evaluates it: plain data with the names that
authors use (`ctx.event.target_branch`), in the shape of the SDK's classes (AU-34, AU-41, AU-59). Pure."""

from collections.abc import Mapping
from typing import Any

from kici.engine.expressions import Fields, Keys
from kici.spec.events import Event


def event_scope(event: Event) -> Fields:
    """`event` of `environment`, `env` and `concurrency_group` functions. `payload` is shared, not copied."""
    return Fields(**{name: getattr(event, name) for name in Event.__struct_fields__})


def rule_scope(
    event: Event,
    *,
    env: Mapping[str, str] | None = None,
    dispatch_inputs: Mapping[str, Any] | None = None,
    fanout_index: int = 0,
    fanout_total: int = 1,
) -> Fields:
    """`ctx` of a rule. Off fan-out a job is child 0 of 1 (AU-35)."""
    return Fields(
        event=event_scope(event),
        changed_files=event.changed_files,
        env=Keys(env or {}),
        dispatch_inputs=Keys(dispatch_inputs or {}),
        fanout=Fields(
            index=fanout_index,
            total=fanout_total,
            first=fanout_index == 0,
            last=fanout_index == fanout_total - 1,
        ),
    )


def concurrency_scope(
    event: Event,
    *,
    workflow: str,
    ref: str = "",
    sha: str = "",
    repository: str = "",
    dispatch_inputs: Mapping[str, Any] | None = None,
) -> Fields:
    """`ctx` of a workflow's `Concurrency.group`."""
    return Fields(
        event=event_scope(event),
        workflow=workflow,
        ref=ref,
        sha=sha,
        repository=repository,
        dispatch_inputs=Keys(dispatch_inputs or {}),
    )
