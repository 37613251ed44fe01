"""Requests and lock files for tests of ingress."""

from typing import Any

from kici.orchestrator.runs.start import (
    Commit,
    PlannedWorkflow,
    RunRequest,
    RunSource,
    plan_workflow,
)
from kici.protocol.dashboard_v1 import DeliveryDecision
from kici.spec.events import Event
from kici.spec.lock import LabelMatcher, LockJob, LockStep, LockWorkflow, Need, SourceLocation
from kici.spec.triggers import PushTrigger

ORG = "org_test00000000"
SHA = "a" * 40
SOURCE = RunSource(
    org_id=ORG, routing_key=f"generic:{ORG}:s1", name="repo", subtype="local", provider="local"
)


def lock_job(name: str, *needs: str, labels: tuple[str, ...] = ("linux",), **more: Any) -> LockJob:
    return LockJob(
        name=name,
        source=SourceLocation(file=".kici/workflows/ci.py", line=3),
        runs_on=[LabelMatcher(kind="exact", value=label) for label in labels],
        needs=[Need(name=need, run_on=["success"]) for need in needs],
        steps=[LockStep(name="only", source_location=SourceLocation(file=".kici/workflows/ci.py", line=4))],
        **more,
    )


def lock_workflow(name: str, *jobs: LockJob, **more: Any) -> LockWorkflow:
    return LockWorkflow(
        name=name,
        source=SourceLocation(file=".kici/workflows/ci.py", export=f"#{name}"),
        content_hash="c" * 64,
        compile_schema_version=1,
        triggers=[PushTrigger()],
        jobs=list(jobs),
        **more,
    )


def planned(name: str, *jobs: LockJob, **more: Any) -> PlannedWorkflow:
    return plan_workflow(lock_workflow(name, *jobs, **more), "0.1.0")


def request(workflow: PlannedWorkflow, *, key: str = "d1", **more: Any) -> RunRequest:
    fields: dict[str, Any] = {
        "source": SOURCE,
        "commit": Commit(
            repo_identifier="repo",
            repo_url="/srv/repo.git",
            ref="refs/heads/main",
            branch="main",
            sha=SHA,
            message="Say hello",
        ),
        "workflow": workflow,
        "event": Event(type="push", target_branch="main", payload={"ref": "refs/heads/main"}),
        "trigger_event": "push",
        "decision": DeliveryDecision(
            workflow_name=workflow.lock.name,
            matched=True,
            trigger_index=0,
            reason="Push to main",
            run_id=None,
            checks=[],
        ),
        "dedup_key": f"{key}:{workflow.lock.name}",
        "request_id": "r1",
        "delivery_id": key,
    }
    return RunRequest(**{**fields, **more})
