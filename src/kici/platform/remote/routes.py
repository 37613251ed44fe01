"""`O/test/…`: the calls of `kici run remote` (AU-123)."""

from typing import Annotated

from litestar import get, post
from litestar.params import FromPath, JSONBody, QueryParameter

from kici.platform.http.caller import Org
from kici.platform.remote.views import RemoteCancelled, RemoteLogs, RemoteRunView
from kici.platform.services import Platform
from kici.protocol.remote_v1 import (
    MAX_LOCK_BYTES,
    BaseBody,
    BaseView,
    RemoteTriggerBody,
    RemoteTriggered,
    UploadBody,
    UploadView,
)

# The lock file travels as a string inside JSON: every quote in it costs a byte more.
_TRIGGER_CAP_BYTES = 3 * MAX_LOCK_BYTES

ClusterName = Annotated[str | None, QueryParameter(max_length=63)]
DefaultCluster = Annotated[str | None, QueryParameter(name="defaultCluster", max_length=63)]


@post(
    "/test/base",
    operation_id="findRemoteBase",
    tags=["remote runs"],
    status_code=200,
    permission="runs.write",
)
async def find_base(
    data: JSONBody[BaseBody],
    org: Org,
    platform: Platform,
    orchestrator: ClusterName = None,
    default_cluster: DefaultCluster = None,
) -> BaseView:
    """Which source the author's repository is, and which of its commits are there to send a difference to."""
    cluster_name = platform.remote.choose(org.org_id, orchestrator, default_cluster)
    return await platform.remote.find_base(org, cluster_name, data)


@post(
    "/test/uploads/init",
    operation_id="initRemoteUpload",
    tags=["remote runs"],
    status_code=201,
    permission="runs.write",
)
async def init_upload(
    data: JSONBody[UploadBody],
    org: Org,
    platform: Platform,
    orchestrator: ClusterName = None,
    default_cluster: DefaultCluster = None,
) -> UploadView:
    """Where the sealed working tree goes, and the public key to seal it for."""
    cluster_name = platform.remote.choose(org.org_id, orchestrator, default_cluster)
    return await platform.remote.begin_upload(org, cluster_name, data)


@post(
    "/test/trigger",
    operation_id="triggerRemoteRun",
    tags=["remote runs"],
    status_code=202,
    permission="runs.write",
    request_max_body_size=_TRIGGER_CAP_BYTES,
)
async def trigger(
    data: JSONBody[RemoteTriggerBody],
    org: Org,
    platform: Platform,
    orchestrator: ClusterName = None,
    default_cluster: DefaultCluster = None,
) -> RemoteTriggered:
    """Starts what the event matches; 422 with the reason when nothing may start."""
    cluster_name = platform.remote.choose(org.org_id, orchestrator, default_cluster)
    return await platform.remote.trigger(org, cluster_name, data)


@get("/test/runs/{run_id:str}", operation_id="getRemoteRun", tags=["remote runs"], permission="runs.read")
async def remote_run(run_id: FromPath[str], org: Org, platform: Platform) -> RemoteRunView:
    return await platform.remote.run(org, run_id)


@get(
    "/test/runs/{run_id:str}/logs",
    operation_id="getRemoteRunLogs",
    tags=["remote runs"],
    permission="runs.read",
)
async def remote_logs(
    run_id: FromPath[str],
    org: Org,
    platform: Platform,
    cursor: Annotated[int, QueryParameter(ge=0)] = 0,
) -> RemoteLogs:
    """The lines of all steps after `cursor`; a lost connection goes on where it was."""
    return await platform.remote.logs(org, run_id, cursor)


@post(
    "/test/runs/{run_id:str}/cancel",
    operation_id="cancelRemoteRun",
    tags=["remote runs"],
    status_code=202,
    permission="runs.write",
)
async def cancel_remote(run_id: FromPath[str], org: Org, platform: Platform) -> RemoteCancelled:
    return await platform.remote.cancel(org, run_id)


HANDLERS = [find_base, init_upload, trigger, remote_run, remote_logs, cancel_remote]
