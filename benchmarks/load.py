"""A bounded HTTP load on loopback: keep-alive connections in a process of their own.

Requests are made before the clock starts; a connection writes whole requests and reads whole answers, so
that the load costs the machine a fraction of what it measures (its own CPU time is in the result).
"""

import asyncio
import hashlib
import hmac
import json
import multiprocessing
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

_WITHIN_S = 180


@dataclass(frozen=True, slots=True)
class Request:
    """One POST."""

    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class LoadResult:
    accepted: int
    refused: int
    seconds: float
    cpu_ms: float

    @property
    def per_second(self) -> float:
        return self.accepted / self.seconds if self.seconds else 0.0


def signed_webhooks(secret: str, count: int, *, body_bytes: int = 8192, tag: str) -> list[Request]:
    """Deliveries for a generic source with HMAC, all different."""
    made: list[Request] = []
    for number in range(count):
        body = json.dumps({"n": number, "tag": tag, "fill": "x" * (body_bytes - 80)}).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        headers = {
            "Content-Type": "application/json",
            "X-Event-Type": "bench",
            "X-Delivery-Id": f"{tag}-{number}",
            "X-Signature-256": f"sha256={signature}",
        }
        made.append(Request(headers, body))
    return made


class _Post(asyncio.Protocol):
    """One connection: the next request as soon as the answer to the last one is complete."""

    def __init__(self, requests: Iterator[bytes], over: "asyncio.Future[None]") -> None:
        self.accepted = 0
        self.refused = 0
        self._requests = requests
        self._over = over
        self._answer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._next(transport)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head_end = self._answer.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._answer[:head_end].lower()
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._answer) < head_end + 4 + length:
            return
        if head[9:10] == b"2":
            self.accepted += 1
        else:
            self.refused += 1
        self._answer = b""
        assert self._transport is not None
        self._next(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._over.done():
            self._over.set_exception(exc or ConnectionError("the server closed a connection"))

    def _next(self, transport: asyncio.Transport) -> None:
        request = next(self._requests, None)
        if request is not None:
            transport.write(request)
            return
        if not self._over.done():
            self._over.set_result(None)
        transport.close()


async def _drive(url: str, requests: Sequence[Request], connections: int) -> LoadResult:
    parts = urlsplit(url)
    raw = [
        "".join(
            (
                f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n",
                *(f"{name}: {value}\r\n" for name, value in request.headers.items()),
                f"Content-Length: {len(request.body)}\r\n\r\n",
            )
        ).encode()
        + request.body
        for request in requests
    ]
    waiting = iter(raw)
    loop = asyncio.get_running_loop()
    started, cpu = time.perf_counter(), time.process_time()
    posts: list[_Post] = []
    ends: list[asyncio.Future[None]] = []
    for _ in range(min(connections, len(raw))):
        over: asyncio.Future[None] = loop.create_future()
        post = _Post(waiting, over)
        posts.append(post)
        ends.append(over)
        await loop.create_connection(lambda post=post: post, parts.hostname or "", parts.port or 80)
    async with asyncio.timeout(_WITHIN_S):
        await asyncio.gather(*ends)
    return LoadResult(
        accepted=sum(post.accepted for post in posts),
        refused=sum(post.refused for post in posts),
        seconds=time.perf_counter() - started,
        cpu_ms=(time.process_time() - cpu) * 1000,
    )


def _worker(url: str, requests: Sequence[Request], connections: int, pipe: Connection) -> None:
    pipe.send(asyncio.run(_drive(url, requests, connections)))


def post_all(url: str, requests: Sequence[Request], *, connections: int = 64) -> LoadResult:
    """All requests, as fast as `connections` keep-alive connections take them."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_worker, args=(url, requests, connections, there))
    process.start()
    there.close()
    try:
        if not here.poll(_WITHIN_S + 20):
            raise TimeoutError("the load did not end within its bound")
        return here.recv()
    finally:
        process.kill()
        process.join()
