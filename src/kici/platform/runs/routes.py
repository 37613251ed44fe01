"""Runs: lists from the projection; detail, logs, payload and actions from the orchestrator."""

from datetime import datetime
from typing import Annotated

from litestar import get, post
from litestar.params import FromPath, FromQuery, JSONBody, PathParameter, QueryParameter, SkipValidation
from litestar.response import Stream

from kici.platform.http.caller import Org
from kici.platform.runs.views import (
    CancelBody,
    CancelBranchBody,
    Direction,
    RerunBody,
    RunNowBody,
    RunQuery,
    RunView,
    SortField,
)
from kici.platform.services import Platform
from kici.protocol.dashboard_v1 import (
    BranchCancelResult,
    CancelResult,
    DeliveryList,
    DiagnosticsView,
    LogPage,
    LogSearchResult,
    NewRun,
    PayloadView,
    RegistrationList,
    RunDetailView,
    RunFilters,
    RunGroupList,
    RunList,
)
from kici.spec.states import known_run_words

Values = list[str] | None
StepIndex = Annotated[int, PathParameter(ge=-1, le=4_000_000)]


def provide_run_query(
    status: FromQuery[Values] = None,
    workflow: FromQuery[Values] = None,
    branch: FromQuery[Values] = None,
    repository: FromQuery[Values] = None,
    trigger_type: Annotated[Values, QueryParameter(name="triggerType")] = None,
    source: FromQuery[Values] = None,
    sha: Annotated[str | None, QueryParameter(max_length=64, pattern="^[0-9a-fA-F]*$")] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    q: Annotated[str | None, QueryParameter(max_length=200)] = None,
    page: Annotated[int, QueryParameter(ge=1, le=100_000)] = 1,
    page_size: Annotated[int, QueryParameter(name="pageSize", ge=1, le=100)] = 20,
    sort: FromQuery[SortField] = "createdAt",
    dir: FromQuery[Direction] = "desc",
) -> RunQuery:
    return RunQuery(
        statuses=known_run_words(status or []),
        workflows=workflow or [],
        branches=branch or [],
        repositories=repository or [],
        trigger_types=trigger_type or [],
        sources=source or [],
        sha=sha.lower() if sha else None,
        since=since,
        until=until,
        text=q.strip() or None if q else None,
        page=page,
        page_size=page_size,
        sort=sort,
        direction=dir,
    )


Query = SkipValidation[RunQuery]


@get("/runs", operation_id="listRuns", tags=["runs"], permission="runs.read")
async def list_runs(org: Org, run_query: Query, platform: Platform) -> RunList:
    return await platform.runs.page(org.org_id, run_query)


@get("/runs/by-commit", operation_id="listRunsByCommit", tags=["runs"], permission="runs.read")
async def list_runs_by_commit(org: Org, run_query: Query, platform: Platform) -> RunGroupList:
    """Pages count commits: all matching runs of a commit stand in one group."""
    return await platform.runs.by_commit(org.org_id, run_query)


@get("/runs/filters", operation_id="getRunFilters", tags=["runs"], permission="runs.read")
async def run_filters(org: Org, platform: Platform) -> RunFilters:
    return await platform.runs.filters(org.org_id)


@get("/runs/{run_id:str}", operation_id="getRun", tags=["runs"], permission="runs.read")
async def get_run(run_id: FromPath[str], org: Org, platform: Platform) -> RunView:
    return await platform.runs.get(org.org_id, run_id)


@get("/runs/{run_id:str}/detail", operation_id="getRunDetail", tags=["runs"], permission="runs.read")
async def run_detail(run_id: FromPath[str], org: Org, platform: Platform) -> RunDetailView:
    """From the orchestrator; from the projection (`source: "projection"`) when it is away."""
    return await platform.runs.detail(org, run_id)


@get("/runs/{run_id:str}/payload", operation_id="getRunPayload", tags=["runs"], permission="runs.read")
async def run_payload(run_id: FromPath[str], org: Org, platform: Platform) -> PayloadView:
    return await platform.runs.payload(org, run_id)


@post(
    "/runs/{run_id:str}/cancel",
    operation_id="cancelRun",
    tags=["runs"],
    status_code=202,
    permission="runs.write",
)
async def cancel_run(
    run_id: FromPath[str], org: Org, platform: Platform, data: JSONBody[CancelBody | None] = None
) -> CancelResult:
    return await platform.runs.cancel(org, run_id, force=data is not None and data.force)


@post(
    "/runs/{run_id:str}/rerun",
    operation_id="rerunRun",
    tags=["runs"],
    status_code=202,
    permission="runs.write",
)
async def rerun(
    run_id: FromPath[str], org: Org, platform: Platform, data: JSONBody[RerunBody | None] = None
) -> NewRun:
    """The same commit and event again, as a new run."""
    return await platform.runs.rerun(org, run_id, mode="all" if data is None else data.mode)


@post(
    "/runs/cancel-by-branch",
    operation_id="cancelRunsByBranch",
    tags=["runs"],
    status_code=202,
    permission="runs.write",
)
async def cancel_by_branch(
    data: JSONBody[CancelBranchBody], org: Org, platform: Platform
) -> BranchCancelResult:
    return await platform.runs.cancel_branch(org, data.branch)


@get(
    "/runs/{run_id:str}/jobs/{job_id:str}/steps/{step_index:int}/logs",
    operation_id="getStepLogs",
    tags=["logs"],
    permission="runs.read",
)
async def step_logs(
    run_id: FromPath[str],
    job_id: FromPath[str],
    step_index: StepIndex,
    org: Org,
    platform: Platform,
    offset: Annotated[int, QueryParameter(ge=0)] = 0,
    limit: Annotated[int, QueryParameter(ge=1, le=20_000)] = 5_000,
    tail: Annotated[int | None, QueryParameter(ge=1, le=20_000)] = None,
) -> LogPage:
    """`tail` gives the last lines and wins over `offset` and `limit`."""
    return await platform.runs.logs(org, run_id, job_id, step_index, offset=offset, limit=limit, tail=tail)


@get(
    "/runs/{run_id:str}/jobs/{job_id:str}/steps/{step_index:int}/logs/search",
    operation_id="searchStepLogs",
    tags=["logs"],
    permission="runs.read",
)
async def search_step_logs(
    run_id: FromPath[str],
    job_id: FromPath[str],
    step_index: StepIndex,
    org: Org,
    platform: Platform,
    q: Annotated[str, QueryParameter(min_length=1, max_length=1_000)],
    regex: FromQuery[bool] = False,
    limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1_000,
) -> LogSearchResult:
    return await platform.runs.search_logs(
        org, run_id, job_id, step_index, text=q, regex=regex, limit=limit
    )


@get(
    "/runs/{run_id:str}/jobs/{job_id:str}/steps/{step_index:int}/logs/raw",
    operation_id="getRawStepLogs",
    tags=["logs"],
    media_type="text/plain",
    permission="runs.read",
)
async def raw_step_logs(
    run_id: FromPath[str], job_id: FromPath[str], step_index: StepIndex, org: Org, platform: Platform
) -> Stream:
    """The step's output byte for byte, as an attachment."""
    pages = await platform.runs.raw_logs(org, run_id, job_id, step_index)
    name = f"{run_id[:13]}-{job_id[-8:]}-step{step_index}.log"
    return Stream(
        pages,
        media_type="text/plain; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="{name}"'},
    )


@get("/registrations", operation_id="listRegistrations", tags=["workflows"], permission="workflows.read")
async def registrations(org: Org, platform: Platform) -> RegistrationList:
    return await platform.runs.registrations(org)


@post(
    "/registrations/{registration_id:str}/run",
    operation_id="runRegistration",
    tags=["workflows"],
    status_code=202,
    permission="workflows.write",
)
async def run_registration(
    registration_id: FromPath[str], org: Org, platform: Platform, data: JSONBody[RunNowBody | None] = None
) -> NewRun:
    """Run it now, on the registered commit of the default branch."""
    return await platform.runs.run_now(org, registration_id, {} if data is None else data.inputs)


@get("/deliveries", operation_id="listDeliveries", tags=["deliveries"], permission="event_log.read")
async def deliveries(
    org: Org,
    platform: Platform,
    limit: Annotated[int, QueryParameter(ge=1, le=200)] = 50,
    before: Annotated[str | None, QueryParameter(max_length=64)] = None,
) -> DeliveryList:
    return await platform.runs.deliveries(org, limit=limit, before=before)


@get("/diagnostics", operation_id="getDiagnostics", tags=["orgs"], permission="diagnostics.read")
async def diagnostics(org: Org, platform: Platform) -> DiagnosticsView:
    return await platform.runs.diagnostics(org)


HANDLERS = [
    list_runs,
    list_runs_by_commit,
    run_filters,
    get_run,
    run_detail,
    run_payload,
    cancel_run,
    cancel_by_branch,
    rerun,
    step_logs,
    search_step_logs,
    raw_step_logs,
    registrations,
    run_registration,
    deliveries,
    diagnostics,
]
