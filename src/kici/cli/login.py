"""`kici login`, `kici logout`, `kici whoami` (AU-140, AU-141). A local `kici up` needs none of them."""

import asyncio
import os
import socket
import sys
from datetime import datetime
from typing import Annotated, Any

import typer
from msgspec import structs

from kici.cli import config as stored
from kici.cli.client import Client, NotSignedIn, Refused, Target, Unreachable, find_target
from kici.cli.errors import errors_as_exit_codes
from kici.cli.output import emit
from kici.cli.up.paths import DataDir
from kici.cli.up.state import read_state
from kici.spec.errors import InvalidInput

app = typer.Typer(add_completion=False, no_args_is_help=True)

JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]


def _endpoint(given: str | None) -> str:
    """Which Platform: said, or the one of before, or the local one."""
    chosen = given or os.environ.get("KICI_PLATFORM_URL") or stored.load().platform_url
    if not chosen:
        state = read_state(DataDir.of(None).state)
        chosen = state.platform_url if state is not None else ""
    if not chosen:
        raise InvalidInput("which Platform? `kici login --platform-endpoint https://kici.example.org`")
    if not chosen.startswith(("https://", "http://")):
        raise InvalidInput(f"{chosen!r} is no URL: it begins with https://")
    return chosen.rstrip("/")


@app.command()
def login(
    device: Annotated[
        bool, typer.Option("--device", help="Type a code in any browser, on any machine.")
    ] = False,
    token_stdin: Annotated[
        bool, typer.Option("--token-stdin", help="Read a kici_pat_… token from stdin.")
    ] = False,
    token: Annotated[
        str | None, typer.Option("--token", help="A kici_pat_… token; your shell's history keeps it.")
    ] = None,
    platform_endpoint: Annotated[
        str | None, typer.Option("--platform-endpoint", help="URL of the Platform.")
    ] = None,
    oidc_issuer: Annotated[
        str | None, typer.Option("--oidc-issuer", help="Authorization server; the Platform itself without.")
    ] = None,
) -> None:
    """Sign this machine in. A browser opens; where there is none, a code is shown to type elsewhere.

    Example: kici login --platform-endpoint https://kici.example.org
    """

    async def body() -> None:
        url = _endpoint(platform_endpoint)
        if token is not None and token_stdin:
            raise InvalidInput("--token and --token-stdin are two ways of the same: give one")
        if token is not None:
            print(
                "warning: a token on the command line stays in your shell's history; --token-stdin does not",
                file=sys.stderr,
            )
            await _keep(url, token.strip())
        elif token_stdin:
            await _keep(url, sys.stdin.readline().strip())
        else:
            issuer = oidc_issuer or os.environ.get("KICI_OIDC_ISSUER") or url
            await _keep(url, await _sign_in(url, issuer, device=device))

    with errors_as_exit_codes():
        asyncio.run(body())


async def _sign_in(url: str, issuer: str, *, device: bool) -> str:
    """A personal access token, named after this machine."""
    import httpx

    from kici.cli import oauth

    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        server = await oauth.discover(http, issuer)
        if oauth.wants_device(os.environ, asked=device):
            access = await oauth.by_device(http, server)
        else:
            access = await oauth.by_browser(http, server)
    async with Client(Target(url, access, "")) as client:
        made = await client.post("/api/v1/cli/exchange-token", {"machineName": socket.gethostname()})
    return made["token"]


async def _keep(url: str, token: str) -> None:
    """Store what the Platform knows, and say who that is."""
    if not token:
        raise InvalidInput("the token is empty")
    async with Client(Target(url, token, "")) as client:
        user = await client.get("/api/v1/user")
        credential = await client.get("/api/v1/user/credential")
    expires = credential["expiresAt"]
    config = stored.signed_in(
        stored.load(),
        platform_url=url,
        token=token,
        token_id=credential["id"] or "",
        expires_at=None if expires is None else datetime.fromisoformat(expires),
    )
    orgs = user["orgs"]
    if not any(org["id"] == config.org_id for org in orgs):
        config = structs.replace(config, org_id=orgs[0]["id"] if len(orgs) == 1 else "")
    stored.save(config)
    print(f"Signed in to {url} as {user['email']}")
    print("The token does not expire" if expires is None else f"The token expires on {expires[:10]}")
    if not config.org_id:
        print("Choose an organization: `kici org list`, then `kici org use NAME`")


@app.command()
def logout() -> None:
    """Revoke the token of this machine and forget it, also when the Platform cannot be reached.

    Example: kici logout
    """

    async def body() -> None:
        config = stored.load()
        if not config.token:
            raise NotSignedIn("not signed in; a local `kici up` needs no sign-in")
        expires = config.token_expires_at
        later = "does not expire" if expires is None else f"will expire on {expires:%Y-%m-%d}"
        try:
            async with Client(Target(config.platform_url, config.token, "")) as client:
                await client.delete(f"/api/v1/pats/{config.token_id}")
            said = "the token is revoked"
        except NotSignedIn:
            said = "the token was no longer valid"
        except (Unreachable, Refused) as error:
            print(f"warning: not revoked: {error}", file=sys.stderr)
            said = f"the token {later}"
        stored.save(stored.Config())
        print(f"Signed out of {config.platform_url}; {said}")

    with errors_as_exit_codes():
        asyncio.run(body())


@app.command()
def whoami(
    as_json: JsonOption = False,
    data_dir: Annotated[str | None, typer.Option("--data-dir", help="Of a running `kici up`.")] = None,
) -> None:
    """Who you are, where, with what kind of token, and until when.

    Example: kici whoami --json
    """

    async def body() -> dict[str, Any]:
        target = find_target(data_dir=data_dir)
        async with Client(target) as client:
            user = await client.get("/api/v1/user")
            credential = await client.get("/api/v1/user/credential")
        org = next((org for org in user["orgs"] if org["id"] == target.org_id), None)
        return {
            "platformUrl": target.platform_url,
            "email": user["email"],
            "displayName": user["displayName"],
            "org": org,
            "orgs": user["orgs"],
            "tokenKind": credential["kind"],
            "tokenName": credential["name"],
            "agentLabel": credential["agentLabel"],
            "expiresAt": credential["expiresAt"],
            "expiresSoon": credential["expiresSoon"],
        }

    with errors_as_exit_codes():
        found = asyncio.run(body())
        if as_json:
            emit(found)
            return
        kind = "personal access token" if found["tokenKind"] == "user" else f"{found['tokenKind']} token"
        label = "" if found["agentLabel"] is None else f" of {found['agentLabel']}"
        expires = "does not expire" if found["expiresAt"] is None else f"expires {found['expiresAt'][:10]}"
        print(f"{found['displayName']} <{found['email']}> at {found['platformUrl']}")
        print(f"Organization  {found['org']['name'] if found['org'] else '– (choose: kici org use NAME)'}")
        print(f"Token         {kind}{label} {found['tokenName']!r}, {expires}")
