"""One browser's socket (`/ws/dashboard`): who it is, what it follows, and that it still may (PD-68…72)."""

import asyncio
from collections.abc import Awaitable, Callable
from http.cookies import CookieError, SimpleCookie
from typing import Any

import msgspec

from kici.platform.errors import Unauthorized
from kici.platform.http.caller import COOKIE
from kici.platform.link.connection import Connections
from kici.platform.live.hub import Hub, Published
from kici.platform.live.outgoing import Outgoing, Overrun
from kici.platform.live.watches import LogWatches, StreamKey
from kici.platform.people.accounts import Account
from kici.platform.people.service import PeopleService
from kici.platform.permissions import allowed
from kici.platform.settings import Origins
from kici.protocol import browser_v1 as wire
from kici.runtime.ids import uuid7
from kici.runtime.logging import bind, get_logger
from kici.runtime.metrics import Metrics

log = get_logger(__name__)

AUTH_SECONDS = 10
RECHECK_SECONDS = 30
SEND_SECONDS = 60
MAX_STREAMS = 64
_BAD_FRAMES = 3

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ClusterOf = Callable[[str, str], Awaitable[str | None]]


class _Close(Exception):
    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class BrowserEndpoint:
    """Serves `/ws/dashboard`."""

    def __init__(
        self,
        *,
        people: PeopleService,
        hub: Hub,
        watches: LogWatches,
        connections: Connections,
        origins: Origins,
        cluster_of: ClusterOf,
        metrics: Metrics,
    ) -> None:
        self.people = people
        self.hub = hub
        self.watches = watches
        self.connections = connections
        self.cluster_of = cluster_of
        self._origins = origins
        self._open = metrics.gauge("platform_browser_connections", "Browser sockets open")
        self._sessions: set[BrowserSession] = set()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        await receive()  # websocket.connect
        origin = headers.get(b"origin")
        cookie = _session_cookie(headers.get(b"cookie", ""))
        if origin is not None and not self._origins.same(origin, headers.get(b"host")):
            await send({"type": "websocket.close", "code": 4001})  # before accept: HTTP 403
            return
        await send({"type": "websocket.accept"})
        session = BrowserSession(self, receive, send)
        self._open.inc()
        self._sessions.add(session)
        try:
            await session.run(cookie)
        finally:
            self._sessions.discard(session)
            self._open.dec()

    def recheck(self, user_id: str) -> None:
        """A credential of this user ended: see whether its sockets may stay (PD-49, PD-52)."""
        for session in self._sessions:
            if session.account is not None and session.account.user_id == user_id:
                session.recheck.set()


class BrowserSession:
    """Implements kici.platform.live.hub.Subscriber."""

    def __init__(self, endpoint: BrowserEndpoint, receive: Receive, send: Send) -> None:
        self._endpoint = endpoint
        self._receive = receive
        self._send = send
        self._out = Outgoing()
        self._orgs: set[str] = set()
        self._renew: Callable[[], Awaitable[Account]] | None = None
        self.account: Account | None = None
        self.recheck = asyncio.Event()

    def org_event(self, published: Published) -> None:
        self._out.org_event(published)

    async def run(self, cookie: str | None) -> None:
        code = 1000
        try:
            await self._sign_in(cookie)
            code = await self._converse()
        except _Close as closing:
            code = closing.code
        except (OSError, TimeoutError):
            code = 1001
        finally:
            await self._leave()
        try:
            async with asyncio.timeout(2):
                await self._send({"type": "websocket.close", "code": code})
        except (OSError, RuntimeError, TimeoutError):
            pass  # already gone

    async def _converse(self) -> int:
        """The closing code."""
        code = 1000
        with bind(connection_id=uuid7()):
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._reading(), name="browser.read")
                    tasks.create_task(self._writing(), name="browser.write")
                    tasks.create_task(self._rechecking(), name="browser.recheck")
            except* _Close as closings:
                codes = [one.code for one in closings.exceptions if isinstance(one, _Close)]
                code = codes[0] if codes else code
            except* (OSError, TimeoutError):
                code = 1001  # the browser went away, or does not read
        return code

    async def _leave(self) -> None:
        for org_id in self._orgs:
            self._endpoint.hub.unsubscribe(org_id, self)
        for subscription in list(self._out.subscriptions.values()):
            await self._endpoint.watches.unsubscribe(subscription)

    # ── who is it ────────────────────────────────────────────────────────────────────────────────

    async def _sign_in(self, cookie: str | None) -> None:
        people = self._endpoint.people
        if cookie is not None:
            try:
                self.account = await people.by_session(cookie)
                self._renew = lambda: people.by_session(cookie)
            except Unauthorized:
                pass
        if self.account is None:
            token = await self._first_token()
            try:
                self.account = await people.by_token(token)
            except Unauthorized as refused:
                await self._text(wire.AuthFailure(reason=refused.code))
                raise _Close(4001) from None
            self._renew = lambda: people.by_token(token)
        await self._text(wire.AuthSuccess(connection_id=uuid7()))

    async def _first_token(self) -> str:
        try:
            async with asyncio.timeout(AUTH_SECONDS):
                while True:
                    frame = await self._receive()
                    if frame["type"] != "websocket.receive":
                        raise _Close(1001)
                    message = wire.decode_from_browser(frame.get("text") or "null")
                    if isinstance(message, wire.AuthRequest):
                        return message.token
                    if not isinstance(message, wire.Ping):
                        await self._text(wire.AuthFailure(reason="sign_in_first"))
                        raise _Close(4001)
        except TimeoutError:
            raise _Close(4002) from None
        except msgspec.MsgspecError:
            raise _Close(4003) from None

    async def _rechecking(self) -> None:
        assert self._renew is not None
        while True:
            try:
                async with asyncio.timeout(RECHECK_SECONDS):
                    await self.recheck.wait()
            except TimeoutError:
                pass
            self.recheck.clear()
            try:
                self.account = await self._renew()
            except Unauthorized as refused:
                await self._text(wire.AuthFailure(reason=refused.code))
                raise _Close(4001) from None
            except Exception as error:  # the database is away: asked again at the next turn
                log.warning("browser.not_rechecked", exc_info=error)
                continue
            for org_id in [org for org in self._orgs if not self._may_read(org)]:
                self._orgs.discard(org_id)
                self._endpoint.hub.unsubscribe(org_id, self)
                self._out.drop_org(org_id)
            for subscription in list(self._out.subscriptions.values()):
                if not self._may_read(subscription.key.org_id):
                    await self._endpoint.watches.unsubscribe(subscription)
                    subscription.end("permission_revoked")

    def _may_read(self, org_id: str) -> bool:
        role = self.account.roles.get(org_id) if self.account is not None else None
        return role is not None and allowed(role, "runs.read")

    # ── frames in ────────────────────────────────────────────────────────────────────────────────

    async def _reading(self) -> None:
        bad = 0
        while True:
            frame = await self._receive()
            if frame["type"] != "websocket.receive":
                raise _Close(1001)
            try:
                message = wire.decode_from_browser(frame.get("text") or "null")
            except msgspec.MsgspecError:
                bad += 1
                if bad >= _BAD_FRAMES:
                    raise _Close(4003) from None
                self._error("bad_frame", "this frame cannot be read")
                continue
            bad = 0
            try:
                await self._handle(message)
            except Overrun:
                raise _Close(4005) from None

    def _control(self, message: msgspec.Struct) -> None:
        self._out.control(wire.encode(message).decode())

    def _error(self, code: str, message: str) -> None:
        self._control(wire.ErrorFrame(code=code, message=message))

    async def _handle(self, message: wire.FromBrowser) -> None:
        match message:
            case wire.Ping():
                self._control(wire.Pong())
            case wire.AuthRequest():
                pass  # signed in already, by cookie
            case wire.StatusSubscribe():
                self._subscribe(message)
            case wire.StatusUnsubscribe():
                self._orgs.discard(message.org_id)
                self._endpoint.hub.unsubscribe(message.org_id, self)
                self._out.drop_org(message.org_id)
            case wire.LogSubscribe():
                await self._follow(message)
            case wire.LogUnsubscribe():
                subscription = self._out.subscriptions.pop((message.job_id, message.step_index), None)
                if subscription is not None:
                    await self._endpoint.watches.unsubscribe(subscription)

    def _subscribe(self, message: wire.StatusSubscribe) -> None:
        """Says where the sequence stands, then what was missed, then what comes."""
        org_id, hub = message.org_id, self._endpoint.hub
        if not self._may_read(org_id):
            self._error("forbidden", "no such organization")
            return
        missed = [] if message.since_seq is None else hub.since(org_id, message.since_seq)
        if missed is None:
            self._control(wire.Resync(org_id=org_id, seq=hub.seq(org_id)))
            missed = []
        self._control(
            wire.Subscribed(
                org_id=org_id,
                seq=missed[0].event.seq - 1 if missed else hub.seq(org_id),
                orchestrator_connected=self._endpoint.connections.connected(org_id),
            )
        )
        if org_id not in self._orgs:
            self._orgs.add(org_id)
            hub.subscribe(org_id, self)
        for published in missed:
            self._out.org_event(published)

    async def _follow(self, message: wire.LogSubscribe) -> None:
        if not self._may_read(message.org_id):
            self._error("forbidden", "no such organization")
            return
        place = (message.job_id, message.step_index)
        before = self._out.subscriptions.pop(place, None)
        if before is not None:
            await self._endpoint.watches.unsubscribe(before)
        if len(self._out.subscriptions) >= MAX_STREAMS:
            self._error("too_many_streams", f"at most {MAX_STREAMS} log streams per connection")
            return
        key = StreamKey(message.org_id, message.run_id, message.job_id, message.step_index)
        cluster_name = await self._endpoint.cluster_of(message.org_id, message.run_id)
        subscription = self._endpoint.watches.new_subscription(
            key, max(0, message.after_line_count), self._out.wake
        )
        self._out.subscriptions[place] = subscription
        await self._endpoint.watches.subscribe(subscription, cluster_name)
        self._out.wake()

    # ── frames out ───────────────────────────────────────────────────────────────────────────────

    async def _writing(self) -> None:
        while True:
            await self._out.ready.wait()
            self._out.ready.clear()
            while frames := self._out.take():
                for text in frames:
                    await self._raw(text)

    async def _text(self, message: msgspec.Struct) -> None:
        await self._raw(wire.encode(message).decode())

    async def _raw(self, text: str) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._send({"type": "websocket.send", "text": text})


def _session_cookie(header: str) -> str | None:
    try:
        morsel = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return None
    return morsel.value if morsel is not None else None
