"""A real `kici-orchestrator` on a test's database."""

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.db.ingress.builders import ORG
from tests.db.ingress.running import GIT_ENV, eventually
from tests.support.postgres import Database

ADMIN = "kici_admin_" + "ab" * 32


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Orchestrator:
    """Started, killed and started again on the same data."""

    def __init__(self, db: Database, root: Path, settings: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.root = root
        root.mkdir(parents=True, exist_ok=True)
        bootstrap = root / "bootstrap.json"
        bootstrap.write_text(
            json.dumps(
                {"orgId": ORG, "orgName": "Test", "adminToken": ADMIN, "agentToken": "kat_x", "other": 1}
            )
        )
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KICI_")},
            "KICI_DATABASE_URL": db.url,
            "KICI_SECRET_KEY": "ab" * 32,
            "KICI_MODE": "independent",
            "KICI_PORT": str(self.port),
            "KICI_DATA_DIR": str(root / "data"),
            "KICI_BOOTSTRAP_FILE": str(bootstrap),
            "KICI_LOG_FORMAT": "json",
            **settings,
        }
        self.log = root / "orchestrator.log"
        self.client = httpx.AsyncClient(
            base_url=f"{self.url}/api/v1/admin",
            headers={"Authorization": f"Bearer {ADMIN}"},
            trust_env=False,
            timeout=20,
        )
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(os.path.join(os.path.dirname(sys.executable), "kici-orchestrator"), "serve"),
                env=self.environment,
                stdout=log,
                stderr=log,
            )

        async def ready() -> bool:
            assert self.process is not None
            assert self.process.returncode is None, self.log.read_text()
            try:
                return (await self.client.get(f"{self.url}/ready")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(ready, within_s=60)

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """The exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(20):
            return await self.process.wait()

    async def call(self, method: str, path: str, **options: Any) -> Any:
        answer = await self.client.request(method, path, **options)
        assert answer.status_code < 400, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def runs(self, count: int) -> list[dict[str, Any]]:
        """Waits for as many runs."""

        async def enough() -> list[dict[str, Any]]:
            found = (await self.call("GET", "/runs", params={"pageSize": 100}))["runs"]
            return found if len(found) >= count else []

        return await eventually(enough)

    async def admin(self, *arguments: str, **environment: str) -> tuple[int, str, str]:
        """`kici-admin …`: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "kici.cli.admin.main", *arguments),
            env={
                **GIT_ENV,
                "KICI_ADMIN_URL": self.url,
                "KICI_ADMIN_TOKEN": ADMIN,
                "COLUMNS": "200",
                **environment,
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        async with asyncio.timeout(30):
            output, complaint = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode(), complaint.decode()


@asynccontextmanager
async def orchestrator(db: Database, root: Path, **settings: str) -> AsyncGenerator[Orchestrator]:
    running = Orchestrator(db, root, settings)
    try:
        await running.start()
        yield running
    finally:
        await running.client.aclose()
        if running.process is not None and running.process.returncode is None:
            running.process.kill()
            await running.process.wait()
