"""The composition root: reads settings, wires everything, runs it until asked to stop."""

import asyncio
import os
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import kici.platform.db
from kici.platform.housekeeping import Housekeeping
from kici.platform.http import routes
from kici.platform.http.front import Front
from kici.platform.http.static import StaticFiles
from kici.platform.link import queries as link_queries
from kici.platform.link.connection import Connections
from kici.platform.link.rpc import RpcClient
from kici.platform.link.session import LinkEndpoint
from kici.platform.live.browser import BrowserEndpoint
from kici.platform.live.hub import Hub
from kici.platform.live.watches import LogWatches
from kici.platform.oauth.service import OAuthService
from kici.platform.orgs.service import OrgService
from kici.platform.people import bootstrap
from kici.platform.people.service import PeopleService
from kici.platform.projection.service import ProjectionService
from kici.platform.relay.eventlog import EventLog
from kici.platform.relay.inbox import WebhookInbox
from kici.platform.relay.ingress import WebhookIngress
from kici.platform.relay.seal import Seal
from kici.platform.relay.sources import SourceDirectory
from kici.platform.remote.service import RemoteService
from kici.platform.runs.service import RunService
from kici.platform.services import Services
from kici.platform.settings import Origins, PlatformSettings, static_folder, trusted_networks
from kici.runtime import http
from kici.runtime.buildinfo import build_fields
from kici.runtime.clock import Clock, SystemClock
from kici.runtime.database import AsyncEngine, connect, migrate, reachable
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics
from kici.runtime.signals import stop_on_signals

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class App:
    """A Platform that is ready to serve: `front` is its ASGI application."""

    front: Front
    engine: AsyncEngine
    services: Services
    connections: Connections
    event_log: EventLog
    inbox: WebhookInbox
    hub: Hub


@asynccontextmanager
async def running(settings: PlatformSettings, clock: Clock | None = None) -> AsyncGenerator[App]:
    """The whole Platform but its listener. Migrates, bootstraps, and runs the loops inside the block."""
    clock = clock or SystemClock()
    metrics = Metrics("kici_")
    engine = connect(
        settings.database_url, pool_size=settings.database_pool_size, application_name="kici-platform"
    )
    try:
        await migrate(engine, os.path.dirname(kici.platform.db.__file__))
        app, loops = await _wire(settings, engine, clock, metrics)
        async with asyncio.TaskGroup() as tasks:
            running_loops = [tasks.create_task(loop(), name=name) for name, loop in loops.items()]
            try:
                yield app
            finally:
                for task in running_loops:
                    task.cancel()
        try:
            async with asyncio.timeout(2):
                await app.event_log.flush()
        except Exception as error:
            log.warning("event_log.not_flushed", exc_info=error)
    finally:
        await engine.dispose()


Loop = Callable[[], Coroutine[Any, Any, None]]


async def _wire(
    settings: PlatformSettings, engine: AsyncEngine, clock: Clock, metrics: Metrics
) -> tuple[App, dict[str, Loop]]:
    origins = Origins(settings)
    connections = Connections()
    hub = Hub(clock)
    people = PeopleService(engine, clock, origins)
    orgs = OrgService(engine, clock, origins)
    rpc = RpcClient(connections, metrics, timeout_ms=settings.dashboard_proxy_timeout_ms)
    runs = RunService(engine, rpc)
    oauth = OAuthService(engine, clock, origins)
    remote = RemoteService(engine, connections, rpc, runs)
    services = Services(origins=origins, people=people, oauth=oauth, orgs=orgs, runs=runs, remote=remote)

    projection = ProjectionService(engine, metrics)
    projection.on_applied.append(hub.projection_applied)
    directory = SourceDirectory(engine, clock)
    event_log = EventLog(engine, metrics)
    inbox = WebhookInbox(
        engine=engine,
        clock=clock,
        connections=connections,
        event_log=event_log,
        seal=Seal(settings.secret_key),
        ttl_seconds=settings.webhook_inbox_ttl_s,
        max_entries=settings.webhook_inbox_max_entries,
        max_bytes=settings.webhook_inbox_max_bytes,
        ack_timeout_seconds=settings.webhook_ack_timeout_ms / 1000,
        metrics=metrics,
    )
    ingress = WebhookIngress(
        clock=clock,
        connections=connections,
        directory=directory,
        inbox=inbox if settings.webhook_inbox == "on" else None,
        event_log=event_log,
        ack_timeout_seconds=settings.webhook_ack_timeout_ms / 1000,
        total_timeout_seconds=settings.webhook_total_timeout_ms / 1000,
        metrics=metrics,
    )
    link = LinkEndpoint(
        engine=engine,
        clock=clock,
        connections=connections,
        directory=directory,
        projection=projection,
        origins=origins,
        replica=settings.platform_instance_id,
        metrics=metrics,
    )
    link.on_change.append(hub.orchestrator_changed)
    link.on_sources.append(inbox.wake)
    orgs.on_key_revoked.append(link.close_key)
    watches = LogWatches(connections, metrics)
    browsers = BrowserEndpoint(
        people=people,
        hub=hub,
        watches=watches,
        connections=connections,
        origins=origins,
        cluster_of=runs.cluster_of,
        metrics=metrics,
    )
    people.on_revoked.append(browsers.recheck)

    async def checks() -> dict[str, bool]:
        return {"database": await reachable(engine)}

    api = routes.build(services, [*http.health_routes(metrics, checks)])
    front = Front(
        api=api,  # pyright: ignore[reportArgumentType]  Litestar types ASGI events more narrowly
        webhooks=ingress.serve,
        orchestrators=link.serve,
        browsers=browsers.serve,
        static=StaticFiles(static_folder(), base_path=origins.base_path),
        origins=origins,
        trusted=trusted_networks(settings.trusted_proxies),
    )
    await _first_steps(settings, engine, clock, people)
    await directory.load()
    await inbox.load()
    app = App(
        front=front,
        engine=engine,
        services=services,
        connections=connections,
        event_log=event_log,
        inbox=inbox,
        hub=hub,
    )
    loops: dict[str, Loop] = {
        "event_log": event_log.run,
        "inbox": inbox.run,
        "log_watches": watches.run,
        "housekeeping": Housekeeping(engine, clock, metrics).run,
        "runtime": metrics.watch_loop,
    }
    return app, loops


async def _first_steps(
    settings: PlatformSettings, engine: AsyncEngine, clock: Clock, people: PeopleService
) -> None:
    """What the last process left behind, what `kici up` decided, and the link for the first account."""
    async with engine.begin() as tx:
        released = await link_queries.release_replica(tx, settings.platform_instance_id)
    if released:
        log.info("orchestrators.released", count=released)
    setup_token: str | None = None
    if settings.bootstrap_file:
        wanted = bootstrap.read(settings.bootstrap_file)
        await bootstrap.apply(engine, clock, wanted)
        setup_token = wanted.setup_token
    link = await people.arm_setup_link(setup_token)
    if link is not None and setup_token is None:
        log.info("setup.open", url=link, valid_minutes=60)


async def serve(settings: PlatformSettings) -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    stop_on_signals(stop)
    log.info("platform.starting", **build_fields())
    async with running(settings) as app:
        await http.serve(
            app.front,  # pyright: ignore[reportArgumentType]  see above
            host=settings.host,
            port=settings.port,
            stop=stop,
        )
    log.info("platform.stopped")
