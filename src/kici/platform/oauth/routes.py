"""`/.well-known/*`, `/oauth/*`, `/device` and the exchange. Only `kici-cli` is served here."""

from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from litestar import Response, get, post
from litestar.params import JSONBody
from litestar.response import Redirect

from kici.platform.errors import TooManyRequests, Unauthorized
from kici.platform.http.caller import COOKIE, AnyRequest, require_same_origin
from kici.platform.oauth import pages
from kici.platform.oauth.service import (
    CLIENT_ID,
    DEVICE_GRANT,
    AccessToken,
    AuthorizeRequest,
    OAuthRefused,
    checked_challenge,
    checked_redirect,
    form_token,
)
from kici.platform.oauth.views import ExchangeBody
from kici.platform.people.accounts import Account
from kici.platform.people.views import PatCreated
from kici.platform.services import Platform
from kici.spec.errors import InvalidInput

_FIELD_CHARS = 2048
Answer = Response[Any]


def _page(html: str, *, status: int = 200, redirects_to: str | None = None) -> Answer:
    """A form's answer may lead to the program that waits: browsers hold that against `form-action`, too."""
    own = "" if redirects_to is None else " http://" + urlsplit(redirects_to).netloc
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'{own}; base-uri 'none'; "
        "frame-ancestors 'none'"
    )
    return Response(
        html, status_code=status, media_type="text/html", headers={"Content-Security-Policy": policy}
    )


def _client_ip(request: AnyRequest) -> str | None:
    return request.scope["state"]["client_ip"]


async def _session(request: AnyRequest, platform: Platform) -> tuple[Account, str] | None:
    cookie = request.cookies.get(COOKIE)
    if cookie is None:
        return None
    try:
        return await platform.people.by_session(cookie), cookie
    except Unauthorized:
        return None


def _to_sign_in(request: AnyRequest, platform: Platform) -> Redirect:
    """And back here afterwards."""
    here = platform.origins.base_path.rstrip("/") + request.url.path
    if request.url.query:
        here += f"?{request.url.query}"
    return Redirect(f"{platform.origins.base_path}login?next={quote(here, safe='')}", status_code=302)


async def _form(request: AnyRequest) -> dict[str, str]:
    form = await request.form()
    return {name: value[:_FIELD_CHARS] for name, value in form.items() if isinstance(value, str)}


# ── discovery ────────────────────────────────────────────────────────────────────────────────────


@get(
    ["/.well-known/openid-configuration", "/.well-known/oauth-authorization-server"],
    operation_id="getOAuthMetadata",
    include_in_schema=False,
    sync_to_thread=False,
)
def metadata(platform: Platform) -> dict[str, Any]:
    """RFC 8414. We are no OpenID provider: the well-known name is where command lines look."""
    issuer = platform.oauth.issuer
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/oauth/authorize",
        "token_endpoint": f"{issuer}/oauth/token",
        "device_authorization_endpoint": f"{issuer}/oauth/device_authorization",
        "response_types_supported": ["code"],
        "grant_types_supported": ["authorization_code", DEVICE_GRANT],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "authorization_response_iss_parameter_supported": True,
    }


# ── code with PKCE ───────────────────────────────────────────────────────────────────────────────


def _asked(fields: dict[str, str]) -> AuthorizeRequest:
    """Raises InvalidInput when there is nobody to send back to, OAuthRefused when there is."""
    if fields.get("client_id") != CLIENT_ID:
        raise InvalidInput(f"unknown client_id: only {CLIENT_ID} signs in here")
    redirect_uri = checked_redirect(fields.get("redirect_uri", ""))
    if fields.get("response_type", "code") != "code":
        raise OAuthRefused("unsupported_response_type", "response_type must be code")
    challenge = checked_challenge(fields.get("code_challenge"), fields.get("code_challenge_method"))
    return AuthorizeRequest(redirect_uri=redirect_uri, challenge=challenge, state=fields.get("state", ""))


def _back(redirect_uri: str, platform: Platform, **answer: str) -> Redirect:
    glue = "&" if urlsplit(redirect_uri).query else "?"
    query = urlencode({**{k: v for k, v in answer.items() if v}, "iss": platform.oauth.issuer})
    return Redirect(f"{redirect_uri}{glue}{query}", status_code=303)


@get("/oauth/authorize", operation_id="oauthAuthorize", include_in_schema=False)
async def authorize(request: AnyRequest, platform: Platform) -> Answer | Redirect:
    fields = {name: str(value) for name, value in request.query_params.items()}
    try:
        asked = _asked(fields)
    except InvalidInput as error:
        return _page(pages.message("This sign-in cannot start", str(error)), status=400)
    except OAuthRefused as error:
        return _back(
            fields["redirect_uri"], platform, error=error.oauth_code, state=fields.get("state", "")
        )
    signed_in = await _session(request, platform)
    if signed_in is None:
        return _to_sign_in(request, platform)
    account, cookie = signed_in
    html = pages.consent(
        action="authorize",
        who=account.email,
        asks="The kici command line on this computer",
        fields={
            "client_id": CLIENT_ID,
            "redirect_uri": asked.redirect_uri,
            "code_challenge": asked.challenge,
            "code_challenge_method": "S256",
            "state": asked.state,
            "form_token": form_token(cookie, asked.redirect_uri, asked.challenge, asked.state),
        },
    )
    return _page(html, redirects_to=asked.redirect_uri)


@post("/oauth/authorize", operation_id="oauthConsent", include_in_schema=False, status_code=200)
async def consent(request: AnyRequest, platform: Platform) -> Answer | Redirect:
    require_same_origin(request, platform)
    fields = await _form(request)
    signed_in = await _session(request, platform)
    if signed_in is None:
        return _page(pages.message("The session has ended", "Run kici login again."), status=401)
    account, cookie = signed_in
    try:
        asked = _asked(fields)
    except (InvalidInput, OAuthRefused) as error:
        return _page(pages.message("This sign-in cannot go on", str(error)), status=400)
    if fields.get("form_token") != form_token(cookie, asked.redirect_uri, asked.challenge, asked.state):
        return _page(
            pages.message("This form is not ours", "Nothing was approved. Run kici login again."),
            status=403,
        )
    if fields.get("decision") != "approve":
        return _back(asked.redirect_uri, platform, error="access_denied", state=asked.state)
    code = await platform.oauth.approve_code(account, asked, ip=_client_ip(request))
    return _back(asked.redirect_uri, platform, code=code, state=asked.state)


# ── device ───────────────────────────────────────────────────────────────────────────────────────


@post("/oauth/device_authorization", operation_id="oauthDevice", include_in_schema=False, status_code=200)
async def device_authorization(request: AnyRequest, platform: Platform) -> Answer:
    fields = await _form(request)
    try:
        if fields.get("client_id") != CLIENT_ID:
            raise OAuthRefused("invalid_client", f"only {CLIENT_ID} signs in here")
        challenge: str | None = None
        if "code_challenge" in fields:
            challenge = checked_challenge(fields["code_challenge"], fields.get("code_challenge_method"))
        started = await platform.oauth.start_device(challenge=challenge, ip=_client_ip(request))
    except (OAuthRefused, TooManyRequests) as error:
        return _oauth_error(error)
    page = f"{platform.oauth.issuer}/device"
    return Response(
        {
            "device_code": started.device_code,
            "user_code": started.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={started.user_code}",
            "expires_in": started.expires_in,
            "interval": started.interval,
        }
    )


@get("/device", operation_id="oauthDevicePage", include_in_schema=False)
async def device_page(request: AnyRequest, platform: Platform) -> Answer | Redirect:
    signed_in = await _session(request, platform)
    if signed_in is None:
        return _to_sign_in(request, platform)
    account, cookie = signed_in
    typed = str(request.query_params.get("user_code", ""))[:40].strip()
    if not typed:
        return _page(pages.enter_code(action="device", problem=None))
    try:
        found = await platform.oauth.find_device(account, typed)
    except TooManyRequests as error:
        return _page(pages.message("Too many codes", str(error)), status=429)
    if found is None:
        problem = "This code is unknown, used or expired."
        return _page(pages.enter_code(action="device", problem=problem), status=404)
    html = pages.consent(
        action="device",
        who=account.email,
        asks=f"A kici command line at {found.ip}" if found.ip else "A kici command line",
        fields={"user_code": found.user_code, "form_token": form_token(cookie, found.user_code)},
        code=found.user_code,
    )
    return _page(html)


@post("/device", operation_id="oauthDeviceConsent", include_in_schema=False, status_code=200)
async def device_consent(request: AnyRequest, platform: Platform) -> Answer:
    require_same_origin(request, platform)
    fields = await _form(request)
    signed_in = await _session(request, platform)
    if signed_in is None:
        return _page(pages.message("The session has ended", "Open the page again."), status=401)
    account, cookie = signed_in
    user_code = fields.get("user_code", "")
    if fields.get("form_token") != form_token(cookie, user_code):
        return _page(
            pages.message("This form is not ours", "Nothing was approved. Open the page again."), status=403
        )
    approved = fields.get("decision") == "approve"
    try:
        decided = await platform.oauth.decide_device(
            account, user_code, approved=approved, ip=_client_ip(request)
        )
    except TooManyRequests as error:
        return _page(pages.message("Too many codes", str(error)), status=429)
    if not decided:
        return _page(pages.message("Too late", "This code is used or expired."), status=404)
    if approved:
        return _page(pages.message("Signed in", "Go back to your terminal. You may close this page."))
    return _page(pages.message("Refused", "Nobody was signed in. You may close this page."))


# ── tokens ───────────────────────────────────────────────────────────────────────────────────────


@post("/oauth/token", operation_id="oauthToken", include_in_schema=False, status_code=200)
async def token(request: AnyRequest, platform: Platform) -> Answer:
    fields = await _form(request)
    ip = _client_ip(request)
    try:
        if fields.get("client_id") != CLIENT_ID:
            raise OAuthRefused("invalid_client", f"only {CLIENT_ID} signs in here")
        granted: AccessToken
        match fields.get("grant_type"):
            case "authorization_code":
                granted = await platform.oauth.redeem_code(
                    code=fields.get("code", ""),
                    redirect_uri=fields.get("redirect_uri", ""),
                    verifier=fields.get("code_verifier"),
                    ip=ip,
                )
            case "urn:ietf:params:oauth:grant-type:device_code":
                granted = await platform.oauth.redeem_device(
                    device_code=fields.get("device_code", ""),
                    verifier=fields.get("code_verifier"),
                    ip=ip,
                )
            case _:
                raise OAuthRefused("unsupported_grant_type", "this grant type is not served here")
    except (OAuthRefused, TooManyRequests) as error:
        return _oauth_error(error)
    return Response(
        {"access_token": granted.token, "token_type": "Bearer", "expires_in": granted.expires_in}
    )


def _oauth_error(error: OAuthRefused | TooManyRequests) -> Answer:
    if isinstance(error, TooManyRequests):
        body = {"error": "slow_down", "error_description": str(error)}
        return Response(body, status_code=429, headers=error.headers)
    return Response({"error": error.oauth_code, "error_description": str(error)}, status_code=400)


@post("/api/v1/cli/exchange-token", operation_id="exchangeToken", tags=["auth"], status_code=201)
async def exchange_token(
    request: AnyRequest, data: JSONBody[ExchangeBody], platform: Platform
) -> PatCreated:
    """With the access token of `/oauth/token` as bearer: a personal access token named after the machine."""
    scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not bearer:
        raise Unauthorized("send the access token of this sign-in: `Authorization: Bearer kici_at_…`")
    return await platform.oauth.exchange(bearer.strip(), data.machine_name, ip=_client_ip(request))


HANDLERS = [
    metadata,
    authorize,
    consent,
    device_authorization,
    device_page,
    device_consent,
    token,
    exchange_token,
]
