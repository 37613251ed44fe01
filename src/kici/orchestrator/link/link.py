"""Keeps one connection to the Platform, for ever: dials, greets, serves, dials again (PD-13, PD-14).

Nothing here is needed for running jobs. While the Platform is away the outbox grows, and is sent later.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterator, Mapping
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from kici.orchestrator.link.projection import ProjectionSender
from kici.orchestrator.link.session import (
    Accept,
    AuthRefused,
    LinkLost,
    LinkMetrics,
    Session,
    Shared,
    Sources,
)
from kici.orchestrator.link.watches import Logs
from kici.orchestrator.rpc import RpcMethod
from kici.protocol.platform_v1 import PROTOCOL_VERSION, AuthRequest
from kici.runtime.backoff import reconnect_delay
from kici.runtime.clock import Clock, SystemClock
from kici.runtime.database import AsyncEngine, Wakeups
from kici.runtime.logging import get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

MAX_FRAME_BYTES = 32 << 20  # a relayed body of 25 MiB and its head
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
GOING_AWAY = 1001
REFUSED_ATTEMPT = 6  # 11 s and growing


class LinkSettings(Struct, frozen=True, kw_only=True):
    """`platform_url`: `http(s)://host[:port][/base]`, as KICI_PLATFORM_URL gives it."""

    platform_url: str
    token: str  # kici_ok_…
    instance_id: str
    cluster_name: str
    version: str
    mode: Literal["platform", "hybrid", "independent"]
    hostname: str = ""


def socket_url(platform_url: str) -> str:
    """`https://p.example/base` → `wss://p.example/base/ws`."""
    parts = urlsplit(platform_url)
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme)
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/") + "/ws", "", ""))


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Ended(Struct, frozen=True, kw_only=True):
    how: Literal["served", "refused", "failed"]
    reason: str


class Link:
    """`run` it in the process's task group. Tell it `sources_changed` after each change."""

    def __init__(
        self,
        settings: LinkSettings,
        *,
        engine: AsyncEngine,
        wakeups: Wakeups,
        methods: Mapping[str, RpcMethod],
        accept: Accept,
        sources: Sources,
        logs: Logs,
        metrics: Metrics,
        clock: Clock | None = None,
        delay: Callable[[int], float] = reconnect_delay,
    ) -> None:
        self._delay = delay
        self._url = socket_url(settings.platform_url)
        self._metrics = LinkMetrics(metrics)
        self._sources_changed = asyncio.Event()
        self._session: Session | None = None
        self._shared = Shared(
            hello=AuthRequest(
                token=settings.token,
                protocol_version=PROTOCOL_VERSION,
                instance_id=settings.instance_id,
                cluster_name=settings.cluster_name,
                version=settings.version,
                mode=settings.mode,
                hostname=settings.hostname,
                methods=sorted(methods),
            ),
            methods=methods,
            accept=accept,
            sources=sources,
            logs=logs,
            projection=ProjectionSender(engine, wakeups, metrics),
            clock=clock or SystemClock(),
            metrics=self._metrics,
        )

    @property
    def connected(self) -> bool:
        return self._session is not None

    @property
    def org_id(self) -> str | None:
        """The organisation that our key belongs to; None while no connection says so."""
        return None if self._session is None else self._session.org_id

    def webhook_url(self, routing_key: str) -> str | None:
        """Where the Platform takes deliveries for a source; None while that is not known."""
        return None if self._session is None else self._session.webhook_urls.get(routing_key)

    def sources_changed(self) -> None:
        """The set of sources is another: announce it."""
        self._sources_changed.set()

    async def run(self) -> None:
        attempt = 0
        while True:
            try:
                async with asyncio.timeout(OPEN_SECONDS + CLOSE_SECONDS):
                    socket = await connect(
                        self._url,
                        compression=None,  # log blocks are compressed, the rest is small
                        max_size=MAX_FRAME_BYTES,
                        ping_interval=None,  # the protocol has its own heartbeats
                        open_timeout=OPEN_SECONDS,
                        close_timeout=CLOSE_SECONDS,
                        proxy=None if is_loopback(self._url) else True,
                    )
            except (OSError, TimeoutError, WebSocketException) as error:
                self._metrics.connections.labels("unreachable").inc()
                reason = f"{type(error).__name__}: {error}"
            else:
                ended = await self._serve(socket)
                reason = ended.reason
                if ended.how == "served":
                    attempt = 0
                elif ended.how == "refused":
                    attempt = max(attempt, REFUSED_ATTEMPT)  # a person has to act: no hurry
            delay = self._delay(attempt)
            attempt += 1
            log.warning("platform.away", url=self._url, reason=reason, retry_seconds=round(delay, 1))
            await asyncio.sleep(delay)

    async def _serve(self, socket: ClientConnection) -> Ended:
        """One session; its failures become words."""
        session = Session(socket, self._shared, self._sources_changed)
        how: Literal["served", "refused", "failed"] = "failed"
        reason = ""
        try:
            await session.greet()
            how = "served"
            self._session = session
            self._metrics.connections.labels("accepted").inc()
            self._metrics.connected.set(1)
            log.info("platform.connected", url=self._url, org_id=session.org_id)
            await session.run()
        except* AuthRefused as refused:
            how = "refused"
            reason = str(refused.exceptions[0])
            self._metrics.connections.labels("refused").inc()
            log.error(
                "platform.auth_failed",
                reason=reason,
                help="check KICI_PLATFORM_TOKEN and KICI_PLATFORM_URL",
            )
        except* (LinkLost, OSError, TimeoutError, WebSocketException) as lost:
            reason = "; ".join(sorted({str(error) for error in leaves(lost)}))
        except* Exception as failed:
            reason = "an error of ours"
            log.error("platform.session_failed", exc_info=failed)
        finally:
            self._session = None
            self._metrics.connected.set(0)
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await socket.close(GOING_AWAY)
            except TimeoutError:
                pass
        return Ended(how=how, reason=reason)


def leaves(group: BaseExceptionGroup) -> Iterator[BaseException]:
    """The exceptions of a group and of the groups in it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
