"""`kici login` and its siblings as programs against a real Platform (AU-140, AU-141, AU-136)."""

import asyncio
import os
import re
import socket
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec
import pytest

from tests.support import platform as kit
from tests.support.postgres import Database

pytestmark = pytest.mark.process


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Desk:
    """A machine with its own `~/.kici`."""

    home: Path

    def environment(self, **changes: str) -> dict[str, str]:
        left_out = ("KICI_", "SSH_", "CI", "GITHUB_", "GITLAB_", "DISPLAY", "WAYLAND")
        clean = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        return {**clean, "KICI_CONFIG_DIR": str(self.home / "kici"), "HOME": str(self.home), **changes}

    async def start(self, *arguments: str, **changes: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kici.cli.main",
            *arguments,
            env=self.environment(**changes),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )

    async def run(self, *arguments: str, stdin: str = "", **changes: str) -> tuple[int, str, str]:
        """(exit code, stdout, stderr)"""
        process = await self.start(*arguments, **changes)
        async with asyncio.timeout(60):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    @property
    def config_file(self) -> Path:
        return self.home / "kici" / "config"

    def config(self) -> dict[str, object]:
        return msgspec.json.decode(self.config_file.read_bytes())


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    (tmp_path / "home").mkdir()
    return Desk(tmp_path / "home")


@asynccontextmanager
async def platform(database: Database, folder: Path) -> AsyncGenerator[kit.Served]:
    """Whose public URL is where it listens."""
    port = free_port()
    async with kit.platform(database, folder, port=port, public_url=f"http://127.0.0.1:{port}") as served:
        yield served


@pytest.fixture
async def served(platform_db: Database, tmp_path: Path):
    async with platform(platform_db, tmp_path) as served:
        yield served


@pytest.fixture
async def browser(served: kit.Served):
    async with served.browser() as http:
        assert (await http.post("/auth/setup", json=kit.SETUP)).status_code == 200
        yield http


def fields_of(page: httpx.Response) -> dict[str, str]:
    return dict(re.findall(r'<input type="hidden" name="([^"]+)" value="([^"]*)">', page.text))


async def read_line(stream: asyncio.StreamReader | None, holding: str) -> str:
    assert stream is not None
    async with asyncio.timeout(30):
        while line := (await stream.readline()).decode():
            if holding in line:
                return line.strip()
    raise AssertionError(f"it ended without {holding!r}")


async def test_a_browser_signs_the_machine_in_and_out(
    served: kit.Served, browser: httpx.AsyncClient, desk: Desk
):
    """AU-140: PKCE over 127.0.0.1, the state is checked; AU-141: 0600, revoked by logout."""
    login = await desk.start("login", "--platform-endpoint", served.url, KICI_BROWSER_CMD="none")
    url = (await read_line(login.stdout, "KICI_AUTH_URL=")).removeprefix("KICI_AUTH_URL=")
    page = await browser.get(url)
    fields = fields_of(page)
    async with httpx.AsyncClient(trust_env=False) as stranger:
        forged = await stranger.get(f"{fields['redirect_uri']}?code=x&state=guess")
        assert forged.status_code == 404
        sent = await browser.post("/oauth/authorize", data={**fields, "decision": "approve"})
        shown = await stranger.get(sent.headers["location"])
    assert "You are signed in" in shown.text
    async with asyncio.timeout(30):
        out, err = await login.communicate()
    assert login.returncode == 0, err
    assert b"as alice@example.org" in out
    assert stat.S_IMODE(desk.config_file.stat().st_mode) == 0o600
    assert list(desk.config_file.parent.iterdir()) == [desk.config_file]
    token = str(desk.config()["token"])
    assert desk.config()["orgId"] == kit.ORG  # the only one

    code, out, _ = await desk.run("whoami", "--json")
    who = msgspec.json.decode(out)
    assert (code, who["email"], who["org"]["id"], who["tokenKind"], who["tokenName"]) == (
        0,
        "alice@example.org",
        kit.ORG,
        "user",
        socket.gethostname(),
    )
    code, out, _ = await desk.run("logout")
    assert (code, "revoked" in out) == (0, True)
    assert "token" not in desk.config()
    async with served.client(token=token) as http:
        assert (await http.get("/api/v1/user")).json()["code"] == "token_revoked"
    assert (await desk.run("logout"))[0] == 4


async def test_a_refused_sign_in_ends_with_4(served: kit.Served, browser: httpx.AsyncClient, desk: Desk):
    """AU-136."""
    login = await desk.start("login", "--platform-endpoint", served.url, KICI_BROWSER_CMD="none")
    url = (await read_line(login.stdout, "KICI_AUTH_URL=")).removeprefix("KICI_AUTH_URL=")
    fields = fields_of(await browser.get(url))
    sent = await browser.post("/oauth/authorize", data={**fields, "decision": "deny"})
    async with httpx.AsyncClient(trust_env=False) as browser_itself:
        await browser_itself.get(sent.headers["location"])
    async with asyncio.timeout(30):
        _, err = await login.communicate()
    assert login.returncode == 4
    assert b"refused" in err
    assert not desk.config_file.exists()


async def test_without_a_window_a_code_is_shown(served: kit.Served, browser: httpx.AsyncClient, desk: Desk):
    """AU-140: the device flow, chosen by itself where CI is set; the port of the browser way is free."""
    login = await desk.start("login", "--platform-endpoint", served.url, CI="true")
    code = await read_line(login.stderr, "-")
    page = await browser.get("/device", params={"user_code": code})
    done = await browser.post("/device", data={**fields_of(page), "decision": "approve"})
    assert "Signed in" in done.text
    async with asyncio.timeout(60):
        out, _ = await login.communicate()
    assert login.returncode == 0
    assert b"as alice@example.org" in out


async def test_tokens_are_taken_as_they_are(served: kit.Served, desk: Desk):
    """AU-141: stdin, argv with a warning; KICI_TOKEN is used and never stored."""
    code, out, err = await desk.run(
        "login", "--token-stdin", "--platform-endpoint", served.url, stdin=kit.TOKEN + "\n"
    )
    assert (code, err) == (0, "")
    assert "operator@example.org" in out
    assert desk.config()["token"] == kit.TOKEN
    desk.config_file.unlink()

    code, _, err = await desk.run("login", "--token", kit.TOKEN, "--platform-endpoint", served.url)
    assert code == 0
    assert "shell's history" in err
    desk.config_file.unlink()

    environment = {"KICI_TOKEN": kit.TOKEN, "KICI_PLATFORM_URL": served.url}
    code, out, _ = await desk.run("whoami", **environment)
    assert (code, "operator@example.org" in out) == (0, True)
    assert not desk.config_file.exists()

    wrong = await desk.run(
        "login", "--token-stdin", "--platform-endpoint", served.url, stdin="kici_pat_wrong\n"
    )
    assert wrong[0] == 4
    away = await desk.run("login", "--platform-endpoint", f"http://127.0.0.1:{free_port()}")
    assert away[0] == 5
    nowhere = await desk.run("login", "--platform-endpoint", "kici.example.org")
    assert nowhere[0] == 2


async def test_signing_out_offline_forgets_all_the_same(platform_db: Database, tmp_path: Path, desk: Desk):
    """AU-141."""
    async with platform(platform_db, tmp_path) as served:
        async with served.client() as http:
            made = (await http.post("/api/v1/pats", json={"name": "laptop", "expiresInDays": 5})).json()
        login = await desk.run(
            "login", "--token-stdin", "--platform-endpoint", served.url, stdin=made["token"]
        )
        assert login[0] == 0
        _, _, err = await desk.run("whoami")
        assert "expires in 5 days" in err  # within a week
    code, out, err = await desk.run("logout")
    assert code == 0
    assert f"will expire on {made['expiresAt'][:10]}" in out
    assert "not revoked" in err
    assert "token" not in desk.config()


async def test_organizations_clusters_and_tokens(served: kit.Served, desk: Desk):
    """AU-136: names in any case, the default is saved; a token is shown once."""
    await desk.run("login", "--token-stdin", "--platform-endpoint", served.url, stdin=kit.TOKEN)
    async with kit.orchestrator(served, cluster_name="east"), kit.orchestrator(served, cluster_name="west"):
        code, out, _ = await desk.run("orchestrators", "list", "--json")
        found = msgspec.json.decode(out)
        assert code == 0
        assert [(c["name"], c["connected"], c["versions"]) for c in found["clusters"]] == [
            ("east", True, ["0.1.0"]),
            ("west", True, ["0.1.0"]),
        ]
        assert found["default"] is None
        assert (await desk.run("orchestrators", "use", "north"))[0] == 1
        assert (await desk.run("orchestrators", "use", "west"))[0] == 0
        _, out, _ = await desk.run("orchestrators", "list")
        assert re.search(r"^\*\s+west", out, re.MULTILINE)
    assert (await desk.run("org", "use", "nobody"))[0] == 1
    assert (await desk.run("org", "use", "EXAMPLE"))[:2] == (0, "Active organization: Example\n")
    assert (await desk.run("org", "current"))[:2] == (0, "Example\n")
    code, out, _ = await desk.run("org", "list", "--json")
    assert [(org["id"], org["active"]) for org in msgspec.json.decode(out)["orgs"]] == [(kit.ORG, True)]
    code, out, _ = await desk.run("pat", "create", "--name", "bot", "--agent", "helper", "--json")
    made = msgspec.json.decode(out)
    assert (code, made["token"][:9]) == (0, "kici_pat_")
    _, out, _ = await desk.run("whoami", "--json", KICI_TOKEN=made["token"])
    assert msgspec.json.decode(out)["agentLabel"] == "helper"
