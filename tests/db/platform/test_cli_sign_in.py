"""Signing the command line in with the Platform's own authorization server (PD-48, AU-140, AU-141)."""

import base64
import hashlib
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from sqlalchemy import text

from tests.support import platform as kit
from tests.support.postgres import Database

VERIFIER = "v" * 64
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()
BACK = "http://127.0.0.1:45678/callback"
ASK = {
    "response_type": "code",
    "client_id": "kici-cli",
    "redirect_uri": BACK,
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
    "state": "the-state",
}
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


@pytest.fixture
def clock() -> kit.TestClock:
    return kit.TestClock()


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path, clock: kit.TestClock):
    async with kit.platform(platform_db, tmp_path, clock=clock) as served:
        yield served


@pytest.fixture
async def browser(served: kit.Served):
    """Somebody who is signed in."""
    async with served.browser() as http:
        assert (await http.post("/auth/setup", json=kit.SETUP)).status_code == 200
        yield http


@pytest.fixture
async def program(served: kit.Served):
    """The command line: no cookie, no token."""
    async with served.client(token=None) as http:
        yield http


def fields_of(page: httpx.Response) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text))


async def approve(browser: httpx.AsyncClient, decision: str = "approve", **ask: str) -> dict[str, str]:
    """What the program hears at its address."""
    page = await browser.get("/oauth/authorize", params={**ASK, **ask})
    assert page.status_code == 200, page.text
    answer = await browser.post("/oauth/authorize", data={**fields_of(page), "decision": decision})
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(BACK + "?")
    return {
        name: values[0] for name, values in parse_qs(urlsplit(answer.headers["location"]).query).items()
    }


async def redeem(program: httpx.AsyncClient, code: str, **changes: str) -> httpx.Response:
    form = {
        "grant_type": "authorization_code",
        "client_id": "kici-cli",
        "code": code,
        "redirect_uri": BACK,
        "code_verifier": VERIFIER,
    }
    return await program.post("/oauth/token", data={**form, **changes})


async def exchange(program: httpx.AsyncClient, access_token: str) -> httpx.Response:
    return await program.post(
        "/api/v1/cli/exchange-token",
        json={"machineName": "laptop"},
        headers={"authorization": f"Bearer {access_token}"},
    )


async def test_a_code_becomes_a_token_named_after_the_machine(
    served: kit.Served, browser: httpx.AsyncClient, program: httpx.AsyncClient
):
    """AU-140, PD-48: PKCE, then the exchange; the token expires in 120 days."""
    told = await approve(browser)
    assert told["state"] == "the-state"
    issuer = (await program.get("/.well-known/oauth-authorization-server")).json()["issuer"]
    assert told["iss"] == issuer
    granted = await redeem(program, told["code"])
    assert granted.status_code == 200
    assert granted.headers["cache-control"] == "no-store"
    token = granted.json()["access_token"]
    nothing_else = await program.get("/api/v1/user", headers={"authorization": f"Bearer {token}"})
    assert nothing_else.status_code == 401
    made = await exchange(program, token)
    assert made.status_code == 201
    assert made.json()["token"].startswith("kici_pat_")
    async with served.client(token=made.json()["token"]) as http:
        assert (await http.get("/api/v1/user")).json()["email"] == "alice@example.org"
        credential = (await http.get("/api/v1/user/credential")).json()
        assert (credential["kind"], credential["name"]) == ("user", "laptop")
        assert credential["id"] == made.json()["id"]
        assert credential["expiresSoon"] is False
    assert (await exchange(program, token)).status_code == 401  # good for one


async def test_a_code_is_good_for_one_program_once(
    browser: httpx.AsyncClient, program: httpx.AsyncClient, served: kit.Served
):
    """PD-48: a replayed code ends the token that it gave; a wrong verifier or address gets nothing."""
    stolen = (await approve(browser))["code"]
    wrong = await redeem(program, stolen, code_verifier="x" * 64)
    assert (wrong.status_code, wrong.json()["error"]) == (400, "invalid_grant")
    assert (await redeem(program, stolen)).json()["error"] == "invalid_grant"  # spent
    elsewhere = (await approve(browser))["code"]
    moved = await redeem(program, elsewhere, redirect_uri="http://127.0.0.1:1/callback")
    assert moved.json()["error"] == "invalid_grant"
    code = (await approve(browser))["code"]
    made = (await exchange(program, (await redeem(program, code)).json()["access_token"])).json()
    async with served.client(token=made["token"]) as http:
        assert (await http.get("/api/v1/user")).status_code == 200
        assert (await redeem(program, code)).status_code == 400
        assert (await http.get("/api/v1/user")).json()["code"] == "token_revoked"


async def test_codes_expire_after_five_minutes(
    browser: httpx.AsyncClient, program: httpx.AsyncClient, clock: kit.TestClock
):
    code = (await approve(browser))["code"]
    clock.advance(seconds=301)
    assert (await redeem(program, code)).json()["error"] == "invalid_grant"


async def test_secrets_are_hashed_at_rest(
    browser: httpx.AsyncClient, program: httpx.AsyncClient, platform_db: Database
):
    """PD-49."""
    code = (await approve(browser))["code"]
    token = (await redeem(program, code)).json()["access_token"]
    device = (await program.post("/oauth/device_authorization", data={"client_id": "kici-cli"})).json()
    async with platform_db.engine.connect() as tx:
        rows = [
            str(row)
            for table in ("oauth_codes", "oauth_devices", "oauth_grants")
            for row in await tx.scalars(text(f"SELECT t::text FROM {table} t"))
        ]
    assert len(rows) == 3
    for secret in (code, token, device["device_code"], device["user_code"]):
        assert not any(secret in row for row in rows)


async def test_who_refuses_is_not_signed_in(browser: httpx.AsyncClient):
    told = await approve(browser, decision="deny")
    assert (told["error"], told["state"]) == ("access_denied", "the-state")
    assert "code" not in told


async def test_signing_in_comes_first_and_leads_back(program: httpx.AsyncClient):
    answer = await program.get("/oauth/authorize", params=ASK)
    assert answer.status_code == 302
    place = urlsplit(answer.headers["location"])
    assert place.path == "/login"
    back = urlsplit(parse_qs(place.query)["next"][0])
    assert back.path == "/oauth/authorize"
    assert parse_qs(back.query)["redirect_uri"] == [BACK]
    assert (await program.get("/device")).headers["location"] == "/login?next=%2Fdevice"


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "https://evil.example/callback",
        "http://127.0.0.1.evil.example:80/",
        "http://localhost:45678/callback",
        "http://user@127.0.0.1:45678/",
        "http://127.0.0.1/",
        "http://127.0.0.1:45678/#x",
        "http://127.0.0.1:45678/\r\nSet-Cookie: a=b",
        "javascript:alert(1)",
        "",
    ],
)
async def test_only_a_loopback_address_is_sent_to(browser: httpx.AsyncClient, redirect_uri: str):
    """Nobody is redirected anywhere else, not even with an error."""
    answer = await browser.get("/oauth/authorize", params={**ASK, "redirect_uri": redirect_uri})
    assert answer.status_code == 400
    assert "location" not in answer.headers


@pytest.mark.parametrize("missing", ["code_challenge", "code_challenge_method"])
async def test_pkce_is_not_optional(browser: httpx.AsyncClient, missing: str):
    ask = {name: value for name, value in ASK.items() if name != missing}
    answer = await browser.get("/oauth/authorize", params=ask)
    assert answer.status_code == 303
    assert "error=invalid_request" in answer.headers["location"]


async def test_the_consent_form_is_ours_alone(browser: httpx.AsyncClient, served: kit.Served):
    """PD-45: no other site's form, no other address than the one that was shown, no frame around it."""
    page = await browser.get("/oauth/authorize", params=ASK)
    policy = page.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "form-action 'self' http://127.0.0.1:45678;" in policy
    assert page.headers.get_list("content-security-policy") == [policy]
    fields = fields_of(page)
    other = {**fields, "redirect_uri": "http://127.0.0.1:1/", "decision": "approve"}
    assert (await browser.post("/oauth/authorize", data=other)).status_code == 403
    elsewhere = await browser.post(
        "/oauth/authorize",
        data={**fields, "decision": "approve"},
        headers={"origin": "https://evil.example"},
    )
    assert elsewhere.status_code == 403
    async with served.client(token=None) as stranger:
        refused = await stranger.post("/oauth/authorize", data={**fields, "decision": "approve"})
    assert refused.status_code == 401


async def test_what_a_stranger_sends_is_not_html(browser: httpx.AsyncClient):
    page = await browser.get("/oauth/authorize", params={**ASK, "state": '"><script>alert(1)</script>'})
    assert "<script" not in page.text
    page = await browser.get("/device", params={"user_code": "<b>x</b>"})
    assert page.status_code == 404
    assert "<b>x" not in page.text


async def start_device(program: httpx.AsyncClient) -> dict[str, str]:
    answer = await program.post(
        "/oauth/device_authorization",
        data={"client_id": "kici-cli", "code_challenge": CHALLENGE, "code_challenge_method": "S256"},
    )
    assert answer.status_code == 200
    return answer.json()


async def poll(program: httpx.AsyncClient, device: dict[str, str], **changes: str) -> httpx.Response:
    form = {
        "grant_type": DEVICE,
        "client_id": "kici-cli",
        "device_code": device["device_code"],
        "code_verifier": VERIFIER,
    }
    return await program.post("/oauth/token", data={**form, **changes})


async def test_a_device_is_approved_in_any_browser(
    browser: httpx.AsyncClient, program: httpx.AsyncClient, clock: kit.TestClock
):
    """AU-140, RFC 8628: pending, slow_down with a longer interval, approved, once."""
    device = await start_device(program)
    assert device["expires_in"] == 300
    assert device["interval"] == 5
    assert device["verification_uri_complete"].endswith(f"/device?user_code={device['user_code']}")
    assert (await poll(program, device)).json()["error"] == "authorization_pending"
    clock.advance(seconds=1)
    assert (await poll(program, device)).json()["error"] == "slow_down"
    clock.advance(seconds=6)
    assert (await poll(program, device)).json()["error"] == "slow_down"  # ten seconds by now
    clock.advance(seconds=16)
    assert (await poll(program, device)).json()["error"] == "authorization_pending"
    typed = device["user_code"].lower().replace("-", " ")
    page = await browser.get("/device", params={"user_code": typed})
    assert device["user_code"] in page.text
    assert "127.0.0.1" in page.text  # who asks
    done = await browser.post("/device", data={**fields_of(page), "decision": "approve"})
    assert done.status_code == 200
    assert (await poll(program, device, code_verifier="x" * 64)).json()["error"] == "invalid_grant"
    granted = await poll(program, device)
    assert granted.status_code == 200
    assert (await exchange(program, granted.json()["access_token"])).status_code == 201
    assert (await poll(program, device)).json()["error"] == "invalid_grant"


async def test_a_device_is_refused_or_forgotten(
    browser: httpx.AsyncClient, program: httpx.AsyncClient, clock: kit.TestClock
):
    device = await start_device(program)
    page = await browser.get("/device", params={"user_code": device["user_code"]})
    await browser.post("/device", data={**fields_of(page), "decision": "deny"})
    assert (await poll(program, device)).json()["error"] == "access_denied"
    late = await start_device(program)
    clock.advance(seconds=301)
    assert (await poll(program, late)).json()["error"] == "expired_token"
    page = await browser.get("/device", params={"user_code": late["user_code"]})
    assert page.status_code == 404


async def test_guessing_is_limited(browser: httpx.AsyncClient, program: httpx.AsyncClient):
    """Device codes per person; started sign-ins and failed tokens per address."""
    answers = [
        (await browser.get("/device", params={"user_code": f"BBBB-BBB{letter}"})).status_code
        for letter in "BCDFGHJKLMNPQRSTVWXZB"
    ]
    assert answers == [404] * 20 + [429]
    starts = [
        (await program.post("/oauth/device_authorization", data={"client_id": "kici-cli"})).status_code
        for _ in range(31)
    ]
    assert starts == [200] * 30 + [429]
    tries = [(await redeem(program, "guess")).status_code for _ in range(31)]
    assert tries == [400] * 30 + [429]


async def test_discovery_names_the_endpoints(program: httpx.AsyncClient):
    found = (await program.get("/.well-known/openid-configuration")).json()
    assert found["code_challenge_methods_supported"] == ["S256"]
    assert found["token_endpoint"] == f"{found['issuer']}/oauth/token"
    assert found["device_authorization_endpoint"] == f"{found['issuer']}/oauth/device_authorization"


# ── personal access tokens ───────────────────────────────────────────────────────────────────────


async def test_an_agents_token_bears_its_label(served: kit.Served, platform_db: Database):
    """PD-48: kind agent needs a label, which stands on what it does; it makes no tokens itself."""
    async with served.client() as http:
        unlabelled = await http.post("/api/v1/pats", json={"name": "bot", "kind": "agent"})
        assert unlabelled.status_code == 400
        labelled = await http.post("/api/v1/pats", json={"name": "x", "agentLabel": "helper"})
        assert labelled.status_code == 400
        made = await http.post(
            "/api/v1/pats", json={"name": "bot", "kind": "agent", "agentLabel": "helper"}
        )
        assert made.status_code == 201
        listed = (await http.get("/api/v1/pats")).json()["pats"]
        assert {(pat["name"], pat["kind"], pat["agentLabel"]) for pat in listed} == {
            ("bot", "agent", "helper"),
            ("kici up", "user", None),
        }
    async with served.client(token=made.json()["token"]) as agent:
        assert (await agent.get("/api/v1/user/credential")).json()["agentLabel"] == "helper"
        assert (await agent.post("/api/v1/pats", json={"name": "more"})).status_code == 403
        key = await agent.post(f"/api/v1/orgs/{kit.ORG}/orchestrator-keys", json={"name": "k"})
        assert key.status_code == 201
    async with platform_db.engine.connect() as tx:
        label = await tx.scalar(
            text("SELECT details ->> 'byAgent' FROM audit_log WHERE action = 'orchestrator_key.create'")
        )
    assert label == "helper"


async def test_a_token_says_when_it_ends_soon(served: kit.Served, clock: kit.TestClock):
    """AU-141: 120 days unless told otherwise, a warning in the last seven."""
    async with served.client() as http:
        made = (await http.post("/api/v1/pats", json={"name": "ci"})).json()
    async with served.client(token=made["token"]) as http:
        clock.advance(seconds=112 * 86_400)
        assert (await http.get("/api/v1/user/credential")).json()["expiresSoon"] is False
        clock.advance(seconds=2 * 86_400)
        assert (await http.get("/api/v1/user/credential")).json()["expiresSoon"] is True
        assert [pat["expiresSoon"] for pat in (await http.get("/api/v1/pats")).json()["pats"]] == [
            True,
            False,
        ]
        clock.advance(seconds=7 * 86_400)
        assert (await http.get("/api/v1/user/credential")).json()["code"] == "token_expired"
