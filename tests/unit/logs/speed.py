"""Speed of the log store alone, as a table: `python -m tests.unit.logs.speed [folder]`. Not a test.

Blocks are cut and compressed before the clock starts: that is the agent's work.
"""

import asyncio
import os
import random
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator

import zstandard

from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import StreamId
from kici.protocol.blocks import END, RAW, BlockHeader, encode_block

JOB = "0198c0de-0000-7000-8000-00000000000b"
WORDS = [
    word.encode()
    for word in [
        "fetch",
        "build",
        "link",
        "test",
        "pack",
        "error",
        "done",
        "in",
        "of",
        "the",
        "module",
        "target",
        "cache",
    ]
]
_compress = zstandard.ZstdCompressor(level=1).compress


def text(lines: int, seed: int) -> bytes:
    """Something like build output: 60 to 110 bytes a line."""
    dice = random.Random(seed)
    return b"".join(
        b"[%08d] %s %016x\n" % (number, b" ".join(dice.choices(WORDS, k=9)), dice.getrandbits(64))
        for number in range(lines)
    )


def blocks(job: str, payload: bytes, count: int, size: int) -> Iterator[bytes]:
    """`count` repetitions of `payload` as records of about `size` bytes, cut at line ends."""
    seq = line = byte = 0
    for repeat in range(count):
        start = 0
        while start < len(payload):
            stop = payload.rfind(b"\n", start, start + size) + 1
            piece = payload[start:stop]
            start = stop
            last = repeat == count - 1 and start >= len(payload)
            small = len(piece) < 96
            header = BlockHeader(
                job_id=job,
                attempt=1,
                step_index=0,
                seq=seq,
                first_line=line,
                line_count=piece.count(b"\n"),
                first_byte=byte,
                raw_len=len(piece),
                first_ts_ms=0,
                last_ts_ms=0,
                flags=(END if last else 0) | (RAW if small else 0),
            )
            yield encode_block(header, piece if small else _compress(piece))
            seq, line, byte = seq + 1, line + header.line_count, byte + len(piece)


def rss_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def row(name: str, value: str) -> None:
    print(f"{name:<58} {value}")


async def million_lines(folder: str) -> None:
    records = list(blocks(JOB, text(1_000_000, 1), 1, 256 << 10))
    store = LogStore(folder)
    before = rss_mb()
    started = time.perf_counter()
    for record in records:
        store.append("run-a", record)
    appended = time.perf_counter() - started
    await store.finalize("run-a", JOB, 1, 0)
    took = time.perf_counter() - started
    row("append 1 M lines, finalise", f"{took * 1000:.1f} ms ({len(records)} blocks)")
    row("  of it appending", f"{appended * 1000:.1f} ms, RSS {rss_mb() - before:+.1f} MB")
    await store.close()


async def large_log(folder: str) -> None:
    store = LogStore(folder)
    stream = StreamId("run-b", JOB, 1, 0)
    payload = text(130_000, 2)
    count = (1 << 30) // len(payload) + 1
    before = rss_mb()
    seconds = 0.0
    for record in blocks(JOB, payload, count, 1 << 20):
        started = time.perf_counter()
        store.append("run-b", record)
        seconds += time.perf_counter() - started
    row("append 1 GB", f"{seconds * 1000:.0f} ms, RSS {rss_mb() - before:+.1f} MB")
    for state in ("live", "stored"):
        dice = random.Random(3)
        total = (await store.read(stream, 0, 1)).total_lines
        times: list[float] = []
        for _ in range(200):
            started = time.perf_counter()
            await store.read(stream, dice.randrange(total), 1)
            times.append((time.perf_counter() - started) * 1000)
        times.sort()
        row(f"one line of 1 GB, {state}", f"p50 {times[100]:.1f} ms, p99 {times[198]:.1f} ms")
        times = []
        for _ in range(50):
            started = time.perf_counter()
            await store.read(stream, dice.randrange(total), 5000)
            times.append((time.perf_counter() - started) * 1000)
        row(f"5,000 lines of 1 GB, {state}", f"p50 {statistics.median(times):.1f} ms")
        started = time.perf_counter()
        await store.read(stream, tail=5000)
        row(f"last 5,000 lines of 1 GB, {state}", f"{(time.perf_counter() - started) * 1000:.1f} ms")
        if state == "live":
            reopened = LogStore(folder)
            started = time.perf_counter()
            await reopened.read(stream, 0, 1)
            row(
                "first read of a live 1 GB log after a restart",
                f"{(time.perf_counter() - started) * 1000:.1f} ms",
            )
            await reopened.close()
            await store.finalize(*stream)
    for query in ("no such words here", "error.*module"):
        started = time.perf_counter()
        found = await store.search(stream, query, regex=True, limit=100, timeout_seconds=60)
        row(
            f"search 1 GB for {query!r}",
            f"{time.perf_counter() - started:.2f} s ({found.scanned_lines} lines)",
        )
    row("RSS after all reads", f"{rss_mb() - before:+.1f} MB")
    await store.close()


async def dots(folder: str) -> None:
    """One byte a block, as an interactive step makes them."""
    store = LogStore(folder)
    records = [
        encode_block(
            BlockHeader(
                job_id=JOB,
                attempt=1,
                step_index=0,
                seq=seq,
                first_line=0,
                line_count=0,
                first_byte=seq,
                raw_len=1,
                first_ts_ms=0,
                last_ts_ms=0,
                flags=RAW | 1,
            ),
            b".",
        )
        for seq in range(86_400)
    ]
    started = time.perf_counter()
    for record in records:
        store.append("run-d", record)
    took = time.perf_counter() - started
    row("append a day of dots, one a second", f"{took * 1e6 / len(records):.1f} µs each")
    started = time.perf_counter()
    await store.read(StreamId("run-d", JOB, 1, 0))
    row("read the day of dots", f"{(time.perf_counter() - started) * 1000:.0f} ms")
    await store.close()


async def small_streams(folder: str) -> None:
    store = LogStore(folder)
    count = 10_000
    made = [(f"run-{number // 2:05}", f"job-{number:05}") for number in range(count)]
    records = [next(blocks(job, b"hello from a tiny step\n" * 4, 1, 4096)) for _, job in made]
    started, cpu = time.perf_counter(), time.process_time()
    for (run, job), record in zip(made, records, strict=True):
        store.append(run, record)
        await store.finalize(run, job, 1, 0)
    took, spent = time.perf_counter() - started, time.process_time() - cpu
    row(
        "small streams: open, append, finalise",
        f"{count / took:.0f} /s, {spent / count * 1e6:.0f} µs CPU each",
    )
    await store.close()


async def main(folder: str) -> None:
    for part in (million_lines, large_log, dots, small_streams):
        await part(os.path.join(folder, part.__name__))


if __name__ == "__main__":
    place = tempfile.mkdtemp(dir=sys.argv[1] if len(sys.argv) > 1 else None)
    try:
        asyncio.run(main(place))
    finally:
        shutil.rmtree(place)
