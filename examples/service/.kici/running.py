"""Starts the service beside a step, talks to it, and stops it however the step ends."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from kici import Context, wait_for


class Shop:
    """A shop that listens on a port of this machine."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def ask(self, method: str, path: str, body: object = None) -> tuple[int, Any]:
        """Status and document of the answer."""
        return await asyncio.to_thread(self._ask, method, path, body)

    def _ask(self, method: str, path: str, body: object) -> tuple[int, Any]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@asynccontextmanager
async def running_shop(ctx: Context, database: Path) -> AsyncGenerator[Shop, None]:
    """A shop that answers."""
    port_file = ctx.tmp / "port"
    process = await asyncio.create_subprocess_exec(
        "python3", "-m", "shop.server", str(database), str(port_file), cwd=ctx.workspace
    )

    async def answering() -> Shop | None:
        if not port_file.exists() or not port_file.read_text():
            return None
        shop = Shop(int(port_file.read_text()))
        await shop.ask("GET", "/teas")
        return shop

    try:
        yield await wait_for(answering, name="the shop", interval="100ms", timeout="30s")
    finally:
        process.terminate()
        await process.wait()
