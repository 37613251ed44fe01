"""Ingress on a test's own database, and repositories for it to read."""

import asyncio
import hashlib
import hmac
import os
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from kici.orchestrator.events.policy import EventPolicy
from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.inbox.ingress import Ingress
from kici.orchestrator.inbox.worker import RetryPolicy
from kici.orchestrator.runs.start import StartPolicy
from kici.runtime.clock import Clock, SystemClock
from kici.runtime.database import Wakeups, text
from kici.runtime.ids import request_id
from kici.runtime.metrics import Metrics
from kici.spec.lock import LOCK_PATH, SCHEMA_VERSION, CompilerInfo, LockFile, LockWorkflow
from tests.db.ingress.builders import ORG
from tests.support.postgres import Database

T = TypeVar("T")

CHANNELS = (
    "inbox",
    "queue",
    "outbox",
    "sources",
    "registry",
    "cancel",
    "concurrency",
    "kici_event_channel",
)
SECRET_KEY = bytes(range(32))
QUICK = RetryPolicy(max_attempts=3, base_backoff_ms=1, max_backoff_ms=20)

# No configuration but our own: tests run under anybody's account.
GIT_ENV = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}


async def eventually(probe: Callable[[], Awaitable[T]], *, within_s: float = 20.0) -> T:
    """The first truthy answer of `probe`."""
    async with asyncio.timeout(within_s):
        while True:
            answer = await probe()
            if answer:
                return answer
            await asyncio.sleep(0.01)


class Repo:
    """A working repository with a branch `main`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        self.git("init", "-q", "-b", "main")

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=self.path, env=GIT_ENV, check=True, capture_output=True, text=True
        ).stdout.strip()

    def commit(self, message: str, files: dict[str, str]) -> str:
        for name, content in files.items():
            path = self.path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        self.git("add", "-A")
        self.git("commit", "-q", "--allow-empty", "-m", message)
        return self.git("rev-parse", "HEAD")

    def commit_lock(self, *workflows: LockWorkflow, message: str = "Workflows") -> str:
        return self.commit(message, {LOCK_PATH: lock_text(*workflows)})


def lock_text(*workflows: LockWorkflow) -> str:
    lock = LockFile(
        schema_version=SCHEMA_VERSION,
        source=".kici/workflows",
        compiler=CompilerInfo(sdk_version="0.1.0", sdk_bundle_hash="x", requires_python=">=3.11"),
        content_hash="x",
        sources=[],
        workflows=list(workflows),
    )
    return msgspec.json.encode(lock).decode()


class Running:
    """What tests ask and send."""

    def __init__(self, ingress: Ingress, db: Database, metrics: Metrics) -> None:
        self.ingress = ingress
        self.db = db
        self.metrics = metrics

    async def rows(self, sql: str, **values: Any) -> list[dict[str, Any]]:
        async with self.db.engine.connect() as connection:
            return [dict(row) for row in (await connection.execute(text(sql), values)).mappings()]

    async def execute(self, sql: str, **values: Any) -> None:
        async with self.db.engine.begin() as tx:
            await tx.execute(text(sql), values)

    async def decided(self) -> None:
        """Until nothing waits in the inbox, and what pushes registered is known to the next delivery."""

        async def empty() -> bool:
            return await self.ingress.deliveries.pending() == 0

        await eventually(empty)
        await self.ingress.registry.load()

    async def send(
        self,
        name: str,
        body: bytes | dict[str, Any],
        headers: dict[str, str] | None = None,
        *,
        client_ip: str | None = "127.0.0.1",
        via: Any = "direct",
    ) -> Acceptance:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        return await self.ingress.acceptor.accept(
            Delivery(
                headers=headers or {},
                body=raw,
                via=via,
                request_id=request_id(),
                client_ip=client_ip,
                org_id=ORG,
                source_name=name,
            )
        )

    async def push(
        self, name: str, repo: Repo, *, delivery_id: str | None = None, **more: Any
    ) -> Acceptance:
        """A push of `repo`'s main, as its hook sends it; `more` replaces parts of the body."""
        sha = repo.git("rev-parse", "main")
        body = {
            "ref": "refs/heads/main",
            "before": "0" * 40,
            "after": sha,
            "sender": {"login": "ada"},
            **more,
        }
        headers = {"x-event-type": "push"}
        if delivery_id is not None:
            headers["x-delivery-id"] = delivery_id
        return await self.send(name, body, headers)


def signature(secret: str, body: bytes) -> str:
    return "sha256=" + hmac.digest(secret.encode(), body, hashlib.sha256).hex()


@asynccontextmanager
async def ingress_on(
    db: Database,
    *,
    worker: bool = True,
    instance_id: str = "one",
    start_policy: StartPolicy | None = None,
    retry_policy: RetryPolicy = QUICK,
    event_policy: EventPolicy | None = None,
    clock: Clock | None = None,
) -> AsyncGenerator[Running]:
    """`worker` False: deliveries are stored and nobody looks at them, as after a crash."""
    wakeups = Wakeups(db.url, CHANNELS)
    metrics = Metrics("kici_orch_")
    ingress = Ingress(
        db.engine,
        wakeups,
        metrics,
        clock or SystemClock(),
        secret_key=SECRET_KEY,
        instance_id=instance_id,
        start_policy=start_policy or StartPolicy(),
        retry_policy=retry_policy,
        event_policy=event_policy,
    )
    await ingress.load()
    try:
        async with asyncio.TaskGroup() as tasks:
            loops = [
                tasks.create_task(wakeups.run()),
                tasks.create_task(ingress.run() if worker else ingress.writer.run()),
            ]
            try:
                yield Running(ingress, db, metrics)
            finally:
                if worker:
                    await ingress.stop()
                for loop in loops:
                    loop.cancel()
    finally:
        await ingress.close()
