"""Blobs over real HTTP, between the agent's client and the orchestrator's routes."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
from litestar import Litestar

from kici.agent.transfer import TransferFailed, Transfers
from kici.orchestrator.blobs.routes import blob_route
from kici.orchestrator.blobs.service import Blobs, open_store
from kici.runtime.clock import SystemClock
from kici.runtime.http import EXCEPTION_HANDLERS, serve


class Clock:
    """Tests move it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def now_ms(self) -> int:
        return SystemClock().now_ms() + self.ahead_ms


class Server:
    def __init__(self, folder: Path) -> None:
        self.clock = Clock()
        self.folder = folder / "store"
        self.blobs = Blobs(
            open_store(f"file://{self.folder}"), bytes(32), self.clock, public_url="http://x/"
        )
        self.url = ""

    def stored(self) -> dict[str, int]:
        return {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in self.folder.rglob("*")
            if path.is_file()
        }


@asynccontextmanager
async def _serving(folder: Path) -> AsyncGenerator[Server]:
    server = Server(folder)
    stop, bound = asyncio.Event(), asyncio.Event()

    def on_bound(port: int) -> None:
        server.url = f"http://127.0.0.1:{port}"
        bound.set()

    app = Litestar(
        [blob_route(server.blobs)],
        openapi_config=None,
        exception_handlers=EXCEPTION_HANDLERS,
        logging_config=None,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(serve(app, host="127.0.0.1", port=0, stop=stop, on_bound=on_bound))
        await bound.wait()
        try:
            yield server
        finally:
            stop.set()


@pytest.fixture
async def server(tmp_path: Path) -> AsyncGenerator[Server]:
    async with _serving(tmp_path) as running:
        yield running


@pytest.fixture
async def transfers(server: Server) -> AsyncGenerator[Transfers]:
    client = Transfers(f"{server.url.replace('http', 'ws')}/ws", is_loopback=True)
    yield client
    await client.close()


def _file(folder: Path, content: bytes) -> int:
    (folder / "out").write_bytes(content)
    return os.open(folder / "out", os.O_RDONLY)


async def test_what_is_put_comes_back(server: Server, transfers: Transfers, tmp_path: Path) -> None:
    """AG-76: streamed both ways, with the checksum that the other side will compare."""
    content = os.urandom(12_345_678)
    descriptor = _file(tmp_path, content)
    try:
        sent = await transfers.upload(
            server.blobs.upload_path("cache/a b/c", len(content)), descriptor, timeout_s=30
        )
    finally:
        os.close(descriptor)
    target = tmp_path / "back"
    got = await transfers.download(
        server.blobs.download_path("cache/a b/c"), str(target), max_bytes=len(content), timeout_s=30
    )
    assert got == sent
    assert (got.size, got.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert target.read_bytes() == content


async def test_more_than_allowed_is_stopped_while_it_streams(server: Server) -> None:
    """AG-76: announced or not, 413, and nothing is kept."""

    async def pieces() -> AsyncGenerator[bytes]:
        for _ in range(40):
            yield b"x" * 65_536

    url = server.url + server.blobs.upload_path("big", 1 << 20)
    async with httpx.AsyncClient(trust_env=False) as client:
        for body in (pieces(), b"x" * (2 << 20)):
            assert (await client.put(url, content=body)).status_code == 413
    assert server.stored() == {}


async def test_urls_are_for_one_purpose_and_a_while(server: Server) -> None:
    """AG-76: 403 for what was not signed like this, 410 afterwards, 404 for what is not there."""
    path = server.blobs.download_path("some/key")
    other = Blobs(
        open_store(f"file://{server.folder}"), bytes([1] * 32), server.clock, public_url="http://x"
    )
    token = path.removeprefix("/blobs/")
    async with httpx.AsyncClient(trust_env=False, base_url=server.url) as client:
        assert (await client.get(path)).status_code == 404
        assert (await client.put(path, content=b"x")).status_code == 403
        assert (await client.get(server.blobs.upload_path("some/key", 10))).status_code == 403
        assert (await client.get(other.download_path("some/key"))).status_code == 403
        for at in (0, 20, 60):
            other_letter = "a" if token[at] != "a" else "b"
            assert (
                await client.get(f"/blobs/{token[:at]}{other_letter}{token[at + 1 :]}")
            ).status_code == 403
        assert (await client.get("/blobs/not-one-of-ours")).status_code == 403
        assert (await client.post(path)).status_code == 405
        server.clock.ahead_ms = 901_000
        answer = await client.get(path)
        assert (answer.status_code, answer.json()["code"]) == (410, "expired")


async def test_an_upload_that_breaks_off_leaves_nothing(server: Server) -> None:
    """AG-76."""
    path = server.blobs.upload_path("half", 1 << 20)
    host, port = server.url.removeprefix("http://").split(":")
    _reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode() + b"x" * 5000)
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with httpx.AsyncClient(trust_env=False, base_url=server.url) as client:
        assert (await client.get(server.blobs.download_path("half"))).status_code == 404
    async with asyncio.timeout(10):
        while server.stored():
            await asyncio.sleep(0.01)


async def test_the_agent_refuses_more_than_it_expects(
    server: Server, transfers: Transfers, tmp_path: Path
) -> None:
    """AG-75: and keeps nothing of it."""
    descriptor = _file(tmp_path, b"x" * 1000)
    await transfers.upload(server.blobs.upload_path("k", 1000), descriptor, timeout_s=30)
    os.close(descriptor)
    target = tmp_path / "back"
    with pytest.raises(TransferFailed, match="larger than 999"):
        await transfers.download(server.blobs.download_path("k"), str(target), max_bytes=999, timeout_s=30)
    assert not target.exists()
    with pytest.raises(TransferFailed, match="404"):
        await transfers.download(server.blobs.download_path("no"), str(target), max_bytes=9, timeout_s=30)


async def test_a_public_url_is_for_others(server: Server) -> None:
    """AU-123: command lines upload straight to it."""
    assert server.blobs.upload_url("k", 1).startswith("http://x/blobs/")
