"""Who is asking: session cookie or bearer token, and what that person may do in the org of the path."""

from dataclasses import dataclass
from typing import Any

from litestar import Request
from litestar.params import FromPath, SkipValidation

from kici.platform.errors import CsrfRefused, Forbidden, Unauthorized
from kici.platform.people.accounts import Account
from kici.platform.permissions import Permission, Role, allowed, denial
from kici.platform.services import Platform
from kici.protocol.platform_v1 import Actor
from kici.spec.errors import NotFound

COOKIE = "kici_session"
CSRF_HEADER = "x-kici-csrf"
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

AnyRequest = Request[Any, Any, Any]


@dataclass(frozen=True, slots=True)
class CallerInfo:
    """A signed-in person on one request."""

    account: Account
    request_id: str
    ip: str | None

    @property
    def actor(self) -> Actor:
        return Actor(kind="user", id=self.account.user_id, display_name=self.account.acting_name)


@dataclass(frozen=True, slots=True)
class OrgInfo:
    """The org of the path, after the check of the route's permission."""

    org_id: str
    role: Role
    caller: CallerInfo


def require_csrf(request: AnyRequest, platform: Platform) -> None:
    """PD-45: what changes something under a cookie must come from our own pages."""
    if request.method in _SAFE:
        return
    if request.headers.get(CSRF_HEADER) is None:
        raise CsrfRefused("send the header X-Kici-Csrf: 1 with this request")
    require_same_origin(request, platform)


def require_same_origin(request: AnyRequest, platform: Platform) -> None:
    """Browsers name the origin of every unsafe request; programs name none."""
    origin = request.headers.get("origin")
    if origin is not None and not platform.origins.same(origin, request.headers.get("host")):
        raise CsrfRefused("this request comes from another origin")


async def provide_caller(request: AnyRequest, platform: Platform) -> CallerInfo:
    authorization = request.headers.get("authorization")
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise Unauthorized("use `Authorization: Bearer kici_pat_…`")
        account = await platform.people.by_token(token.strip())
    else:
        cookie = request.cookies.get(COOKIE)
        if cookie is None:
            raise Unauthorized("sign in first")
        require_csrf(request, platform)
        account = await platform.people.by_session(cookie)
    return CallerInfo(
        account=account,
        request_id=request.scope["state"]["request_id"],
        ip=request.scope["state"]["client_ip"],
    )


Caller = SkipValidation[CallerInfo]


async def provide_org(request: AnyRequest, org_id: FromPath[str], caller: Caller) -> OrgInfo:
    """Not a member and no such org look the same (PD-9)."""
    role = caller.account.roles.get(org_id)
    if role is None:
        raise NotFound("no such organization")
    permission: Permission = request.route_handler.opt["permission"]
    if not allowed(role, permission):
        raise Forbidden(denial(permission))
    return OrgInfo(org_id=org_id, role=role, caller=caller)


Org = SkipValidation[OrgInfo]
