"""Signing in and out, the own account, personal access tokens (PD-42…50)."""

from litestar import Response, Router, delete, get, patch, post
from litestar.datastructures import Cookie
from litestar.params import FromPath, FromQuery, JSONBody
from litestar.response import Redirect

from kici.platform.http.caller import (
    COOKIE,
    AnyRequest,
    Caller,
    provide_caller,
    require_csrf,
    require_same_origin,
)
from kici.platform.people.views import (
    AuthConfigView,
    CreatePatBody,
    CredentialView,
    LoginBody,
    PatCreated,
    PatList,
    SetupBody,
    SignInLinkView,
    UpdateUserBody,
    UserView,
)
from kici.platform.services import Platform


def _cookie(value: str, platform: Platform, max_age_seconds: int) -> Cookie:
    return Cookie(
        key=COOKIE,
        value=value,
        path=platform.origins.base_path,
        max_age=max_age_seconds,
        httponly=True,
        samesite="lax",
        secure=platform.origins.secure,
    )


def _visitor(request: AnyRequest) -> tuple[str | None, str]:
    return request.scope["state"]["client_ip"], request.headers.get("user-agent", "")


@get("/api/v1/auth/config", operation_id="getAuthConfig", tags=["auth"])
async def auth_config(platform: Platform) -> AuthConfigView:
    return await platform.people.auth_config()


@post("/auth/login", operation_id="login", tags=["auth"], status_code=200)
async def login(request: AnyRequest, data: JSONBody[LoginBody], platform: Platform) -> Response[UserView]:
    require_same_origin(request, platform)
    ip, agent = _visitor(request)
    signed_in = await platform.people.login(data.email, data.password, ip=ip, user_agent=agent)
    return Response(signed_in.user, cookies=[_cookie(signed_in.token, platform, signed_in.max_age_seconds)])


@post("/auth/logout", operation_id="logout", tags=["auth"], status_code=204)
async def logout(request: AnyRequest, platform: Platform) -> Response[None]:
    require_csrf(request, platform)
    cookie = request.cookies.get(COOKIE)
    if cookie is not None:
        await platform.people.logout(cookie)
    return Response(None, status_code=204, cookies=[_cookie("", platform, 0)])


@post("/auth/setup", operation_id="setup", tags=["auth"], status_code=200)
async def setup(request: AnyRequest, data: JSONBody[SetupBody], platform: Platform) -> Response[UserView]:
    """Creates the first account with the one-time token of the setup link; afterwards 404."""
    require_same_origin(request, platform)
    ip, agent = _visitor(request)
    signed_in = await platform.people.setup(
        token=data.token,
        email=data.email,
        password=data.password,
        display_name=data.display_name,
        ip=ip,
        user_agent=agent,
    )
    return Response(signed_in.user, cookies=[_cookie(signed_in.token, platform, signed_in.max_age_seconds)])


@get("/auth/link", operation_id="signInByLink", tags=["auth"], include_in_schema=False)
async def sign_in_by_link(request: AnyRequest, token: FromQuery[str], platform: Platform) -> Redirect:
    ip, agent = _visitor(request)
    signed_in = await platform.people.sign_in_by_link(token, ip=ip, user_agent=agent)
    home = platform.origins.base_path
    if signed_in is None:
        return Redirect(f"{home}login?error=link", status_code=302)
    return Redirect(
        home, status_code=302, cookies=[_cookie(signed_in.token, platform, signed_in.max_age_seconds)]
    )


@post("/sign-in-links", operation_id="createSignInLink", tags=["auth"], status_code=201)
async def create_sign_in_link(caller: Caller, platform: Platform) -> SignInLinkView:
    return await platform.people.create_sign_in_link(caller)


@get("/user", operation_id="getUser", tags=["user"])
async def get_user(caller: Caller, platform: Platform) -> UserView:
    return await platform.people.profile(caller.account.user_id)


@patch("/user", operation_id="updateUser", tags=["user"])
async def update_user(data: JSONBody[UpdateUserBody], caller: Caller, platform: Platform) -> UserView:
    return await platform.people.update(caller, data)


@get("/user/credential", operation_id="getCredential", tags=["user"], sync_to_thread=False)
def get_credential(caller: Caller, platform: Platform) -> CredentialView:
    """What this request is made with, and when that expires."""
    return platform.people.credential(caller.account)


@get("/pats", operation_id="listPats", tags=["user"])
async def list_pats(caller: Caller, platform: Platform) -> PatList:
    return await platform.people.list_pats(caller.account.user_id)


@post("/pats", operation_id="createPat", tags=["user"], status_code=201)
async def create_pat(data: JSONBody[CreatePatBody], caller: Caller, platform: Platform) -> PatCreated:
    return await platform.people.create_pat(caller, data)


@delete("/pats/{pat_id:str}", operation_id="deletePat", tags=["user"], status_code=204)
async def delete_pat(pat_id: FromPath[str], caller: Caller, platform: Platform) -> None:
    await platform.people.revoke_pat(caller, pat_id)


PUBLIC = [auth_config, login, logout, setup, sign_in_by_link]
SIGNED_IN = Router(
    path="/api/v1",
    route_handlers=[
        create_sign_in_link,
        get_user,
        get_credential,
        update_user,
        list_pats,
        create_pat,
        delete_pat,
    ],
    dependencies={"caller": provide_caller},
)
