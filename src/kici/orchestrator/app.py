"""The composition root: reads settings, wires everything, runs it until asked to stop."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

from litestar import Litestar, Router, get
from litestar.types import ASGIApp

import kici.orchestrator.db
from kici.orchestrator.agents.assembly import ExecutionAssembly
from kici.orchestrator.agents.inventory import Inventory
from kici.orchestrator.blobs.routes import blob_route
from kici.orchestrator.blobs.service import Blobs, open_store
from kici.orchestrator.caches.service import UserCaches
from kici.orchestrator.db.bootstrap import prepare
from kici.orchestrator.dispatch.extras import Minted
from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.http.admin import Services, admin_router
from kici.orchestrator.http.tokens import AdminTokens
from kici.orchestrator.http.webhooks import Webhooks
from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.link.link import Link, LinkSettings
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.methods import rpc_methods
from kici.orchestrator.orgs import Organisation
from kici.orchestrator.outbox.discard import discard_loop
from kici.orchestrator.remote.bases import Bases
from kici.orchestrator.remote.briefs import RemoteBriefs
from kici.orchestrator.remote.service import RemoteRuns
from kici.orchestrator.runs.execution import Limits
from kici.orchestrator.runs.start import StartPolicy
from kici.orchestrator.secrets.runs import RunKeys, forget_loop
from kici.orchestrator.settings import OrchestratorSettings
from kici.orchestrator.sources.local import LocalSources
from kici.runtime import http
from kici.runtime.backoff import supervised
from kici.runtime.buildinfo import build_fields, build_info
from kici.runtime.clock import Clock, SystemClock
from kici.runtime.database import AsyncEngine, Wakeups, connect, migrate, reachable, text
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics
from kici.runtime.signals import stop_on_signals

log = get_logger(__name__)

CHANNELS = (
    "inbox",
    "queue",
    "outbox",
    "sources",
    "registry",
    "cancel",
    "concurrency",
    "kici_event_channel",
)
FLUSH_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class App:
    """An orchestrator that is ready to serve: `front` is its ASGI application."""

    front: ASGIApp
    engine: AsyncEngine
    ingress: Ingress
    execution: ExecutionAssembly
    link: Link | None


@asynccontextmanager
async def running(
    settings: OrchestratorSettings, instance_id: str, clock: Clock | None = None
) -> AsyncGenerator[App]:
    """The whole orchestrator but its listener. Migrates, recovers, and runs the loops inside the block.

    At the end leases are given back and the outbox is flushed while the Platform listens; jobs go on at
    their agents (OR-261).
    """
    clock = clock or SystemClock()
    metrics = Metrics("kici_orch_")
    os.makedirs(settings.home, exist_ok=True)
    engine = connect(
        settings.database_url,
        pool_size=settings.database_pool_size,
        application_name="kici-orchestrator",
        generic_plans=True,
    )
    logs = LogStore(settings.home, settings.storage, metrics=metrics)
    try:
        if settings.auto_migrate:
            await migrate(engine, os.path.dirname(kici.orchestrator.db.__file__))
        await prepare(
            engine,
            bootstrap_file=settings.bootstrap_file,
            cluster_name=settings.cluster_name,
            independent=settings.mode == "independent",
        )
        wiring = _Wiring(settings, instance_id, engine, logs, clock, metrics)
        await wiring.ingress.load()
        await wiring.execution.prepare()
        async with asyncio.TaskGroup() as tasks:
            loops = [tasks.create_task(loop, name=name) for name, loop in wiring.loops().items()]
            try:
                yield wiring.app
            finally:
                await wiring.wind_down()
                for task in loops:
                    task.cancel()
        await wiring.ingress.close()
    finally:
        await logs.close()
        await engine.dispose()


class _Wiring:
    """Who knows whom."""

    def __init__(
        self,
        settings: OrchestratorSettings,
        instance_id: str,
        engine: AsyncEngine,
        store: LogStore,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._engine = engine
        self._metrics = metrics
        self._wakeups = Wakeups(settings.database_url, CHANNELS)
        start_policy = StartPolicy(
            queue_max_depth=settings.queue_max_depth,
            queue_timeout_ms=settings.queue_timeout_ms,
            concurrency_wait_timeout_ms=settings.concurrency_wait_timeout_ms,
            cache_build_timeout_ms=settings.cache_build_timeout_ms,
        )
        self.ingress = Ingress(
            engine,
            self._wakeups,
            metrics,
            clock,
            secret_key=bytes.fromhex(settings.secret_key),
            instance_id=instance_id,
            start_policy=start_policy,
            retry_policy=RetryPolicy(
                max_attempts=settings.event_router_max_dispatch_attempts,
                lease_ms=settings.event_router_lease_duration_ms,
                base_backoff_ms=settings.event_router_retry_base_backoff_ms,
                max_backoff_ms=settings.event_router_retry_max_backoff_ms,
            ),
            lockfile_cache_max=settings.lockfile_cache_max,
            lockfile_cache_ttl_ms=settings.lockfile_cache_ttl_ms,
            event_policy=EventPolicy(
                max_chain_depth=settings.event_router_max_chain_depth,
                rate_limit_per_minute=settings.event_router_rate_limit_per_workflow_per_minute,
                ttl_s=settings.event_router_event_ttl_seconds,
                retry_scan_interval_ms=settings.event_router_retry_scan_interval_ms,
                cleanup_interval_ms=settings.event_router_cleanup_interval_ms,
            ),
        )
        secret_key = bytes.fromhex(settings.secret_key)
        self._public_url = (
            settings.public_url.rstrip("/")
            or f"http://{_reachable_host(settings.host)}:{settings.port}{settings.root}"
        )
        self.blobs = Blobs(open_store(settings.storage), secret_key, clock, public_url=self._public_url)
        briefs = RemoteBriefs(secret_key, self.blobs)
        bases = Bases(self.ingress.index, self.ingress.repositories)
        self._remote = RemoteRuns(
            engine, self._wakeups, self.blobs, briefs, bases, secret_key=secret_key, policy=start_policy
        )
        self._caches = UserCaches(
            engine,
            self.blobs,
            quota_bytes=settings.user_cache_quota_bytes,
            ttl_ms=settings.user_cache_ttl_ms,
            max_packed_bytes=settings.cache_max_tarball_bytes,
        )
        self.execution = ExecutionAssembly(
            engine=engine,
            wakeups=self._wakeups,
            metrics=metrics,
            limits=Limits(
                dispatch_ack_timeout_ms=settings.dispatch_ack_timeout_ms,
                queue_timeout_ms=settings.queue_timeout_ms,
                concurrency_wait_timeout_ms=settings.concurrency_wait_timeout_ms,
                cache_build_timeout_ms=settings.cache_build_timeout_ms,
                queue_max_depth=settings.queue_max_depth,
                queue_backpressure_threshold=settings.queue_backpressure_threshold,
                agent_max_reconnect_delay_ms=settings.agent_max_reconnect_delay_ms,
                job_heartbeat_interval_ms=settings.job_heartbeat_interval_ms,
                stale_detector_scan_interval_ms=settings.stale_detector_scan_interval_ms,
                stale_detector_threshold_multiplier=settings.stale_detector_threshold_multiplier,
                max_job_attempts=settings.max_job_attempts,
                max_log_size_bytes=settings.max_log_size_bytes,
            ),
            clock=clock,
            logs=store,
            instance_id=instance_id,
            cluster_name=settings.cluster_name,
            extras=Minted(RunKeys(secret_key), briefs),
            request_handlers={
                **self._caches.handlers,
                **Inventory(engine).handlers,
                "event.emit": self.ingress.events.emitter.emit,
            },
        )
        self._logs = LogService(engine, store)
        self._link = self._make_link(settings, instance_id, clock)
        self._local = LocalSources(self.ingress.index, self.ingress.repositories, self._accept_ours)
        tokens = AdminTokens(engine)
        services = Services(
            organisation=Organisation(engine, lambda: self._link.org_id if self._link else None),
            tokens=tokens,
            ingress=self.ingress,
            local=self._local,
            runs=self.execution.runs,
            logs=self._logs,
            public_url=self._public_url,
            serves_webhooks=settings.serves_webhooks,
            platform_url=lambda key: self._link.webhook_url(key) if self._link else None,
        )
        api = self._api(settings, instance_id, services)
        front: Any = Webhooks(
            self.ingress.acceptor,
            tokens,
            cast("Any", api),
            root=settings.root,
            local_only=not settings.serves_webhooks,
            trusted_proxies=settings.trusted_proxies,
        )
        self.app = App(
            front=front,
            engine=engine,
            ingress=self.ingress,
            execution=self.execution,
            link=self._link,
        )

    def _make_link(self, settings: OrchestratorSettings, instance_id: str, clock: Clock) -> Link | None:
        if settings.mode == "independent":
            return None
        link = Link(
            LinkSettings(
                platform_url=settings.platform_url,
                token=settings.platform_token,
                instance_id=instance_id,
                cluster_name=settings.cluster_name,
                version=build_info().version,
                mode=settings.mode,
                hostname=socket.gethostname(),
            ),
            engine=self._engine,
            wakeups=self._wakeups,
            methods={
                **rpc_methods(self.execution.runs, self.ingress, self._logs),
                **self._remote.methods(),
            },
            accept=self.ingress.acceptor.accept,
            sources=self.ingress.index,
            logs=self._logs,
            metrics=self._metrics,
            clock=clock,
        )
        self.ingress.index.on_change(link.sources_changed)
        return link

    async def _accept_ours(self, delivery: Delivery) -> Acceptance:
        return await self.ingress.acceptor.accept(delivery, is_admin=True)

    def _api(self, settings: OrchestratorSettings, instance_id: str, services: Services) -> Litestar:
        async def checks() -> dict[str, bool]:
            return {"database": await reachable(self._engine)}

        def facts() -> dict[str, Any]:
            return {
                "mode": settings.mode,
                "role": "leader",  # one orchestrator per database, for now
                "instanceId": instance_id,
                "clusterName": settings.cluster_name,
                "platformConnected": self._link is not None and self._link.connected,
            }

        @get("/cluster/health", operation_id="clusterHealth", sync_to_thread=False)
        def cluster_health() -> dict[str, Any]:
            return {"status": "ok", **facts(), "peers": [], "agents": len(self.execution.hub)}

        return Litestar(
            [
                Router(
                    path=settings.root or "/",
                    route_handlers=[
                        *http.health_routes(self._metrics, checks, facts),
                        cluster_health,
                        admin_router(services),
                        blob_route(self.blobs),
                        self.execution.route,
                    ],
                )
            ],
            openapi_config=None,
            exception_handlers=http.EXCEPTION_HANDLERS,
            logging_config=None,
        )

    def loops(self) -> dict[str, Any]:
        loops: dict[str, Any] = {
            "wakeups": self._wakeups.run(),
            "ingress": self.ingress.run(),
            "execution": self.execution.run(),
            "logs": self._logs.run(),
            "caches": supervised("caches", self._caches.run),
            "run_keys": supervised("run_keys", lambda: forget_loop(self._engine)),
            "remote": supervised("remote", self._remote.run),
            "spool": supervised("spool", self._local.sweep),
            "runtime": supervised("runtime", self._metrics.watch_loop),
        }
        if self._link is not None:
            loops["link"] = self._link.run()
        else:
            loops["outbox"] = supervised("outbox.discard", lambda: discard_loop(self._engine))
        return loops

    async def wind_down(self) -> None:
        try:
            await self.ingress.stop()
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                while self._link is not None and self._link.connected and await self._owes():
                    self._wakeups.wake_here("outbox")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            log.info("outbox.not_flushed")
        except Exception as error:
            log.warning("stop.unclean", exc_info=error)

    async def _owes(self) -> bool:
        async with self._engine.connect() as connection:
            return bool(await connection.scalar(text("SELECT EXISTS (SELECT FROM outbox)")))


def _reachable_host(host: str) -> str:
    """Where this machine itself reaches a listener on `host`."""
    if host in {"0.0.0.0", ""}:
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host


def instance_id_of(settings: OrchestratorSettings) -> str:
    """Configured, or made once and kept: a restarted process is the same instance."""
    if settings.cluster_instance_id:
        return settings.cluster_instance_id
    path = os.path.join(settings.home, "instance-id")
    with contextlib.suppress(FileNotFoundError), open(path, encoding="utf-8") as file:
        known = file.read().strip()
        if known:
            return known
    os.makedirs(settings.home, exist_ok=True)
    fresh = uuid7()
    with open(f"{path}.tmp", "w", encoding="utf-8") as file:
        file.write(fresh)
    os.replace(f"{path}.tmp", path)
    return fresh


async def serve(settings: OrchestratorSettings, instance_id: str) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    log.info(
        "orchestrator.build.info", mode=settings.mode, cluster_name=settings.cluster_name, **build_fields()
    )
    async with running(settings, instance_id) as app:
        await http.serve(app.front, host=settings.host, port=settings.port, stop=stop)
    log.info("orchestrator.stopped")
