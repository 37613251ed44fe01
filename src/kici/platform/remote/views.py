"""What REST says about a remote run beyond kici.protocol.remote_v1."""

from msgspec import Struct

from kici.spec.states import JobStatus, RunStatus


class RemoteJobView(Struct, frozen=True, kw_only=True, rename="camel"):
    job_id: str
    job_name: str
    status: JobStatus
    exit_code: int | None  # of the step that failed
    error_message: str | None


class RemoteRunView(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    workflow_name: str
    status: RunStatus
    failure_reason: str | None
    jobs: list[RemoteJobView]
    done: bool


class RemoteLogs(Struct, frozen=True, kw_only=True, rename="camel"):
    """`lines` follow those before `cursor`; ask again with `next_cursor`. `done`: the run has ended and its
    last line is among these."""

    lines: list[str]
    next_cursor: int
    done: bool


class RemoteCancelled(Struct, frozen=True, kw_only=True, rename="camel"):
    cancelled: bool
