"""A store that takes uploads, and an orchestrator's answers about where they go."""

import asyncio
import base64
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from kici.runtime.ids import uuid7


@dataclass
class Store:
    """Answers each PUT with the next status; 0 hangs up in the middle."""

    statuses: list[int]
    port: int = 0
    bodies: dict[str, bytes] = field(default_factory=dict[str, bytes])
    tries: list[str] = field(default_factory=list[str])

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        path = head.split(" ")[1]
        self.tries.append(path)
        status = self.statuses.pop(0)
        if status:
            found = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
            assert found
            body = await reader.readexactly(int(found[1]))
            if status == 204:
                self.bodies[path] = body
            writer.write(f"HTTP/1.1 {status} X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        writer.close()


@asynccontextmanager
async def store(*statuses: int) -> AsyncGenerator[Store]:
    made = Store(list(statuses))
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


class Uploads:
    """What an orchestrator answers: a fresh pair of keys and URL each time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.private: dict[str, X25519PrivateKey] = {}

    def begin(self, _params: dict[str, Any]) -> dict[str, Any]:
        upload_id = uuid7()
        private = self.private[upload_id] = X25519PrivateKey.generate()
        return {
            "uploadId": upload_id,
            "signedUrl": f"http://127.0.0.1:{self._store.port}/{upload_id}",
            "publicKey": base64.b64encode(private.public_key().public_bytes_raw()).decode(),
            "expiresIn": 60,
        }
