"""`kici login` against an authorization server: code with PKCE through a browser, or a device code (AU-140)."""

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from msgspec import Struct

from kici.cli.client import Unreachable
from kici.spec.errors import InvalidInput, KiciError

if TYPE_CHECKING:
    import httpx

CLIENT_ID = "kici-cli"
PATIENCE_S = 300
DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"
# Where these are set, nobody sees a window that we open.
_NO_WINDOW = (
    "SSH_CLIENT",
    "SSH_TTY",
    "CI",
    "GITHUB_ACTIONS",
    "GITLAB_CI",
    "container",
    "DOCKER_CONTAINER",
)
_REQUEST_BYTES = 16 << 10


class SignInRefused(KiciError):
    """Somebody or something said no. Exit code 4."""

    code: ClassVar[str] = "not_signed_in"


class Server(Struct, frozen=True, kw_only=True):
    """What discovery says."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    device_authorization_endpoint: str = ""


class Proof(Struct, frozen=True, kw_only=True):
    """PKCE: the challenge goes out first, the verifier proves afterwards that it was us."""

    verifier: str
    challenge: str

    @classmethod
    def fresh(cls) -> "Proof":
        verifier = secrets.token_urlsafe(48)
        digest = hashlib.sha256(verifier.encode()).digest()
        return cls(verifier=verifier, challenge=base64.urlsafe_b64encode(digest).rstrip(b"=").decode())


def client_id() -> str:
    return os.environ.get("KICI_OIDC_CLIENT_ID") or CLIENT_ID


def wants_device(environ: Mapping[str, str], *, asked: bool, platform: str = sys.platform) -> bool:
    """AU-140: said so, or no window can be seen here; KICI_BROWSER_CMD knows better."""
    if asked:
        return True
    if environ.get("KICI_BROWSER_CMD"):
        return False
    if any(environ.get(name) for name in _NO_WINDOW):
        return True
    return platform.startswith("linux") and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY"))


async def discover(http: "httpx.AsyncClient", issuer: str) -> Server:
    """Raises Unreachable, InvalidInput."""
    url = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
    answer = await _ask(http, "GET", url)
    try:
        server = Server(
            issuer=answer["issuer"],
            authorization_endpoint=answer["authorization_endpoint"],
            token_endpoint=answer["token_endpoint"],
            device_authorization_endpoint=answer.get("device_authorization_endpoint", ""),
        )
    except (KeyError, TypeError) as error:
        raise InvalidInput(
            f"{url} does not describe an authorization server: is this a KiCI Platform?"
        ) from error
    for endpoint in (server.authorization_endpoint, server.token_endpoint):
        parts = urlsplit(endpoint)
        if parts.scheme != "https" and urlsplit(issuer).scheme == "https":
            raise InvalidInput(f"{issuer} is served by https but sends on to {endpoint}")
    return server


async def by_browser(http: "httpx.AsyncClient", server: Server) -> str:
    """The access token. Raises SignInRefused, Unreachable."""
    proof, state = Proof.fresh(), secrets.token_urlsafe(24)
    heard: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _callback(reader, writer, heard, state)

    listener = await _listen(answer)
    async with listener:
        port = listener.sockets[0].getsockname()[1]
        redirect_uri = f"http://127.0.0.1:{port}/callback"
        query = urlencode(
            {
                "response_type": "code",
                "client_id": client_id(),
                "redirect_uri": redirect_uri,
                "code_challenge": proof.challenge,
                "code_challenge_method": "S256",
                "state": state,
            }
        )
        glue = "&" if urlsplit(server.authorization_endpoint).query else "?"
        await asyncio.to_thread(_open_browser, f"{server.authorization_endpoint}{glue}{query}")
        try:
            async with asyncio.timeout(PATIENCE_S):
                told = await heard
        except TimeoutError:
            raise SignInRefused(
                "nobody signed in within five minutes: run `kici login` again, or `kici login --device`"
            ) from None
    if "error" in told:
        raise SignInRefused(f"the sign-in was refused: {told.get('error_description') or told['error']}")
    if "iss" in told and told["iss"] != server.issuer:
        raise SignInRefused(f"another server answered: {told['iss']} instead of {server.issuer}")
    return await _redeem(
        http,
        server,
        grant_type="authorization_code",
        code=told["code"],
        redirect_uri=redirect_uri,
        code_verifier=proof.verifier,
    )


async def _listen(answer: Any) -> asyncio.Server:
    wanted = os.environ.get("KICI_CALLBACK_PORT") or "0"
    try:
        return await asyncio.start_server(answer, "127.0.0.1", int(wanted), limit=_REQUEST_BYTES)
    except (ValueError, OSError, OverflowError) as error:
        raise InvalidInput(
            f"KICI_CALLBACK_PORT={wanted}: cannot listen on 127.0.0.1 there: {error}"
        ) from error


async def _callback(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    heard: "asyncio.Future[dict[str, str]]",
    state: str,
) -> None:
    """One request of the browser. Whatever does not bear our state is not for us."""
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
        method, target = head.split(b" ", 2)[:2]
        parts = urlsplit(target.decode("ascii"))
        told = {name: values[0] for name, values in parse_qs(parts.query).items()}
        ours = (
            method == b"GET"
            and parts.path == "/callback"
            and hmac.compare_digest(told.get("state", "").encode(), state.encode())
            and ("code" in told or "error" in told)
        )
        if ours and not heard.done():
            heard.set_result(told)
        if not ours:
            status, text = "404 Not Found", "There is nothing here."
        elif "code" in told:
            status, text = "200 OK", "You are signed in. Go back to your terminal and close this page."
        else:
            status, text = "200 OK", "The sign-in was refused. You may close this page."
        body = f"<!doctype html><meta charset=utf-8><title>KiCI</title><p>{text}".encode()
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
            "Cache-Control: no-store\r\nReferrer-Policy: no-referrer\r\nConnection: close\r\n\r\n".encode()
            + body
        )
        async with asyncio.timeout(10):
            await writer.drain()
    except (
        TimeoutError,
        OSError,
        ValueError,
        asyncio.IncompleteReadError,
        asyncio.LimitOverrunError,
    ):
        pass  # a browser that goes away, or something that speaks no HTTP
    finally:
        writer.close()


def _open_browser(url: str) -> None:
    """KICI_BROWSER_CMD: a command with `{url}`, or `none` to leave it to whoever reads stdout."""
    command = os.environ.get("KICI_BROWSER_CMD", "")
    if command == "none":
        print(f"KICI_AUTH_URL={url}", flush=True)
        return
    print(f"Opening your browser. If nothing opens, go to:\n  {url}", file=sys.stderr, flush=True)
    if command:
        words = [word.replace("{url}", url) for word in shlex.split(command)]
        if not any(url in word for word in words):
            words.append(url)
        try:
            # Not waited for: some browsers stay in the foreground.
            subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            raise InvalidInput(f"KICI_BROWSER_CMD cannot be run: {error}") from error
        return
    import webbrowser

    webbrowser.open(url)


async def by_device(http: "httpx.AsyncClient", server: Server) -> str:
    """The access token. Raises SignInRefused, Unreachable."""
    if not server.device_authorization_endpoint:
        raise InvalidInput(f"{server.issuer} knows no device sign-in: run `kici login` where a browser is")
    proof = Proof.fresh()
    started = await _ask(
        http,
        "POST",
        server.device_authorization_endpoint,
        {
            "client_id": client_id(),
            "code_challenge": proof.challenge,
            "code_challenge_method": "S256",
        },
    )
    complete = started.get("verification_uri_complete")
    print(f"Open {started['verification_uri']} in any browser and type this code:\n", file=sys.stderr)
    print(f"    {started['user_code']}\n", file=sys.stderr)
    if complete:
        print(f"Or open {complete}", file=sys.stderr)
    sys.stderr.flush()
    give_up = time.monotonic() + min(int(started["expires_in"]), PATIENCE_S)
    interval = max(int(started.get("interval", 5)), 1)
    while time.monotonic() < give_up:
        await asyncio.sleep(interval)
        try:
            return await _redeem(
                http,
                server,
                grant_type=DEVICE_GRANT,
                device_code=started["device_code"],
                code_verifier=proof.verifier,
            )
        except _Refused as refused:
            if refused.reason == "slow_down":
                interval += 5
            elif refused.reason != "authorization_pending":
                raise SignInRefused(f"the sign-in was refused: {refused}") from None
    raise SignInRefused("nobody signed in within five minutes: run `kici login --device` again")


class _Refused(SignInRefused):
    """The protocol's own word is `reason`."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


async def _redeem(http: "httpx.AsyncClient", server: Server, **form: str) -> str:
    answer = await _ask(http, "POST", server.token_endpoint, {"client_id": client_id(), **form})
    return answer["access_token"]


async def _ask(
    http: "httpx.AsyncClient", method: str, url: str, form: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """JSON of one request. Raises _Refused for an error of the protocol, else Unreachable."""
    import httpx

    try:
        response = await http.request(method, url, data=dict(form) if form else None)
    except httpx.HTTPError as error:
        raise Unreachable(f"cannot reach {quote(url, safe=':/?&=.-')}: {type(error).__name__}") from error
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if response.status_code >= 400 or not isinstance(answer, dict):
        if isinstance(answer, dict) and "error" in answer:
            reason = str(answer["error"])
            raise _Refused(str(answer.get("error_description") or reason), reason)
        raise Unreachable(f"{url} answered {response.status_code}: is this a KiCI Platform?")
    return answer
