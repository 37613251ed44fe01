"""An orchestrator's link with a real database and log store, and neighbours that do as they are told."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from kici.orchestrator.inbox.delivery import Acceptance, Delivery
from kici.orchestrator.link.link import Link, LinkSettings
from kici.orchestrator.logs.service import LogService
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.rpc import RpcMethod
from kici.protocol.platform_v1 import SourceInfo
from kici.runtime.backoff import reconnect_delay
from kici.runtime.database import Wakeups, text
from kici.runtime.metrics import Metrics
from tests.support.postgres import Database


class SourceSet:
    def __init__(self, org_id: str) -> None:
        self.org_id = org_id
        self.names: list[str] = ["shop"]

    def infos(self) -> list[SourceInfo]:
        return [
            SourceInfo(
                routing_key=f"generic:{self.org_id}:{name}",
                name=name,
                provider="generic",
                subtype="generic_webhook",
                max_payload_bytes=1 << 20,
            )
            for name in self.names
        ]


class Orchestrator:
    """The link and what stands around it."""

    def __init__(
        self,
        database: Database,
        platform_url: str,
        folder: Path,
        *,
        org_id: str = "org_1",
        token: str = "kici_ok_test",
    ) -> None:
        self.database = database
        self.metrics = Metrics("kici_orch_")
        self.wakeups = Wakeups(database.url, ["outbox", "sources"])
        self.sources = SourceSet(org_id)
        self.store = LogStore(str(folder))
        self.logs = LogService(database.engine, self.store)
        self.deliveries: list[Delivery] = []
        self.accepting = asyncio.Event()
        self.accepting.set()
        self.methods: dict[str, RpcMethod] = dict(self.logs.methods())
        self.delays: list[int] = []
        self._platform_url = platform_url
        self._token = token
        self._tasks: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[None] | None = None
        self.link: Link | None = None

    async def accept(self, delivery: Delivery) -> Acceptance:
        self.deliveries.append(delivery)
        await self.accepting.wait()
        if delivery.headers.get("x-test") == "fail":
            raise RuntimeError("the disk is full")
        return Acceptance(result="accepted", status=202, delivery_id=f"d-{delivery.request_id}")

    def method(self, name: str, params: type[Struct], handler: Callable[..., Any]) -> None:
        self.methods[name] = RpcMethod(params=params, handler=handler)

    def start(self, tasks: asyncio.TaskGroup) -> Link:
        def delay(attempt: int) -> float:
            self.delays.append(attempt)
            return reconnect_delay(attempt) / 1000

        self.link = Link(
            LinkSettings(
                platform_url=self._platform_url,
                token=self._token,
                instance_id="orch-1",
                cluster_name="local",
                version="1.2.3",
                mode="hybrid",
                hostname="host",
            ),
            engine=self.database.engine,
            wakeups=self.wakeups,
            methods=self.methods,
            accept=self.accept,
            sources=self.sources,
            logs=self.logs,
            metrics=self.metrics,
            delay=delay,
        )
        self._running = tasks.create_task(self.link.run(), name="link")
        return self.link

    async def stop(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def emit(
        self, count: int, *, run_id: str = "run-1", filler: int = 0, wake: bool = True
    ) -> list[int]:
        """`count` rows into the outbox; their sequence numbers."""
        async with self.database.engine.begin() as tx:
            found = await tx.execute(
                text("""
                    INSERT INTO outbox (topic, key, payload)
                    SELECT 'platform', :run_id, CAST(:payload AS jsonb) FROM generate_series(1, :count)
                    RETURNING seq
                """),
                {
                    "run_id": run_id,
                    "count": count,
                    "payload": msgspec.json.encode({"runId": run_id, "filler": "x" * filler}).decode(),
                },
            )
            rows = list(found.scalars())
        if wake:
            self.wakeups.wake_here("outbox")
        return rows

    async def outbox(self) -> list[int]:
        async with self.database.engine.connect() as tx:
            return list((await tx.execute(text("SELECT seq FROM outbox ORDER BY seq"))).scalars())

    async def outbox_is(self, wanted: list[int]) -> None:
        async with asyncio.timeout(10):
            while await self.outbox() != wanted:
                await asyncio.sleep(0.01)

    def sample(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"kici_orch_{name}", labels)
