"""Logs from a step's file descriptors to the reader: nothing lost, reordered or bloated."""

import hashlib
import json
from typing import Any

import httpx
import pytest

from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

WORKFLOW = """
import os
import sys
import time

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def million(ctx: Context) -> None:
    for number in range(1_000_000):
        print("line", number)


@job(runs_on="kici:os:linux")
async def single(ctx: Context) -> None:
    await ctx.run("head", "-c", "100000000", "/dev/zero", quiet=True, check=False)
    piece = b"0123456789abcdef" * 65536
    for _ in range(100):
        os.write(1, piece)


@job(runs_on="kici:os:linux")
async def hasty(ctx: Context) -> None:
    sys.stdout.write("".join(f"row {number}\\n" for number in range(100_000)))
    sys.stdout.flush()
    os._exit(0)


@job(runs_on="kici:os:linux")
async def dots(ctx: Context) -> None:
    for _ in range(4):
        os.write(1, b".")
        time.sleep(1)


ci = workflow("torture", on=push(branches="main"), jobs=[million, single, hasty, dots])
"""


@pytest.fixture(scope="module")
def stack():
    with Stack.started(agents=2) as running:
        running.repository("torture", {"torture.py": WORKFLOW}).push("Torture")
        yield running


@pytest.fixture(scope="module")
def detail(stack: Stack) -> dict[str, Any]:
    return stack.wait_for_run(workflow="torture", within_seconds=180)


def job_of(detail: dict[str, Any], name: str) -> dict[str, Any]:
    return next(job for job in detail["jobs"] if job["jobName"] == name)


def digest(stack: Stack, detail: dict[str, Any], name: str) -> tuple[str, int]:
    """SHA-256 and size of the raw download, streamed."""
    job_id = job_of(detail, name)["jobId"]
    url = (
        f"{stack.platform_url}/api/v1/orgs/{stack.org_id}/runs/{detail['run']['runId']}"
        f"/jobs/{job_id}/steps/0/logs/raw"
    )
    total, size = hashlib.sha256(), 0
    with httpx.stream(
        "GET", url, headers={"Authorization": f"Bearer {stack.token}"}, timeout=120, trust_env=False
    ) as response:
        assert response.status_code == 200
        for part in response.iter_bytes():
            total.update(part)
            size += len(part)
    return total.hexdigest(), size


def page(stack: Stack, detail: dict[str, Any], name: str, **params: Any) -> dict[str, Any]:
    job_id = job_of(detail, name)["jobId"]
    return stack.api("GET", f"/runs/{detail['run']['runId']}/jobs/{job_id}/steps/0/logs", params=params)


def test_a_million_lines_are_stored_byte_for_byte_and_read_by_line(stack: Stack, detail: dict[str, Any]):
    """AG-84: every block before the terminal state; any line by its number; search on the server."""
    expected = hashlib.sha256()
    size = 0
    for start in range(0, 1_000_000, 10_000):
        part = "".join(f"line {number}\n" for number in range(start, start + 10_000)).encode()
        expected.update(part)
        size += len(part)
    assert digest(stack, detail, "million") == (expected.hexdigest(), size)
    step = next(s for s in job_of(detail, "million")["steps"] if s["stepIndex"] == 0)
    assert (step["logLines"], step["logBytes"]) == (1_000_000, size)
    middle = page(stack, detail, "million", offset=654_321, limit=3)
    assert middle["lines"] == ["line 654321", "line 654322", "line 654323"]
    assert middle["totalLines"] == 1_000_000
    assert page(stack, detail, "million", tail=1)["lines"] == ["line 999999"]
    job_id = job_of(detail, "million")["jobId"]
    found = stack.api(
        "GET",
        f"/runs/{detail['run']['runId']}/jobs/{job_id}/steps/0/logs/search",
        params={"q": "line 77777"},
    )
    assert [match["line"] for match in found["matches"]] == [77_777, *range(777_770, 777_780)]


def test_a_line_of_a_hundred_megabytes_is_kept_whole(stack: Stack, detail: dict[str, Any]):
    """AG-81: cut for a page of JSON, never in storage."""
    expected = hashlib.sha256()
    for _ in range(100):
        expected.update(b"0123456789abcdef" * 65536)
    assert digest(stack, detail, "single") == (expected.hexdigest(), 100 * 16 * 65536)
    shown = page(stack, detail, "single")
    assert shown["totalLines"] == 1
    assert shown["cut"] == [0]
    assert len(shown["lines"][0]) <= 64 * 1024


def test_lines_printed_before_a_sudden_exit_are_all_there(stack: Stack, detail: dict[str, Any]):
    """AG-46: the runner ends without a word; what it printed stays."""
    expected = "".join(f"row {number}\n" for number in range(100_000)).encode()
    assert digest(stack, detail, "hasty") == (hashlib.sha256(expected).hexdigest(), len(expected))
    assert job_of(detail, "hasty")["status"] == "failed"
    assert job_of(detail, "hasty")["errorMessage"]


def test_dots_without_a_newline_stay_one_small_line(stack: Stack, detail: dict[str, Any]):
    shown = page(stack, detail, "dots")
    assert shown["lines"] == ["...."]
    assert shown["totalBytes"] == 4


def test_following_a_live_step_gives_every_line_once(stack: Stack):
    """PD-70: joined in the middle over the WebSocket, lines keyed by number."""
    from websockets.sync.client import connect

    live = """
import time

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def ticks(ctx: Context) -> None:
    for number in range(40):
        print("tick", number, flush=True)
        time.sleep(0.05)


ticking = workflow("ticking", on=push(branches="main"), jobs=[ticks])
"""
    repository = stack.repository("ticking", {"ticking.py": live})
    sha = repository.push("Tick")
    run_id = stack.find_run(sha=sha)["runId"]

    def running() -> dict[str, Any] | None:
        jobs = stack.detail(run_id)["jobs"]
        return jobs[0] if jobs and any(s["stepIndex"] == 0 for s in jobs[0]["steps"]) else None

    job = eventually(running, what="the step runs")
    assert job is not None
    seen: dict[int, str] = {}
    url = stack.platform_url.replace("http://", "ws://") + "/ws/dashboard"
    with connect(url, proxy=None) as socket:
        socket.send(json.dumps({"type": "auth.request", "token": stack.token}))
        socket.send(
            json.dumps(
                {
                    "type": "log.subscribe",
                    "orgId": stack.org_id,
                    "runId": run_id,
                    "jobId": job["jobId"],
                    "stepIndex": 0,
                    "afterLineCount": 0,
                }
            )
        )
        while True:
            frame = json.loads(socket.recv(timeout=30))
            if frame["type"] == "log.lines":
                seen |= dict(enumerate(frame["lines"], start=frame["firstLine"]))
            if frame["type"] == "log.stream.terminated":
                break
    assert [seen[number] for number in sorted(seen)] == [f"tick {number}" for number in range(40)]
