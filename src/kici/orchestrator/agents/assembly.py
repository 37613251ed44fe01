"""All that executes runs in one process, put together: `app.py` makes one, mounts its route, runs it."""

import asyncio

from kici.orchestrator.agents.applier import Applier
from kici.orchestrator.agents.hub import Hub
from kici.orchestrator.agents.recall import recall_loop
from kici.orchestrator.agents.requests import AgentRequests, RequestHandlers
from kici.orchestrator.agents.routes import agent_socket
from kici.orchestrator.agents.socket import AgentSocket
from kici.orchestrator.agents.streams import Streams
from kici.orchestrator.agents.telemetry import AgentTelemetry
from kici.orchestrator.agents.upkeep import upkeep_loop
from kici.orchestrator.dispatch.dispatcher import Dispatcher
from kici.orchestrator.dispatch.extras import DispatchExtras
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.outbox.depth import measure_loop
from kici.orchestrator.runs.attention import Attention
from kici.orchestrator.runs.execution import Execution, Limits
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.sweeps import Sweeps
from kici.runtime.backoff import supervised
from kici.runtime.clock import Clock
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.metrics import Metrics


class ExecutionAssembly:
    """`prepare` once the schema is there and before the socket is served; `run` for ever. `wakeups` has the
    channels queue, outbox, cancel and concurrency. Stop the HTTP server first and `run` after it: sockets that close still
    have something to write.

    `request_handlers` answer what jobs ask for, `extras` completes their dispatch. `route` is the Litestar
    handler of `ws_path`; `runs` answers routes, RPC and `kici-admin`; an engine with `generic_plans` saves a
    third of PostgreSQL's work.
    """

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        wakeups: Wakeups,
        metrics: Metrics,
        limits: Limits,
        clock: Clock,
        logs: LogStore,
        instance_id: str,
        cluster_name: str,
        ws_path: str = "/ws",
        request_handlers: RequestHandlers | None = None,
        extras: DispatchExtras | None = None,
    ) -> None:
        counters = ExecutionMetrics(metrics)
        self.execution = Execution(engine, wakeups, limits, counters, instance_id)
        self.hub = Hub(clock, lambda: wakeups.wake_here("queue"), heartbeat_ms=limits.agent_heartbeat_ms)
        self.runs = RunService(self.execution, clock, cluster_name=cluster_name)
        self._wakeups = wakeups
        self._applier = Applier(self.execution, self.hub)
        self._streams = Streams(logs, counters)
        self._dispatcher = Dispatcher(self.execution, self.hub, wakeups, clock, extras)
        self._groups = Groups(self.execution)
        self._attention = Attention(clock)
        self._sweeps = Sweeps(self.execution, self.hub.close_unanswered, self._attention)
        self._requests = AgentRequests(engine, request_handlers or {}, counters)
        socket = AgentSocket(self.execution, self.hub, self._applier, self._streams, self._requests)
        self.route = agent_socket(socket, ws_path)
        metrics.registry.register(AgentTelemetry(self.hub))
        counters.agents_active.set_function(lambda: len(self.hub))

    async def prepare(self) -> None:
        """Jobs of the process that ran before wait for their agents again; what it left undone is done."""
        await self._sweeps.at_start()

    async def run(self) -> None:
        execution = self.execution
        loops = {
            "reports": self._applier.run,
            "attention": lambda: self._attention.listen(self._applier.caught_up),
            "dispatch": self._dispatcher.run,
            "recall": lambda: recall_loop(execution, self.hub, self._wakeups),
            "agents.pulse": self.hub.pulse,
            "agents.requests": self._requests.run,
            "agents.upkeep": lambda: upkeep_loop(execution, self.hub),
            "concurrency": lambda: self._groups.run(self._wakeups),
            "sweeps.quick": self._sweeps.quick_loop,
            "sweeps.slow": self._sweeps.slow_loop,
            "sweeps.queue": self._sweeps.queue_loop,
            "outbox.depth": lambda: measure_loop(execution.engine, execution.metrics),
        }
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._streams.run(), name="log.finalise")
            for name, body in loops.items():
                tasks.create_task(supervised(name, body), name=name)
