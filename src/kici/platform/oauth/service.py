"""Codes, devices and grants: what `kici login` goes through until it holds a personal access token.

A browser's owner approves; the program proves with PKCE that it is the one that asked; the access token
that it gets is good for one exchange against a PAT.
"""

import base64
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import ClassVar
from urllib.parse import urlsplit

from msgspec import Struct

from kici.platform import audit
from kici.platform.errors import Unauthorized
from kici.platform.oauth import queries
from kici.platform.people import queries as people_queries
from kici.platform.people import throttle, tokens
from kici.platform.people.accounts import Account
from kici.platform.people.views import PatCreated
from kici.platform.settings import Origins
from kici.runtime.clock import Clock, to_datetime
from kici.runtime.database import AsyncConnection, AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger
from kici.spec.errors import InvalidInput, KiciError

log = get_logger(__name__)

CLIENT_ID = "kici-cli"
CODE_LIFE = timedelta(minutes=5)
GRANT_LIFE = timedelta(minutes=5)
PAT_LIFE = timedelta(days=120)
POLL_SECONDS = 5
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
_USER_CODE_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"  # no vowels: no words (RFC 8628 §6.1)
_STARTS_PER_ADDRESS = 30
_CODES_PER_PERSON = 20
_FAILURES_PER_ADDRESS = 30
_S256_CHARS = 43


class OAuthRefused(KiciError):
    """An error of RFC 6749 §5.2 or RFC 8628 §3.5: `oauth_code` is the protocol's word."""

    code: ClassVar[str] = "oauth_refused"
    status: ClassVar[int] = 400

    def __init__(self, oauth_code: str, message: str) -> None:
        super().__init__(message)
        self.oauth_code = oauth_code


class AuthorizeRequest(Struct, frozen=True, kw_only=True):
    """A checked request for a code."""

    redirect_uri: str
    challenge: str
    state: str


class DeviceStarted(Struct, frozen=True, kw_only=True):
    device_code: str
    user_code: str
    expires_in: int
    interval: int


class WaitingDevice(Struct, frozen=True, kw_only=True):
    user_code: str
    ip: str | None
    asked_at: datetime


class AccessToken(Struct, frozen=True, kw_only=True):
    token: str
    expires_in: int


def checked_redirect(uri: str) -> str:
    """The loopback address of the program that asks (RFC 8252 §7.3), any port. Raises InvalidInput."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as error:
        raise InvalidInput("redirect_uri is no URL") from error
    if (
        parts.scheme != "http"
        or parts.hostname not in {"127.0.0.1", "::1"}
        or port is None
        or parts.username is not None
        or parts.fragment
        or not uri.isascii()
        or any(letter in uri for letter in "\r\n\t ;,'\"")
    ):
        raise InvalidInput("redirect_uri must be http://127.0.0.1:<port>/…")
    return uri


def checked_challenge(challenge: str | None, method: str | None) -> str:
    if not challenge or method != "S256" or len(challenge) != _S256_CHARS:
        raise OAuthRefused("invalid_request", "PKCE with code_challenge_method=S256 is needed")
    return challenge


def proves(verifier: str | None, challenge: str) -> bool:
    digest = hashlib.sha256((verifier or "").encode("utf-8", "surrogatepass")).digest()
    return hmac.compare_digest(base64.urlsafe_b64encode(digest).rstrip(b"=").decode(), challenge)


def normal_user_code(text: str) -> str:
    """As people type it: case, spaces and dashes do not matter."""
    letters = "".join(letter for letter in text.upper() if letter.isalnum())
    return f"{letters[:4]}-{letters[4:]}"


def form_token(session_cookie: str, *bound: str) -> str:
    """What a consent form carries: another site neither knows the cookie nor what it was bound to (PD-45)."""
    return hmac.digest(session_cookie.encode(), "\0".join(bound).encode(), "sha256").hex()


class OAuthService:
    def __init__(self, engine: AsyncEngine, clock: Clock, origins: Origins) -> None:
        self._engine = engine
        self._clock = clock
        self._origins = origins

    def _now(self) -> datetime:
        return to_datetime(self._clock.now_ms())

    @property
    def issuer(self) -> str:
        return self._origins.public_url

    # ── code with PKCE ───────────────────────────────────────────────────────────────────────────

    async def approve_code(self, account: Account, asked: AuthorizeRequest, *, ip: str | None) -> str:
        """The code, for the redirect."""
        code = tokens.mint("")
        now = self._now()
        async with self._engine.begin() as tx:
            await queries.insert_code(
                tx,
                code=tokens.digest(code),
                user_id=account.user_id,
                redirect_uri=asked.redirect_uri,
                challenge=asked.challenge,
                now=now,
                expires_at=now + CODE_LIFE,
            )
            await self._note(tx, "oauth.approve", account.user_id, {"how": "browser"}, ip)
        return code

    async def redeem_code(
        self, *, code: str, redirect_uri: str, verifier: str | None, ip: str | None
    ) -> AccessToken:
        """Raises OAuthRefused. A wrong verifier spends the code; a spent code ends what it gave."""
        digest = tokens.digest(code)
        now = self._now()
        async with self._engine.begin() as tx:
            row = await queries.use_code(tx, digest, now)
            if row is None:
                robbed = await queries.end_grants_of(tx, digest, now)
                if robbed is not None:
                    log.warning("oauth.code_replayed", user_id=robbed, client_ip=ip)
            elif row["redirect_uri"] == redirect_uri and proves(verifier, row["challenge"]):
                return await self._grant(tx, row["user_id"], digest, now)
        raise await self._failed(ip, "invalid_grant", "the code is unknown, used, expired or not yours")

    # ── device ───────────────────────────────────────────────────────────────────────────────────

    async def start_device(self, *, challenge: str | None, ip: str | None) -> DeviceStarted:
        now = self._now()
        await throttle.count(
            self._engine,
            [(f"device-start:{ip}", _STARTS_PER_ADDRESS)],
            now=now,
            message="too many device sign-ins were started from here: wait a little",
        )
        device_code = tokens.mint("")
        letters = "".join(secrets.choice(_USER_CODE_LETTERS) for _ in range(8))
        user_code = normal_user_code(letters)
        async with self._engine.begin() as tx:
            await queries.insert_device(
                tx,
                device=tokens.digest(device_code),
                user_code=tokens.digest(user_code),
                challenge=challenge,
                ip=ip,
                interval_s=POLL_SECONDS,
                now=now,
                expires_at=now + CODE_LIFE,
            )
        return DeviceStarted(
            device_code=device_code,
            user_code=user_code,
            expires_in=int(CODE_LIFE.total_seconds()),
            interval=POLL_SECONDS,
        )

    async def find_device(self, account: Account, typed: str) -> WaitingDevice | None:
        """The sign-in that waits under this code. Guessing is limited per person."""
        await self._limit_codes(account)
        user_code = normal_user_code(typed)
        async with self._engine.connect() as tx:
            row = await queries.open_device(tx, tokens.digest(user_code), self._now())
        if row is None:
            return None
        return WaitingDevice(user_code=user_code, ip=row["ip"], asked_at=row["created_at"])

    async def decide_device(
        self, account: Account, user_code: str, *, approved: bool, ip: str | None
    ) -> bool:
        """False when nothing waits under this code any more."""
        await self._limit_codes(account)
        async with self._engine.begin() as tx:
            decided = await queries.decide_device(
                tx,
                tokens.digest(normal_user_code(user_code)),
                user_id=account.user_id,
                approved=approved,
                now=self._now(),
            )
            if decided:
                action = "oauth.approve" if approved else "oauth.deny"
                await self._note(tx, action, account.user_id, {"how": "device"}, ip)
        return decided

    async def redeem_device(self, *, device_code: str, verifier: str | None, ip: str | None) -> AccessToken:
        """One poll. Raises OAuthRefused: authorization_pending, slow_down, access_denied, expired_token …"""
        device = tokens.digest(device_code)
        now = self._now()
        async with self._engine.begin() as tx:
            row = await queries.lock_device(tx, device)
            if row is not None and row["used_at"] is None:
                if row["expires_at"] <= now:
                    raise OAuthRefused("expired_token", "this sign-in took too long: start it again")
                if row["approved"] is False:
                    raise OAuthRefused("access_denied", "the sign-in was refused in the browser")
                if row["approved"] is None:
                    refused = await self._poll(tx, device, row["polled_at"], row["interval_s"], now)
                elif row["challenge"] is not None and not proves(verifier, row["challenge"]):
                    refused = None
                else:
                    await queries.spend_device(tx, device, now)
                    return await self._grant(tx, row["user_id"], device, now)
            else:
                refused = None
                if row is not None:
                    await queries.end_grants_of(tx, device, now)
        if refused is not None:
            raise refused
        raise await self._failed(ip, "invalid_grant", "the device code is unknown, used or not yours")

    async def _poll(
        self, tx: AsyncConnection, device: bytes, last: datetime | None, interval_s: int, now: datetime
    ) -> OAuthRefused:
        """Too soon: from now on five seconds more (RFC 8628 §3.5). A second's grace for clocks and networks."""
        early = last is not None and now < last + timedelta(seconds=interval_s - 1)
        await queries.note_poll(tx, device, interval_s=interval_s + (POLL_SECONDS if early else 0), now=now)
        if early:
            return OAuthRefused("slow_down", "ask less often")
        return OAuthRefused("authorization_pending", "nobody has decided yet")

    # ── the personal access token ────────────────────────────────────────────────────────────────

    async def exchange(self, access_token: str, machine_name: str, *, ip: str | None) -> PatCreated:
        """AU-140: the access token is spent; the PAT bears the machine's name."""
        name = machine_name.strip()[:100]
        if not name:
            raise InvalidInput("machineName is empty")
        digest = tokens.digest(access_token)
        now = self._now()
        token, pat_id = tokens.mint(tokens.PAT), uuid7()
        expires_at = now + PAT_LIFE
        async with self._engine.begin() as tx:
            grant = await queries.use_grant(tx, digest, now)
            if grant is not None:
                await people_queries.insert_pat(
                    tx,
                    pat_id=pat_id,
                    user_id=grant["user_id"],
                    name=name,
                    token=tokens.digest(token),
                    display=tokens.display(token),
                    now=now,
                    expires_at=expires_at,
                )
                await queries.note_exchanged(tx, digest, pat_id)
                await self._note(tx, "pat.create", grant["user_id"], {"name": name, "how": "login"}, ip)
        if grant is None:
            await self._failed(ip, "invalid_token", "")
            raise Unauthorized("the sign-in is unknown, used or expired: run `kici login` again")
        return PatCreated(id=pat_id, name=name, token=token, expires_at=expires_at)

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    async def _grant(self, tx: AsyncConnection, user_id: str, origin: bytes, now: datetime) -> AccessToken:
        token = tokens.mint(tokens.ACCESS)
        await queries.insert_grant(
            tx,
            token=tokens.digest(token),
            user_id=user_id,
            origin=origin,
            now=now,
            expires_at=now + GRANT_LIFE,
        )
        return AccessToken(token=token, expires_in=int(GRANT_LIFE.total_seconds()))

    async def _limit_codes(self, account: Account) -> None:
        await throttle.count(
            self._engine,
            [(f"device-code:{account.user_id}", _CODES_PER_PERSON)],
            now=self._now(),
            message="too many device codes: wait a little",
        )

    async def _failed(self, ip: str | None, oauth_code: str, message: str) -> OAuthRefused:
        """What to raise; counted per address. Raises TooManyRequests itself at the limit."""
        await throttle.count(
            self._engine,
            [(f"oauth:{ip}", _FAILURES_PER_ADDRESS)],
            now=self._now(),
            message="too many failed sign-ins: wait a little",
        )
        return OAuthRefused(oauth_code, message)

    async def _note(
        self, tx: AsyncConnection, action: str, user_id: str, details: dict[str, str], ip: str | None
    ) -> None:
        await audit.record(
            tx,
            action=action,
            target=("user", user_id),
            actor=("user", user_id),
            details={"client": CLIENT_ID, **details},
            ip=ip,
        )
