"""Asking an orchestrator: the methods, declared once, and the one way to call them (PD-21, PD-38…40)."""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import msgspec
from prometheus_client import Counter, Gauge, Histogram

from kici.platform.errors import (
    CapabilityMissing,
    OrchestratorOffline,
    OrchestratorRefused,
    OrchestratorTimeout,
    TooManyRequests,
)
from kici.platform.link.connection import BytesAnswer, Connection, ConnectionGone, Connections, RpcAnswer
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
)
from kici.protocol.platform_v1 import Actor, RpcRequest
from kici.protocol.remote_v1 import BaseView, RemoteTriggered, UploadView
from kici.runtime.ids import request_id
from kici.runtime.metrics import Metrics
from kici.spec.durations import in_words

MAX_IN_FLIGHT_PER_ORG = 200

_UNKNOWN = frozenset({"unknown_method", "unsupported_request_type"})

ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class Method(Generic[ResultT]):
    name: str
    result: type[ResultT]


RUN_DETAIL = Method("run.detail", RunDetailView)
RUN_CANCEL = Method("run.cancel", CancelResult)
RUN_RERUN = Method("run.rerun", NewRun)
RUN_CANCEL_BRANCH = Method("run.cancel_branch", BranchCancelResult)
RUN_PAYLOAD = Method("run.payload", PayloadView)
LOGS_READ = Method("logs.read", LogPage)
LOGS_SEARCH = Method("logs.search", LogSearchResult)
LOGS_RAW = Method("logs.raw", bytes)
REGISTRATIONS = Method("registrations.list", RegistrationList)
REGISTRATION_RUN = Method("registration.run", NewRun)
REMOTE_BASE = Method("remote.base", BaseView)
REMOTE_UPLOAD = Method("remote.upload", UploadView)
REMOTE_TRIGGER = Method("remote.trigger", RemoteTriggered)
DELIVERIES = Method("deliveries.list", DeliveryList)
DIAGNOSTICS = Method("diagnostics", DiagnosticsView)


class RpcClient:
    def __init__(self, connections: Connections, metrics: Metrics, *, timeout_ms: int) -> None:
        self._connections = connections
        self._timeout_ms = timeout_ms
        self._in_flight: dict[str, int] = {}
        self._requests: Counter = metrics.counter(
            "platform_dashboard_proxy_requests_total", "Requests to orchestrators", ["outcome"]
        )
        self._pending: Gauge = metrics.gauge("platform_dashboard_proxy_pending", "Requests now waiting")
        self._duration: Histogram = metrics.histogram(
            "platform_dashboard_proxy_duration_seconds",
            "Time until the answer",
            (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )

    def clusters(self, org_id: str) -> list[str]:
        """Names of those that are connected now."""
        return sorted({connection.hello.cluster_name for connection in self._connections.of_org(org_id)})

    async def call(
        self,
        method: Method[ResultT],
        org_id: str,
        actor: Actor,
        params: dict[str, Any],
        *,
        cluster_name: str | None = None,
    ) -> ResultT:
        """Raises OrchestratorOffline, OrchestratorTimeout, OrchestratorRefused, CapabilityMissing."""
        answer = await self._ask(method.name, org_id, actor, params, cluster_name)
        if isinstance(answer, BytesAnswer):
            raise OrchestratorRefused("unexpected answer", code="bad_answer", status=502)
        try:
            return msgspec.json.decode(answer.result, type=method.result)
        except msgspec.MsgspecError as error:
            raise OrchestratorRefused(
                "the orchestrator's answer cannot be read: versions may differ",
                code="bad_answer",
                status=502,
            ) from error

    async def call_bytes(
        self,
        method: Method[bytes],
        org_id: str,
        actor: Actor,
        params: dict[str, Any],
        *,
        cluster_name: str | None = None,
    ) -> BytesAnswer:
        answer = await self._ask(method.name, org_id, actor, params, cluster_name)
        if isinstance(answer, RpcAnswer):
            raise OrchestratorRefused("unexpected answer", code="bad_answer", status=502)
        return answer

    async def _ask(
        self, method: str, org_id: str, actor: Actor, params: dict[str, Any], cluster_name: str | None
    ) -> RpcAnswer | BytesAnswer:
        connection = self._connections.for_run(org_id, cluster_name)
        if connection is None:
            self._requests.labels("offline").inc()
            raise OrchestratorOffline
        methods = connection.hello.methods
        if methods and method not in methods:
            self._requests.labels("unsupported").inc()
            raise CapabilityMissing(method, connection.hello.version)
        waiting = self._in_flight.get(org_id, 0)
        if waiting >= MAX_IN_FLIGHT_PER_ORG:
            raise TooManyRequests("too many requests to this orchestrator", retry_after_seconds=1)
        self._in_flight[org_id] = waiting + 1
        self._pending.inc()
        try:
            with self._duration.time():
                answer = await self._send(connection, method, actor, params)
        finally:
            self._pending.dec()
            self._in_flight[org_id] -= 1
            if not self._in_flight[org_id]:
                del self._in_flight[org_id]
        if isinstance(answer, RpcAnswer) and answer.error_code is not None:
            self._requests.labels("refused").inc()
            if answer.error_code in _UNKNOWN:
                raise CapabilityMissing(method, connection.hello.version)
            status = answer.status if 400 <= answer.status < 600 else 400
            raise OrchestratorRefused(
                answer.error or answer.error_code, code=answer.error_code, status=status
            )
        self._requests.labels("ok").inc()
        return answer

    async def _send(
        self, connection: Connection, method: str, actor: Actor, params: dict[str, Any]
    ) -> RpcAnswer | BytesAnswer:
        request = RpcRequest(
            id=request_id(), method=method, params=params, actor=actor, deadline_ms=self._timeout_ms
        )
        try:
            return await connection.call(request)
        except ConnectionGone:
            self._requests.labels("offline").inc()
            raise OrchestratorOffline from None
        except TimeoutError:
            self._requests.labels("timeout").inc()
            raise OrchestratorTimeout(
                f"the orchestrator did not answer within {in_words(self._timeout_ms)}"
            ) from None
