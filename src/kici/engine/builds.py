"""The setup row that builds a workflow's dependencies once for everybody who needs them (AG-69, OR-139). Pure."""

import hashlib

from kici.engine.graph import PlannedJob, setup_row
from kici.engine.labels import LabelQuery
from kici.spec.lock import LockWorkflow
from kici.spec.states import JobStatus

BUILT = tuple(sorted((JobStatus.SUCCESS, JobStatus.SKIPPED)))
"""What satisfies an edge on a build: it ran, or another run's build made it superfluous."""

CATEGORY = "build_coordination"
TOO_LONG = "Waited longer than {limit} for the build of its dependencies by run {run}"
WAITING = "Waiting for the build of its dependencies by run {run}"


def build_row(workflow: LockWorkflow, *, timeout_ms: int) -> PlannedJob:
    """It runs where the workflow's first job would: an environment fits the interpreter it was made with."""
    first = next((job for job in workflow.jobs if job.type != "dynamic" and job.runs_on), None)
    return setup_row(
        workflow,
        0,
        "build",
        f"__build__{workflow.name}",
        step="build",
        like=first,
        category=CATEGORY,
        timeout_ms=timeout_ms,
    )


def build_key(lockfile_hash: str, query: LabelQuery) -> str:
    """What runs share a build by: the dependency lock, and which agents may run it (AG-73)."""
    agents = "+".join(sorted(query.required)) or "any"
    if query.excluded or query.patterns is not None:
        rest = repr((sorted(query.excluded), query.patterns)).encode()
        agents += f"~{hashlib.sha256(rest).hexdigest()[:12]}"
    return f"{lockfile_hash}/{agents}"
