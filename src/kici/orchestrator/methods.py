"""Which service answers which RPC method; see kici.protocol.dashboard_v1 for the table."""

from collections.abc import Mapping

from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.registry.manual import Dispatched
from kici.orchestrator.rpc import (
    BranchParams,
    Caller,
    CancelParams,
    DeliveriesParams,
    DispatchParams,
    NoParams,
    RegistrationRunParams,
    RerunParams,
    RpcMethod,
    RunParams,
)
from kici.orchestrator.runs.service import RunService
from kici.protocol.dashboard_v1 import (
    BranchCancelResult,
    CancelResult,
    DeliveryList,
    DiagnosticsView,
    NewRun,
    PayloadView,
    RegistrationList,
    RunDetailView,
)


def rpc_methods(runs: RunService, ingress: Ingress, logs: LogService) -> Mapping[str, RpcMethod]:
    async def detail(params: RunParams, caller: Caller) -> RunDetailView:
        return await runs.detail(params.run_id, org_id=caller.org_id)

    async def cancel(params: CancelParams, caller: Caller) -> CancelResult:
        return await runs.cancel(params.run_id, caller.actor, force=params.force, org_id=caller.org_id)

    async def cancel_branch(params: BranchParams, caller: Caller) -> BranchCancelResult:
        return await runs.cancel_branch(params.branch.strip(), caller.actor, org_id=caller.org_id)

    async def rerun(params: RerunParams, caller: Caller) -> NewRun:
        return await runs.rerun(params.run_id, caller.actor, mode=params.mode, org_id=caller.org_id)

    async def payload(params: RunParams, caller: Caller) -> PayloadView:
        return await ingress.deliveries.payload(caller.org_id, params.run_id)

    async def registrations(_params: NoParams, caller: Caller) -> RegistrationList:
        return await ingress.registrations.listing(caller.org_id)

    async def deliveries(params: DeliveriesParams, caller: Caller) -> DeliveryList:
        return await ingress.deliveries.deliveries(caller.org_id, limit=params.limit, before=params.before)

    async def diagnostics(_params: NoParams, caller: Caller) -> DiagnosticsView:
        return await runs.diagnostics(org_id=caller.org_id)

    async def run_now(params: RegistrationRunParams, caller: Caller) -> NewRun:
        return await ingress.manual.run_now(
            caller.org_id, params.registration_id, params.inputs, caller.actor
        )

    async def dispatch(params: DispatchParams, caller: Caller) -> Dispatched:
        return await ingress.manual.dispatch(
            caller.org_id, params.repository, params.type, params.inputs, caller.actor
        )

    return {
        "run.detail": RpcMethod(params=RunParams, handler=detail),
        "run.cancel": RpcMethod(params=CancelParams, handler=cancel),
        "run.cancel_branch": RpcMethod(params=BranchParams, handler=cancel_branch),
        "run.rerun": RpcMethod(params=RerunParams, handler=rerun),
        "run.payload": RpcMethod(params=RunParams, handler=payload),
        "registrations.list": RpcMethod(params=NoParams, handler=registrations),
        "registration.run": RpcMethod(params=RegistrationRunParams, handler=run_now),
        "dispatch.trigger": RpcMethod(params=DispatchParams, handler=dispatch),
        "deliveries.list": RpcMethod(params=DeliveriesParams, handler=deliveries),
        "diagnostics": RpcMethod(params=NoParams, handler=diagnostics),
        **logs.methods(),
    }
