"""A browser's side of `/ws/dashboard`, and log blocks as an agent would cut them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import websockets
import zstandard

from kici.protocol import browser_v1 as wire
from kici.protocol.blocks import END, OPEN, RAW, BlockHeader, encode_block
from tests.support import platform as kit

FrameT = TypeVar("FrameT", bound=msgspec.Struct)


@dataclass
class Browser:
    socket: websockets.ClientConnection
    seen: list[wire.ToBrowser] = field(default_factory=list)

    async def send(self, message: msgspec.Struct) -> None:
        await self.socket.send(wire.encode(message).decode())

    async def next(self) -> wire.ToBrowser:
        async with asyncio.timeout(10):
            frame = wire.decode_to_browser(await self.socket.recv())
        self.seen.append(frame)
        return frame

    async def expect(self, kind: type[FrameT]) -> FrameT:
        """The next frame, which must be of this kind."""
        frame = await self.next()
        assert isinstance(frame, kind), frame
        return frame

    async def subscribe(self, org_id: str = kit.ORG, since_seq: int | None = None) -> wire.Subscribed:
        await self.send(wire.StatusSubscribe(org_id=org_id, since_seq=since_seq))
        return await self.expect(wire.Subscribed)

    async def follow(self, run_id: str, job_id: str, step_index: int = 0, after: int = 0) -> None:
        await self.send(
            wire.LogSubscribe(
                org_id=kit.ORG, run_id=run_id, job_id=job_id, step_index=step_index, after_line_count=after
            )
        )

    async def closing_code(self) -> int | None:
        async with asyncio.timeout(15):
            await self.socket.wait_closed()
        return self.socket.close_code


@asynccontextmanager
async def browser(served: kit.Served, *, token: str | None = kit.TOKEN) -> AsyncGenerator[Browser]:
    async with websockets.connect(
        f"ws://127.0.0.1:{served.port}/ws/dashboard",
        max_size=64 << 20,
        compression=None,
        ping_interval=None,
    ) as socket:
        one = Browser(socket)
        if token is not None:
            await one.send(wire.AuthRequest(token=token))
            await one.expect(wire.AuthSuccess)
        yield one


@dataclass
class Agent:
    """Cuts one stream into block records."""

    job_id: str
    step_index: int = 0
    attempt: int = 1
    seq: int = 0
    line: int = 0
    byte: int = 0

    def block(self, data: bytes, *, end: bool = False, raw: bool = False) -> bytes:
        flags = (END if end else 0) | (RAW if raw else 0)
        if data and not data.endswith(b"\n"):
            flags |= OPEN
        header = BlockHeader(
            job_id=self.job_id,
            attempt=self.attempt,
            step_index=self.step_index,
            seq=self.seq,
            first_line=self.line,
            line_count=data.count(b"\n"),
            first_byte=self.byte,
            raw_len=len(data),
            first_ts_ms=1000 + self.seq,
            last_ts_ms=1000 + self.seq,
            flags=flags,
        )
        self.seq += 1
        self.line += header.line_count
        self.byte += len(data)
        return encode_block(header, data if raw else zstandard.compress(data))


class LogView:
    """What a viewer holds: lines by number, as the frames say."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}
        self.gaps: list[tuple[int, int]] = []
        self.ended: str | None = None

    def take(self, frame: wire.ToBrowser) -> None:
        match frame:
            case wire.LogLines():
                for offset, line in enumerate(frame.lines):
                    self.lines[frame.first_line + offset] = line
            case wire.LogGap():
                self.gaps.append((frame.first_line, frame.dropped_line_count))
            case wire.LogEnded():
                self.ended = frame.reason
            case _:
                raise AssertionError(frame)

    async def read_until_end(self, browser: Browser) -> None:
        while self.ended is None:
            self.take(await browser.next())
