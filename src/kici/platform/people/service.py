"""Signing in and out, accounts and personal access tokens. Every change writes its audit row."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any, Protocol

from kici.platform import audit
from kici.platform.errors import Forbidden, TokenExpired, TokenRevoked, TokenUnknown, Unauthorized
from kici.platform.orgs import queries as org_queries
from kici.platform.people import passwords, queries, throttle, tokens
from kici.platform.people.accounts import Account, SignedIn
from kici.platform.people.views import (
    AuthConfigView,
    CreatePatBody,
    CredentialView,
    PatCreated,
    PatList,
    SignInLinkView,
    UpdateUserBody,
    UserView,
)
from kici.platform.settings import Origins
from kici.runtime.buildinfo import build_info
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncConnection, AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput, NotFound

log = get_logger(__name__)

SESSION_IDLE = timedelta(hours=12)
SESSION_LIFE = timedelta(days=30)
LINK_LIFE = timedelta(minutes=60)
EXPIRES_SOON = timedelta(days=7)  # AU-141
_TOUCH_EVERY = timedelta(minutes=1)
_NAME_CHARS = 100


class WhoAsks(Protocol):
    """What this room needs to know of a request's caller."""

    @property
    def account(self) -> Account: ...
    @property
    def request_id(self) -> str: ...
    @property
    def ip(self) -> str | None: ...


class PeopleService:
    """`on_revoked` is told the user id whenever one of that user's credentials ends."""

    def __init__(self, engine: AsyncEngine, clock: Clock, origins: Origins) -> None:
        self._engine = engine
        self._clock = clock
        self._origins = origins
        self.on_revoked: list[Callable[[str], None]] = []

    def _now(self) -> datetime:
        return to_datetime(self._clock.now_ms())

    # ── who is it? ───────────────────────────────────────────────────────────────────────────────

    async def by_session(self, cookie: str) -> Account:
        return await self.by_session_digest(tokens.digest(cookie))

    async def by_session_digest(self, token: bytes) -> Account:
        """Raises Unauthorized for an unknown, idle or expired session."""
        now = self._now()
        async with self._engine.connect() as tx:
            row = await queries.by_session(tx, token)
            if row is None or row["expires_at"] <= now or row["last_seen_at"] + SESSION_IDLE <= now:
                raise Unauthorized("the session has ended: sign in again")
            if row["last_seen_at"] + _TOUCH_EVERY <= now:
                await queries.touch_session(tx, token, now)
                await tx.commit()
        return queries.account(row, token)

    async def by_token(self, token: str) -> Account:
        """Raises Unauthorized with the reason's code (PD-50)."""
        if token.startswith(tokens.ORCHESTRATOR_KEY):
            raise TokenUnknown(
                "this is an orchestrator key: the API takes a personal access token (kici_pat_…)"
            )
        now = self._now()
        async with self._engine.connect() as tx:
            row = await queries.by_pat(tx, tokens.digest(token))
            if row is None:
                raise TokenUnknown("unknown token")
            if row["revoked_at"] is not None:
                raise TokenRevoked("this token was revoked")
            if row["expires_at"] is not None and row["expires_at"] <= now:
                raise TokenExpired("this token has expired")
            if row["last_used_at"] is None or row["last_used_at"] + _TOUCH_EVERY <= now:
                await queries.touch_pat(tx, row["pat_id"], now)
                await tx.commit()
        return queries.account(row, None, queries.pat_of(row))

    # ── in and out ───────────────────────────────────────────────────────────────────────────────

    async def auth_config(self) -> AuthConfigView:
        async with self._engine.connect() as tx:
            required = not await queries.anybody_with_password(tx) and await queries.setup_link_alive(
                tx, self._now()
            )
        return AuthConfigView(methods=["password"], setup_required=required, version=build_info().version)

    async def login(self, email: str, password: str, *, ip: str | None, user_agent: str) -> SignedIn:
        email = email.strip().lower()
        now = self._now()
        await throttle.note_try(self._engine, email=email, ip=ip, now=now)
        async with self._engine.connect() as tx:
            user = await queries.find_user(tx, email)
        stored = user["password_hash"] if user is not None and user["suspended_at"] is None else None
        if not await passwords.verify_password(stored, password) or user is None:
            log.info("sign_in.failed", client_ip=ip)
            raise Unauthorized("wrong e-mail or password")
        async with self._engine.begin() as tx:
            await throttle.forgive(tx, email=email, ip=ip, now=now)
            return await self._open_session(tx, user["id"], ip=ip, user_agent=user_agent, how="password")

    async def logout(self, cookie: str) -> None:
        async with self._engine.begin() as tx:
            user_id = await queries.delete_session(tx, tokens.digest(cookie))
            if user_id is None:
                return
            await audit.record(tx, action="session.end", target=("user", user_id), actor=("user", user_id))
        self._revoked(user_id)

    async def setup(
        self, *, token: str, email: str, password: str, display_name: str, ip: str | None, user_agent: str
    ) -> SignedIn:
        """PD-42: the first account becomes owner of every org there is, or of a new one."""
        email = _checked_email(email)
        display_name = _checked_name(display_name, "a display name")
        now = self._now()
        async with self._engine.connect() as tx:
            if await queries.anybody_with_password(tx):
                raise NotFound("this Platform is already set up")
        passwords.require_good(password, email=email)
        password_hash = await passwords.hash_password(password)
        async with self._engine.begin() as tx:
            if await queries.use_link(tx, token=tokens.digest(token), kind="setup", now=now) is None:
                raise NotFound(
                    "this setup link is unknown, used or expired: restart the Platform for a new one"
                )
            if await queries.anybody_with_password(tx):
                raise NotFound("this Platform is already set up")
            known = await queries.find_user(tx, email)
            user_id = known["id"] if known is not None else uuid7()
            if known is None:
                await queries.insert_user(
                    tx, user_id=user_id, email=email, display_name=display_name, password_hash=password_hash
                )
            else:
                await queries.set_profile(
                    tx, user_id=user_id, display_name=display_name, password_hash=password_hash
                )
            if not await queries.join_all_orgs(tx, user_id, "owner"):
                org_id, alias = org_queries.new_org_ids()
                await org_queries.insert_org(tx, org_id=org_id, alias=alias, name="My organization")
                await queries.join_all_orgs(tx, user_id, "owner")
            await audit.record(
                tx, action="user.setup", target=("user", user_id), actor=("user", user_id), ip=ip
            )
            return await self._open_session(tx, user_id, ip=ip, user_agent=user_agent, how="setup")

    async def sign_in_by_link(self, token: str, *, ip: str | None, user_agent: str) -> SignedIn | None:
        """None when the link is unknown, spent or expired."""
        async with self._engine.begin() as tx:
            link = await queries.use_link(tx, token=tokens.digest(token), kind="sign_in", now=self._now())
            if link is None:
                return None
            return await self._open_session(tx, link["user_id"], ip=ip, user_agent=user_agent, how="link")

    async def create_sign_in_link(self, caller: WhoAsks) -> SignInLinkView:
        """For the caller's own account; spent by the first visit."""
        token = tokens.mint("")
        now = self._now()
        user_id = caller.account.user_id
        async with self._engine.begin() as tx:
            await queries.insert_link(
                tx,
                token=tokens.digest(token),
                kind="sign_in",
                user_id=user_id,
                now=now,
                expires_at=now + LINK_LIFE,
            )
            await self._audit(tx, caller, "sign_in_link.create", ("user", user_id))
        return SignInLinkView(
            url=f"{self._origins.public_url}/auth/link?token={token}", expires_at=now + LINK_LIFE
        )

    async def arm_setup_link(self, token: str | None) -> str | None:
        """At start: a link while nobody has a password, else None. Returns the URL to show once."""
        now = self._now()
        async with self._engine.begin() as tx:
            if await queries.anybody_with_password(tx):
                return None
            token = token or tokens.mint("")
            await queries.insert_link(
                tx,
                token=tokens.digest(token),
                kind="setup",
                user_id=None,
                now=now,
                expires_at=now + LINK_LIFE,
            )
        return f"{self._origins.public_url}/setup?token={token}"

    # ── the own account ──────────────────────────────────────────────────────────────────────────

    async def profile(self, user_id: str) -> UserView:
        async with self._engine.connect() as tx:
            return await queries.user_view(tx, user_id)

    async def update(self, caller: WhoAsks, body: UpdateUserBody) -> UserView:
        user_id = caller.account.user_id
        name = None if body.display_name is None else _checked_name(body.display_name, "a display name")
        async with self._engine.connect() as tx:
            current = await queries.lock_user(tx, user_id)
        if current is None:
            raise NotFound("no such user")
        password_hash: str | None = None
        if body.password is not None:
            passwords.require_good(body.password, email=current["email"])
            if current["password_hash"] is not None and not await passwords.verify_password(
                current["password_hash"], body.current_password or ""
            ):
                raise InvalidInput("the current password is wrong")
            password_hash = await passwords.hash_password(body.password)
        async with self._engine.begin() as tx:
            before = await queries.lock_user(tx, user_id)
            if before is None or before["password_hash"] != current["password_hash"]:
                raise InvalidInput("the account was changed meanwhile: try again")
            await queries.set_profile(tx, user_id=user_id, display_name=name, password_hash=password_hash)
            if password_hash is not None:
                await queries.delete_other_sessions(tx, user_id, caller.account.session_sha256)
                await self._audit(tx, caller, "user.password_change", ("user", user_id))
            if name is not None and name != before["display_name"]:
                changed = {"displayName": [before["display_name"], name]}
                await self._audit(tx, caller, "user.update", ("user", user_id), changed)
            view = await queries.user_view(tx, user_id)
        if password_hash is not None:
            self._revoked(user_id)
        return view

    async def list_pats(self, user_id: str) -> PatList:
        async with self._engine.connect() as tx:
            return PatList(pats=await queries.list_pats(tx, user_id, soon=self._now() + EXPIRES_SOON))

    def credential(self, account: Account) -> CredentialView:
        pat = account.pat
        if pat is None:
            return CredentialView(
                kind="session", id=None, name=None, agent_label=None, expires_at=None, expires_soon=False
            )
        return CredentialView(
            kind=pat.kind,
            id=pat.id,
            name=pat.name,
            agent_label=pat.agent_label,
            expires_at=pat.expires_at,
            expires_soon=pat.expires_at is not None and pat.expires_at <= self._now() + EXPIRES_SOON,
        )

    async def create_pat(self, caller: WhoAsks, body: CreatePatBody) -> PatCreated:
        name = _checked_name(body.name, "a token's name")
        if not 1 <= body.expires_in_days <= 3650:
            raise InvalidInput("expiresInDays must be 1 to 3650")
        label = None if body.agent_label is None else _checked_name(body.agent_label, "an agent's label")
        if (body.kind == "agent") != (label is not None):
            raise InvalidInput("agentLabel is for tokens of kind agent, and they need one")
        if caller.account.pat is not None and caller.account.pat.kind == "agent":
            raise Forbidden("an agent's token makes no tokens")
        token = tokens.mint(tokens.PAT)
        pat_id = uuid7()
        now = self._now()
        expires_at = now + timedelta(days=body.expires_in_days)
        async with self._engine.begin() as tx:
            await queries.insert_pat(
                tx,
                pat_id=pat_id,
                user_id=caller.account.user_id,
                name=name,
                token=tokens.digest(token),
                display=tokens.display(token),
                now=now,
                expires_at=expires_at,
                kind=body.kind,
                agent_label=label,
            )
            details = {"name": name} if label is None else {"name": name, "agentLabel": label}
            await self._audit(tx, caller, "pat.create", ("pat", pat_id), details)
        return PatCreated(id=pat_id, name=name, token=token, expires_at=expires_at)

    async def revoke_pat(self, caller: WhoAsks, pat_id: str) -> None:
        async with self._engine.begin() as tx:
            if not await queries.revoke_pat(tx, caller.account.user_id, pat_id, self._now()):
                raise NotFound("no such token")
            await self._audit(tx, caller, "pat.revoke", ("pat", pat_id))
        self._revoked(caller.account.user_id)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    async def _open_session(
        self, tx: AsyncConnection, user_id: str, *, ip: str | None, user_agent: str, how: str
    ) -> SignedIn:
        token = tokens.mint("")
        now = self._now()
        await queries.insert_session(
            tx,
            token=tokens.digest(token),
            user_id=user_id,
            user_agent=user_agent,
            ip=ip,
            now=now,
            expires_at=now + SESSION_LIFE,
        )
        await audit.record(
            tx,
            action="session.start",
            target=("user", user_id),
            actor=("user", user_id),
            details={"how": how},
            ip=ip,
        )
        view = await queries.user_view(tx, user_id)
        return SignedIn(token=token, max_age_seconds=int(SESSION_LIFE.total_seconds()), user=view)

    async def _audit(
        self,
        tx: AsyncConnection,
        caller: WhoAsks,
        action: str,
        target: tuple[str, str],
        details: dict[str, Any] | None = None,
    ) -> None:
        await audit.record(
            tx,
            action=action,
            target=target,
            actor=("user", caller.account.user_id),
            details=with_label(caller.account, details),
            ip=caller.ip,
            request_id=caller.request_id,
        )

    def _revoked(self, user_id: str) -> None:
        for told in self.on_revoked:
            told(user_id)


def with_label(account: Account, details: dict[str, Any] | None) -> dict[str, Any]:
    """PD-48: what an agent's token does says so on its audit row."""
    label = account.pat.agent_label if account.pat is not None else None
    return {**(details or {}), **({} if label is None else {"byAgent": label})}


def _checked_email(email: str) -> str:
    email = email.strip().lower()
    name, _, domain = email.partition("@")
    if not name or not domain or " " in email or len(email) > 254:
        raise InvalidInput("this is not an e-mail address")
    return email


def _checked_name(name: str, what: str) -> str:
    name = name.strip()
    if not name or len(name) > _NAME_CHARS:
        raise InvalidInput(f"{what} has 1 to {_NAME_CHARS} characters")
    return name
