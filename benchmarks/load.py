"""A bounded HTTP load on loopback: keep-alive connections in a process of their own."""

import asyncio
import hashlib
import hmac
import json
import multiprocessing
import time
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class LoadResult:
    accepted: int
    refused: int
    seconds: float

    @property
    def per_second(self) -> float:
        return self.accepted / self.seconds if self.seconds else 0.0


def _requests(url: str, secret: str, count: int, body_bytes: int, tag: str) -> list[bytes]:
    parts = urlsplit(url)
    made: list[bytes] = []
    for number in range(count):
        body = json.dumps({"n": number, "tag": tag, "fill": "x" * (body_bytes - 80)}).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        head = (
            f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
            f"X-Event-Type: bench\r\nX-Delivery-Id: {tag}-{number}\r\nX-Signature-256: sha256={signature}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        made.append(head.encode() + body)
    return made


async def _drive(url: str, requests: list[bytes], connections: int) -> LoadResult:
    parts = urlsplit(url)
    queue = iter(requests)
    accepted = refused = 0

    async def one() -> None:
        nonlocal accepted, refused
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        try:
            for request in queue:
                writer.write(request)
                status = await reader.readline()
                length = 0
                while (line := await reader.readline()) not in {b"\r\n", b""}:
                    name, _, value = line.partition(b":")
                    if name.lower() == b"content-length":
                        length = int(value)
                await reader.readexactly(length)
                if status.split()[1][:1] == b"2":
                    accepted += 1
                else:
                    refused += 1
        finally:
            writer.close()

    started = time.perf_counter()
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(one())
    return LoadResult(accepted, refused, time.perf_counter() - started)


def _worker(
    url: str, secret: str, count: int, body_bytes: int, connections: int, tag: str, pipe: object
) -> None:
    requests = _requests(url, secret, count, body_bytes, tag)
    result = asyncio.run(_drive(url, requests, connections))
    pipe.send(result)  # type: ignore[attr-defined]


def post_webhooks(
    url: str, secret: str, *, count: int, body_bytes: int = 8192, connections: int = 64, tag: str = "b"
) -> LoadResult:
    """`count` signed deliveries, all different, as fast as `connections` keep-alive connections take them."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(
        target=_worker, args=(url, secret, count, body_bytes, connections, tag, there)
    )
    process.start()
    if not here.poll(180):
        process.kill()
        raise TimeoutError("the load did not end within its bound")
    result = here.recv()
    process.join()
    return result
