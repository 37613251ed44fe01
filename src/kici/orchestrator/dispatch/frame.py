"""`job.dispatch` as it is minted when sent (OR-153)."""

from typing import Any

import msgspec
from msgspec import Struct

from kici.orchestrator.dispatch.claim import ClaimedJob
from kici.protocol.agent_v1 import Checkout, JobDispatch
from kici.spec.events import Event
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus


class _Upstream(Struct, frozen=True):
    status: JobStatus
    outputs: dict[str, Any] | None


_decode_job = msgspec.json.Decoder(LockJob).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_matrix = msgspec.json.Decoder(dict[str, str | int | float | bool]).decode
_decode_upstream = msgspec.json.Decoder(dict[str, _Upstream]).decode


def dispatch_frame(job: ClaimedJob, *, now_ms: int, max_log_size_bytes: int) -> JobDispatch:
    upstream = _decode_upstream(job.upstream)
    return JobDispatch(
        run_id=job.run_id,
        job_id=job.job_id,
        attempt=job.attempt,
        job_name=job.job_name,
        base_job_name=job.base_job_name,
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
        upstream_outputs={name: up.outputs for name, up in upstream.items() if up.outputs is not None},
        upstream_statuses={name: up.status for name, up in upstream.items()},
        org_id=job.org_id,
        repo_identifier=job.repo_identifier,
        request_id=job.request_id,
        timestamp=now_ms,
        max_log_size_bytes=max_log_size_bytes,
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
