"""Accounts, sessions, tokens (PD-42…50) against a running Platform."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text

from kici.platform.people import service
from kici.platform.people.bootstrap import apply, read
from kici.runtime.clock import SystemClock
from tests.support import platform as kit
from tests.support.postgres import Database


@pytest.fixture
def clock() -> kit.TestClock:
    return kit.TestClock()


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path, clock: kit.TestClock):
    async with kit.platform(platform_db, tmp_path, clock=clock) as served:
        yield served


async def test_setup_makes_the_first_owner_once(served: kit.Served):
    async with served.browser() as http:
        assert (await http.get("/api/v1/auth/config")).json()["setupRequired"] is True
        wrong = await http.post("/auth/setup", json={**kit.SETUP, "token": "guess"})
        assert (wrong.status_code, wrong.json()["code"]) == (404, "not_found")
        made = await http.post("/auth/setup", json=kit.SETUP)
        assert made.status_code == 200
        assert made.json()["email"] == "alice@example.org"
        assert made.json()["orgs"] == [
            {"id": kit.ORG, "name": "Example", "alias": "oal_bbbbbbbbbbbb", "role": "owner"}
        ]
        assert (await http.get("/api/v1/user")).json()["displayName"] == "Alice"
        assert (await http.get("/api/v1/auth/config")).json()["setupRequired"] is False
        again = await http.post("/auth/setup", json={**kit.SETUP, "email": "mallory@example.org"})
        assert again.status_code == 404


async def test_the_setup_link_expires(served: kit.Served, clock: kit.TestClock):
    clock.advance(seconds=61 * 60)
    async with served.browser() as http:
        assert (await http.post("/auth/setup", json=kit.SETUP)).status_code == 404


@pytest.mark.parametrize("password", ["short", "passwordpassword", "aaaaaaaaaaaaaaaa"])
async def test_weak_passwords_are_refused(served: kit.Served, password: str):
    async with served.browser() as http:
        refused = await http.post("/auth/setup", json={**kit.SETUP, "password": password})
        assert (refused.status_code, refused.json()["code"]) == (400, "invalid_input")
        assert (await http.post("/auth/setup", json=kit.SETUP)).status_code == 200  # the link is not spent


async def test_the_cookie_is_closed_to_scripts_and_other_sites(served: kit.Served):
    async with served.browser() as http:
        cookie = (await http.post("/auth/setup", json=kit.SETUP)).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Path=/" in cookie


async def test_signing_in_and_out(served: kit.Served):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        assert (await http.post("/auth/logout")).status_code == 204
        assert (await http.get("/api/v1/user")).status_code == 401
        unknown = await http.post(
            "/auth/login", json={"email": "nobody@example.org", "password": kit.PASSWORD}
        )
        wrong = await http.post(
            "/auth/login", json={"email": kit.SETUP["email"], "password": "not this one"}
        )
        assert unknown.status_code == wrong.status_code == 401
        assert unknown.json()["error"] == wrong.json()["error"]
        assert (
            await http.post("/auth/login", json={"email": kit.SETUP["email"], "password": kit.PASSWORD})
        ).status_code == 200
        assert (await http.get("/api/v1/user")).status_code == 200


async def test_five_failures_lock_the_account_for_a_while(served: kit.Served, clock: kit.TestClock):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        await http.post("/auth/logout")
        wrong = {"email": kit.SETUP["email"], "password": "not this one"}
        codes = [(await http.post("/auth/login", json=wrong)).status_code for _ in range(6)]
        assert codes == [401] * 5 + [429]
        good = {"email": kit.SETUP["email"], "password": kit.PASSWORD}
        locked = await http.post("/auth/login", json=good)
        assert locked.status_code == 429
        assert 0 < int(locked.headers["retry-after"]) <= 15 * 60 + 1
        clock.advance(seconds=15 * 60 + 1)
        assert (await http.post("/auth/login", json=good)).status_code == 200


async def test_an_address_that_guesses_many_accounts_is_stopped(served: kit.Served):
    async with served.browser() as http:
        codes = [
            (
                await http.post(
                    "/auth/login", json={"email": f"user{number}@example.org", "password": "guess"}
                )
            ).status_code
            for number in range(21)
        ]
    assert codes == [401] * 20 + [429]


async def test_a_good_sign_in_forgives_earlier_failures(served: kit.Served):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        good = {"email": kit.SETUP["email"], "password": kit.PASSWORD}
        for _ in range(3):
            for _ in range(4):
                await http.post("/auth/login", json={**good, "password": "not this one"})
            assert (await http.post("/auth/login", json=good)).status_code == 200


async def test_sessions_end_when_idle_and_after_thirty_days(served: kit.Served, clock: kit.TestClock):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        for _ in range(60):
            clock.advance(seconds=11 * 3600)
            assert (await http.get("/api/v1/user")).status_code == 200
        clock.advance(seconds=service.SESSION_IDLE.total_seconds() + 1)
        assert (await http.get("/api/v1/user")).status_code == 401

        await http.post("/auth/login", json={"email": kit.SETUP["email"], "password": kit.PASSWORD})
        left = service.SESSION_LIFE
        while left > timedelta(0):
            assert (await http.get("/api/v1/user")).status_code == 200
            clock.advance(seconds=11 * 3600)
            left -= timedelta(hours=11)
        assert (await http.get("/api/v1/user")).status_code == 401


async def test_unsafe_requests_under_a_cookie_need_our_header_and_origin(served: kit.Served):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        body = {"displayName": "Eve"}
        without = {"x-kici-csrf": ""}
        elsewhere = {"origin": "https://evil.example"}
        del without["x-kici-csrf"]
        request = http.build_request("PATCH", "/api/v1/user", json=body)
        del request.headers["x-kici-csrf"]
        refused = await http.send(request)
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_refused")
        refused = await http.patch("/api/v1/user", json=body, headers=elsewhere)
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_refused")
        assert (await http.patch("/api/v1/user", json=body)).json()["displayName"] == "Eve"


async def test_changing_the_password_ends_other_sessions(served: kit.Served):
    async with served.browser() as here, served.browser() as there:
        await here.post("/auth/setup", json=kit.SETUP)
        await there.post("/auth/login", json={"email": kit.SETUP["email"], "password": kit.PASSWORD})
        new = {"password": "another good pass phrase"}
        refused = await here.patch("/api/v1/user", json={**new, "currentPassword": "wrong"})
        assert refused.status_code == 400
        assert (
            await here.patch("/api/v1/user", json={**new, "currentPassword": kit.PASSWORD})
        ).status_code == 200
        assert (await here.get("/api/v1/user")).status_code == 200
        assert (await there.get("/api/v1/user")).status_code == 401


async def test_a_sign_in_link_works_once_and_within_the_hour(served: kit.Served, clock: kit.TestClock):
    async with served.client() as operator, served.browser() as http:
        link = (await operator.post("/api/v1/sign-in-links")).json()["url"]
        path = link.split("/auth/", 1)[1]
        first = await http.get(f"/auth/{path}")
        assert (first.status_code, first.headers["location"]) == (302, "/")
        assert (await http.get("/api/v1/user")).json()["email"] == kit.EMAIL
        http.cookies.clear()
        second = await http.get(f"/auth/{path}")
        assert second.headers["location"] == "/login?error=link"
        assert "set-cookie" not in second.headers

        late = (await operator.post("/api/v1/sign-in-links")).json()["url"].split("/auth/", 1)[1]
        clock.advance(seconds=3601)
        assert "error=link" in (await http.get(f"/auth/{late}")).headers["location"]


async def test_personal_access_tokens(served: kit.Served, clock: kit.TestClock, platform_db: Database):
    async with served.client() as http:
        made = (await http.post("/api/v1/pats", json={"name": "laptop", "expiresInDays": 1})).json()
        assert made["token"].startswith("kici_pat_")
        listed = (await http.get("/api/v1/pats")).json()["pats"]
        assert {pat["name"] for pat in listed} == {"kici up", "laptop"}
        assert made["token"] not in str(listed)
        async with served.client(token=made["token"]) as mine:
            assert (await mine.get("/api/v1/user")).status_code == 200
            clock.advance(seconds=86_401)
            expired = await mine.get("/api/v1/user")
            assert (expired.status_code, expired.json()["code"]) == (401, "token_expired")
        assert (await http.delete(f"/api/v1/pats/{made['id']}")).status_code == 204
        assert (await http.delete(f"/api/v1/pats/{made['id']}")).status_code == 404
        async with served.client(token=made["token"]) as mine:
            assert (await mine.get("/api/v1/user")).json()["code"] == "token_revoked"
    async with platform_db.engine.connect() as tx:
        actions = list(await tx.scalars(text("SELECT action FROM audit_log ORDER BY id")))
    assert actions == ["org.create", "pat.create", "pat.revoke"]


async def test_wrong_tokens_say_what_is_wrong(served: kit.Served):
    for token, code in (
        ("kici_pat_unknown", "token_unknown"),
        (kit.KEY, "token_unknown"),
    ):
        async with served.client(token=token) as http:
            refused = await http.get("/api/v1/user")
            assert (refused.status_code, refused.json()["code"]) == (401, code)
    async with served.client(token=kit.KEY) as http:
        assert "orchestrator key" in (await http.get("/api/v1/user")).json()["error"]


async def test_other_orgs_do_not_exist(served: kit.Served):
    async with served.client() as http:
        for path in ("", "/runs", "/orchestrators"):
            other = await http.get(f"/api/v1/orgs/org_zzzzzzzzzzzz{path}")
            assert (other.status_code, other.json()["code"]) == (404, "not_found")


async def test_members_may_not_make_orchestrator_keys(served: kit.Served, platform_db: Database):
    async with platform_db.engine.begin() as tx:
        await tx.execute(text("UPDATE org_members SET role = 'member'"))
    async with served.client() as http:
        refused = await http.post(f"{served.api}/orchestrator-keys", json={"name": "x"})
        assert refused.status_code == 403
        assert refused.json()["error"] == "Insufficient permission: api_keys.write needed"
        assert (await http.get(f"{served.api}/orchestrator-keys")).status_code == 200


async def test_bootstrap_twice_changes_nothing(platform_db: Database, tmp_path: Path):
    wanted = read(kit.bootstrap_file(tmp_path))

    async def everything() -> list[object]:
        async with platform_db.engine.connect() as tx:
            return [
                (await tx.execute(text(f"SELECT * FROM {table} ORDER BY 1"))).all()
                for table in ("orgs", "users", "org_members", "pats", "orchestrator_keys", "audit_log")
            ]

    await apply(platform_db.engine, SystemClock(), wanted)
    first = await everything()
    await apply(platform_db.engine, SystemClock(), wanted)
    assert await everything() == first


async def test_no_token_or_password_lies_in_the_database(served: kit.Served, platform_db: Database):
    async with served.browser() as http:
        await http.post("/auth/setup", json=kit.SETUP)
        session = http.cookies["kici_session"]
    async with platform_db.engine.connect() as tx:
        tables = list(await tx.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
        dump = "".join(
            [str((await tx.execute(text(f"SELECT t::text FROM {table} t"))).all()) for table in tables]
        )
    for secret in (session, kit.PASSWORD, kit.TOKEN, kit.KEY, kit.SETUP_TOKEN):
        assert secret not in dump
