"""`job.dispatch` as it is minted when sent (OR-153)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct, structs

from kici.orchestrator.dispatch.claim import ClaimedJob
from kici.protocol.agent_v1 import Checkout, JobDispatch
from kici.protocol.runner_v1 import RunOutcome
from kici.spec.events import Event
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus


class _Upstream(Struct, frozen=True):
    """`fanned`: a child of a matrix; `group`: needed as one of it; `target`: of a generator, the group."""

    name: str
    base: str
    fanned: bool
    group: str | None
    kind: str
    target: str | None
    status: JobStatus
    error: str | None
    outputs: dict[str, Any] | None


_FAILED = frozenset({JobStatus.FAILED, JobStatus.TIMED_OUT_STALE, JobStatus.DRIFT_DROPPED})


_decode_job = msgspec.json.Decoder(LockJob).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_matrix = msgspec.json.Decoder(dict[str, str | int | float | bool]).decode
_decode_upstream = msgspec.json.Decoder(list[_Upstream]).decode
_decode_inputs = msgspec.json.Decoder(dict[str, Any]).decode


def dispatch_frame(
    job: ClaimedJob, *, now_ms: int, max_log_size_bytes: int, extras: Mapping[str, Any] = {}
) -> JobDispatch:
    """Raises MsgspecError for what cannot be read back from the tables."""
    everything = _decode_upstream(job.upstream)
    upstream = [up for up in everything if up.kind == "job"]
    frame = JobDispatch(
        run_id=job.run_id,
        job_id=job.job_id,
        attempt=job.attempt,
        job_name=job.job_name,
        base_job_name=job.base_job_name if job.kind != "init" else job.target_job or "",
        workflow_name=job.workflow_name,
        workflow_file=job.workflow_file,
        workflow_export=job.workflow_export,
        content_hash=job.content_hash,
        compile_schema_version=job.compile_schema_version,
        sdk_version=job.sdk_version,
        resolved_hash_files=job.resolved_hash_files,
        job=_decode_job(job.spec),
        matrix=_decode_matrix(job.matrix_values) if job.matrix_values is not None else {},
        checkout=Checkout(repo_url=job.repo_url or "", sha=job.sha, ref=job.ref),
        event=_decode_event(job.event),
        env=_facts(job),
        upstream_outputs={up.name: up.outputs for up in upstream if up.outputs is not None},
        upstream_statuses={up.name: up.status for up in upstream},
        org_id=job.org_id,
        repo_identifier=job.repo_identifier,
        request_id=job.request_id,
        timestamp=now_ms,
        max_log_size_bytes=max_log_size_bytes,
        purpose=job.kind,
        generator_index=job.generator_index,
        rules_from=job.rules_from,
        run_outcome=_outcome(job, everything, now_ms) if job.kind == "hooks" else None,
        inputs=_decode_inputs(job.inputs),
        environments=job.environments,
        check_mode=job.check_mode,
        is_test_run=job.is_test_run,
        fanout_index=job.fanout_index,
        fanout_total=job.fanout_total,
        upstream_groups=_groups(everything) if everything else {},
    )
    return structs.replace(frame, **extras) if extras else frame


def _groups(upstream: Sequence[_Upstream]) -> dict[str, list[str]]:
    """Group, or base job with a matrix, to the names of its jobs in order; an empty group is there, too."""
    groups: dict[str, list[str]] = {}
    for up in upstream:
        if up.kind == "dynamic" and up.group is not None:
            groups.setdefault(up.group, [])
        elif up.kind == "job":
            if up.group is not None:
                groups.setdefault(up.group, []).append(up.name)
            if up.fanned:
                groups.setdefault(up.base, []).append(up.name)
    return groups


def _outcome(job: ClaimedJob, upstream: Sequence[_Upstream], now_ms: int) -> RunOutcome:
    """How the run went before its hooks (AU-33)."""
    failed = next((up for up in upstream if up.status in _FAILED), None)
    stopped = job.cancelling or any(up.status is JobStatus.CANCELLED for up in upstream)
    reason: str | None = None
    if failed is not None:
        reason = failed.error or job.failure_reason
    elif stopped:
        reason = job.cancel_reason
    return RunOutcome(
        status="failed" if failed else "cancelled" if stopped else "success",
        reason=reason,
        failed_job=failed.target or failed.name if failed else None,
        duration_ms=max(0, now_ms - job.run_started_ms) if job.run_started_ms is not None else 0,
        job_statuses={up.name: up.status for up in upstream if up.kind == "job"},
    )


def _facts(job: ClaimedJob) -> dict[str, str]:
    """What every step may know about its run (AG-63)."""
    return {
        "KICI": "true",
        "CI": "true",
        "KICI_ORG_ID": job.org_id,
        "KICI_RUN_ID": job.run_id,
        "KICI_JOB_ID": job.job_id,
        "KICI_WORKFLOW": job.workflow_name,
        "KICI_JOB": job.job_name,
        "KICI_ATTEMPT": str(job.attempt),
        "KICI_REPO": job.repo_identifier,
        "KICI_SHA": job.sha,
        "KICI_REF": job.ref,
        "KICI_BRANCH": job.branch or "",
        "KICI_EVENT": job.trigger_event,
        "KICI_REQUEST_ID": job.request_id,
    }
