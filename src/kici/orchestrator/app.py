"""The composition root: reads settings, wires everything, runs it until asked to stop."""

import asyncio
import os
import platform
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from litestar import Litestar
from litestar.types import ASGIApp

import kici.orchestrator.db
from kici.orchestrator.agents.assembly import ExecutionAssembly
from kici.orchestrator.db import bootstrap
from kici.orchestrator.http.admin import Admin, admin_router
from kici.orchestrator.http.tokens import AdminTokens
from kici.orchestrator.http.webhooks import Webhooks
from kici.orchestrator.inbox.acceptance import Acceptor
from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.link.link import Link, LinkSettings
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.methods import rpc_methods
from kici.orchestrator.runs.execution import Limits
from kici.orchestrator.runs.start import StartPolicy
from kici.orchestrator.settings import OrchestratorSettings
from kici.orchestrator.sources.local import LocalSources
from kici.runtime import http
from kici.runtime.backoff import supervised
from kici.runtime.buildinfo import build_fields, build_info
from kici.runtime.clock import Clock, SystemClock
from kici.runtime.database import AsyncEngine, Wakeups, connect, migrate, reachable
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

CHANNELS = ("inbox", "queue", "outbox", "sources", "registry", "cancel")


@dataclass(frozen=True, slots=True)
class App:
    """An orchestrator that is ready to serve: `front` is its ASGI application."""

    front: ASGIApp
    engine: AsyncEngine
    ingress: Ingress
    execution: ExecutionAssembly
    link: Link | None


@asynccontextmanager
async def running(settings: OrchestratorSettings, clock: Clock | None = None) -> AsyncGenerator[App]:
    """The whole orchestrator but its listener. Migrates, bootstraps, recovers, and runs the loops inside
    the block; afterwards leases are released and files closed."""
    clock = clock or SystemClock()
    metrics = Metrics("kici_orch_")
    os.makedirs(settings.home, mode=0o700, exist_ok=True)
    engine = connect(
        settings.database_url,
        pool_size=settings.database_pool_size,
        application_name="kici-orchestrator",
        generic_plans=True,
    )
    try:
        if settings.auto_migrate:
            await migrate(engine, os.path.dirname(kici.orchestrator.db.__file__))
        await bootstrap.prepare(
            engine,
            bootstrap_file=settings.bootstrap_file,
            cluster_name=settings.cluster_name,
            independent=settings.mode == "independent",
        )
        store = LogStore(settings.home, settings.storage, metrics=metrics)
        try:
            app, loops = await _wire(settings, engine, store, clock, metrics)
            try:
                async with asyncio.TaskGroup() as tasks:
                    started = [tasks.create_task(body(), name=name) for name, body in loops.items()]
                    try:
                        yield app
                    finally:
                        await app.ingress.stop()
                        for task in started:
                            task.cancel()
            finally:
                await app.ingress.close()
        finally:
            await store.close()
    finally:
        await engine.dispose()


async def _wire(
    settings: OrchestratorSettings, engine: AsyncEngine, store: LogStore, clock: Clock, metrics: Metrics
) -> tuple[App, Mapping[str, Callable[[], Any]]]:
    instance_id = settings.cluster_instance_id or _kept_instance_id(settings.home)
    wakeups = Wakeups(settings.database_url, CHANNELS)
    ingress = Ingress(
        engine,
        wakeups,
        metrics,
        clock,
        secret_key=bytes.fromhex(settings.secret_key),
        instance_id=instance_id,
        start_policy=StartPolicy(
            queue_max_depth=settings.queue_max_depth, queue_timeout_ms=settings.queue_timeout_ms
        ),
        retry_policy=RetryPolicy(
            max_attempts=settings.event_router_max_dispatch_attempts,
            lease_ms=settings.event_router_lease_duration_ms,
            base_backoff_ms=settings.event_router_retry_base_backoff_ms,
            max_backoff_ms=settings.event_router_retry_max_backoff_ms,
        ),
        lockfile_cache_max=settings.lockfile_cache_max,
        lockfile_cache_ttl_ms=settings.lockfile_cache_ttl_ms,
    )
    execution = ExecutionAssembly(
        engine=engine,
        wakeups=wakeups,
        metrics=metrics,
        limits=_limits(settings),
        clock=clock,
        logs=store,
        instance_id=instance_id,
        cluster_name=settings.cluster_name,
        ws_path=f"{settings.root}/ws",
    )
    logs = LogService(engine, store)
    local = LocalSources(ingress.index, ingress.repositories, _trusted(ingress.acceptor))
    await ingress.load()
    await execution.prepare()
    link: Link | None = None
    if settings.mode != "independent":
        link = Link(
            LinkSettings(
                platform_url=settings.platform_url,
                token=settings.platform_token,
                instance_id=instance_id,
                cluster_name=settings.cluster_name,
                version=build_info().version,
                mode=settings.mode,
                hostname=platform.node(),
            ),
            engine=engine,
            wakeups=wakeups,
            methods=rpc_methods(execution.runs, ingress, logs),
            accept=ingress.acceptor.accept,
            sources=ingress.index,
            logs=logs,
            metrics=metrics,
            clock=clock,
        )
        ingress.index.on_change(link.sources_changed)

    async def checks() -> dict[str, bool]:
        return {"database": await reachable(engine)}

    def facts() -> dict[str, Any]:
        return {
            "instanceId": instance_id,
            "clusterName": settings.cluster_name,
            "platformConnected": link.connected if link else None,
        }

    tokens = AdminTokens(engine)
    admin = Admin(
        engine=engine,
        tokens=tokens,
        ingress=ingress,
        local=local,
        runs=execution.runs,
        hub=execution.hub,
        logs=logs,
        link=link,
        public_url=f"http://{settings.host}:{settings.port}{settings.root}",
    )
    api = Litestar(
        route_handlers=[
            *http.health_routes(metrics, checks, facts),
            execution.route,
            admin_router(admin),
        ],
        path=settings.root,
        exception_handlers=http.EXCEPTION_HANDLERS,
        openapi_config=None,
        request_max_body_size=2 << 20,
        logging_config=None,
    )
    front: ASGIApp = api
    if settings.serves_webhooks:
        front = Webhooks(
            ingress.acceptor, tokens, api, root=settings.root, trusted_proxies=settings.trusted_proxies
        )
    loops: dict[str, Callable[[], Any]] = {
        "wakeups": wakeups.run,
        "ingress": ingress.run,
        "execution": execution.run,
        "logs": logs.run,
        "local_sources": lambda: supervised("local_sources", local.sweep),
        "runtime": metrics.watch_loop,
    }
    if link is not None:
        loops["platform"] = link.run
    return App(front=front, engine=engine, ingress=ingress, execution=execution, link=link), loops


def _limits(settings: OrchestratorSettings) -> Limits:
    return Limits(
        dispatch_ack_timeout_ms=settings.dispatch_ack_timeout_ms,
        queue_timeout_ms=settings.queue_timeout_ms,
        agent_max_reconnect_delay_ms=settings.agent_max_reconnect_delay_ms,
        job_heartbeat_interval_ms=settings.job_heartbeat_interval_ms,
        stale_detector_scan_interval_ms=settings.stale_detector_scan_interval_ms,
        stale_detector_threshold_multiplier=settings.stale_detector_threshold_multiplier,
        max_job_attempts=settings.max_job_attempts,
        max_log_size_bytes=settings.max_log_size_bytes,
    )


def _trusted(acceptor: Acceptor) -> Callable[[Delivery], Awaitable[Acceptance]]:
    """Deliveries that we make ourselves need not show that they come from this machine."""

    async def accept(delivery: Delivery) -> Acceptance:
        return await acceptor.accept(delivery, is_admin=True)

    return accept


def _kept_instance_id(home: str) -> str:
    """Made once; a restarted process is the same instance."""
    path = os.path.join(home, "instance-id")
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except FileNotFoundError:
        made = str(uuid.uuid4())
        scratch = f"{path}.tmp"
        with open(scratch, "w", encoding="ascii") as file:
            file.write(made)
        os.replace(scratch, path)
        return made


async def serve(settings: OrchestratorSettings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    http.stop_on_signals(stop)
    log.info("orchestrator.build.info", **build_fields())
    async with running(settings) as app:
        await http.serve(app.front, host=settings.host, port=settings.port, stop=stop)
    log.info("orchestrator.stopped")
