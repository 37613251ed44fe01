"""How long a line takes from the step that prints it to a browser that watches the log."""

import asyncio
import statistics
import time

import msgspec
from websockets.asyncio.client import connect

from benchmarks.report import Row, percentile
from kici.protocol import browser_v1 as wire
from tests.support.stack import Repository, Stack, eventually

# One line every 40 ms that says when it was printed, from a program that writes to the step's pipe.
LIVE = """
from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def ticks(ctx: Context) -> None:
    await ctx.sh("sleep 1; for i in $(seq {lines}); do date +%s%N; sleep 0.04; done")


bench = workflow("ticks", on=push(branches="main"), jobs=[ticks])
"""


async def _watched(stack: Stack, run_id: str, job_id: str, lines: int) -> list[float]:
    """Delay of each line in milliseconds."""
    delays: list[float] = []
    seen = 0
    url = stack.platform_url.replace("http://", "ws://") + "/ws/dashboard"
    async with asyncio.timeout(60 + lines * 0.1), connect(url, max_size=None, proxy=None) as socket:
        await socket.send(wire.encode(wire.AuthRequest(token=stack.token)).decode())
        await socket.send(
            wire.encode(
                wire.LogSubscribe(org_id=stack.org_id, run_id=run_id, job_id=job_id, step_index=0)
            ).decode()
        )
        async for frame in socket:
            now = time.time_ns()
            message = wire.decode_to_browser(frame)
            match message:
                case wire.LogLines():
                    complete = message.lines[: len(message.lines) - int(message.open_line)]
                    for number, line in enumerate(complete, start=message.first_line):
                        if number >= seen:
                            delays.append((now - int(line)) / 1e6)
                            seen = number + 1
                    if seen >= lines:
                        return delays
                case wire.LogEnded() | wire.AuthFailure() | wire.ErrorFrame() | wire.LogGap():
                    raise AssertionError(f"after {seen} lines: {msgspec.json.encode(message)!r}")
                case _:
                    pass
    return delays


def line_to_browser(stack: Stack, repository: Repository, *, lines: int) -> Row:
    """The repository's workflow is LIVE."""
    run_id = stack.find_run(sha=repository.push())["runId"]
    job = eventually(
        lambda: [job for job in stack.detail(run_id)["jobs"] if job["status"] == "running"],
        what="the job runs",
    )[0]
    delays = asyncio.run(_watched(stack, run_id, job["jobId"], lines))
    p50, p95 = percentile(delays, 0.5), percentile(delays, 0.95)
    return Row(
        "a line from the step to a browser",
        "p95 ≤ 200 ms",
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (n={len(delays)})",
        p95 <= 200,
        {"ms": delays, "mean": statistics.fmean(delays)},
    )
