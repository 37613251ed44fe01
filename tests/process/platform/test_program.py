"""`kici-platform` as a program: settings, start, stop, kill -9."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from kici.protocol.platform_v1 import WebhookRelay
from tests.support import platform as kit
from tests.support.postgres import Database

PROGRAM = str(Path(sys.executable).parent / "kici-platform")
HOOK = f"/webhook/{kit.ORG}/generic/hooks"

pytestmark = pytest.mark.process


def environment(**changes: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("KICI_")}
    return {**clean, "KICI_DATABASE_URL": "postgresql://x/y", "KICI_SECRET_KEY": "ab" * 32, **changes}


def run(*arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *arguments],
        env=environment(**changes),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_version_and_configuration_check():
    assert run("--version").stdout.strip()
    assert run("--check-config").returncode == 0
    wrong = run("--check-config", KICI_PROT="1")
    assert wrong.returncode == 2
    assert "KICI_PROT: unknown setting; did you mean KICI_PORT?" in wrong.stderr
    assert run(KICI_SECRET_KEY="short").returncode == 2


@dataclass
class Running:
    process: asyncio.subprocess.Process
    port: int

    @property
    def served(self) -> kit.Served:
        return kit.Served(app=None, port=self.port)  # pyright: ignore[reportArgumentType]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def program(url: str, folder: Path, port: int | None = None):
    port = port or free_port()
    with (folder / "platform.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            PROGRAM,
            env=environment(
                KICI_DATABASE_URL=url,
                KICI_PORT=str(port),
                KICI_BOOTSTRAP_FILE=kit.bootstrap_file(folder),
                KICI_PLATFORM_INSTANCE_ID="one",
            ),
            stdout=log,
            stderr=log,
        )
    try:

        async def ready() -> bool:
            assert process.returncode is None, (folder / "platform.log").read_text()
            async with httpx.AsyncClient() as http:
                try:
                    return (await http.get(f"http://127.0.0.1:{port}/ready")).status_code == 200
                except httpx.TransportError:
                    return False

        await kit.eventually(ready, within_seconds=60)
        yield Running(process, port)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_it_stops_quickly_and_cleanly_with_sockets_open(platform_db: Database, tmp_path: Path):
    async with program(platform_db.url, tmp_path) as running:
        async with kit.orchestrator(running.served) as orchestrator:
            running.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(10):
                assert await running.process.wait() == 0
            await asyncio.wait_for(orchestrator.socket.wait_closed(), 10)
    log = (tmp_path / "platform.log").read_text()
    assert "platform.stopped" in log
    assert '"level":"error"' not in log
    assert "Traceback" not in log


async def test_killed_at_any_moment_nothing_accepted_is_lost(platform_db: Database, tmp_path: Path):
    """Everything answered with 2xx reaches an orchestrator, whatever was cut off by kill -9."""
    promised: set[str] = set()
    taken: set[str] = set()

    async def take(head: WebhookRelay, _body: bytes):
        taken.add(head.request_id)
        return "accepted"

    async def post(http: httpx.AsyncClient, number: int) -> None:
        try:
            answer = await http.post(HOOK, content=f"{number}".encode())
        except httpx.TransportError:
            return
        if answer.status_code in {200, 202}:
            promised.add(answer.json()["requestId"])

    port = None
    for cycle in range(3):
        enough = 15 * (cycle + 1)
        async with program(platform_db.url, tmp_path, port) as running:
            port = running.port
            if cycle == 0:
                async with kit.orchestrator(running.served):
                    pass
            async with running.served.client(token=None) as http, asyncio.TaskGroup() as tasks:
                for number in range(60):
                    tasks.create_task(post(http, number))
                await kit.eventually(lambda enough=enough: len(promised) >= enough)
                running.process.kill()
                await running.process.wait()
    async with program(platform_db.url, tmp_path, port) as running:
        async with kit.orchestrator(running.served, accept=take):
            await kit.eventually(lambda: promised <= taken, within_seconds=30)


async def test_a_page_and_the_health_fields_are_served(platform_db: Database, tmp_path: Path):
    async with program(platform_db.url, tmp_path) as running, running.served.client() as http:
        health = (await http.get("/health")).json()
        assert {
            "sdkVersion",
            "sdkBundleHash",
            "sharedVersion",
            "sharedBundleHash",
            "engineVersion",
            "engineBundleHash",
        } <= set(health)
        page = await http.get("/orgs/some/where")
        assert page.headers["content-type"].startswith("text/html")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert (await http.get("/api/v1/openapi.json")).json()["openapi"].startswith("3.1")
        metrics = (await http.get("/metrics")).text
        for name in (
            "kici_ws_connections_active",
            "kici_webhook_buffer_depth",
            "kici_platform_dashboard_proxy_pending",
            "kici_platform_browser_connections",
        ):
            assert name in metrics
        missing = await http.get("/api/v1/nothing")
        assert (missing.status_code, missing.json()["code"]) == (404, "not_found")
