"""What jobs ask of their server, through real agents, an orchestrator and a Platform."""

import re
from collections.abc import Generator
from typing import Any

import pytest

from tests.support.stack import Repository, Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

WORKFLOW = """
from pathlib import Path
from typing import Any

from kici import Cache, Context, job, push, step, workflow

KEY = "deps-{number}"


@step(cache=Cache(key=KEY, paths=["deps"], restore_keys=["deps-"]))
async def install(ctx: Context) -> dict[str, str]:
    marker = Path("deps/marker")
    found = marker.read_text() if marker.exists() else ""
    marker.parent.mkdir(exist_ok=True)
    marker.write_text(KEY)
    return {{"found": found}}


@step
async def by_hand(ctx: Context) -> dict[str, Any]:
    Path("hand").mkdir(exist_ok=True)
    Path("hand/file").write_text("by hand")
    saved = await ctx.cache.save(Cache(key="hand-" + KEY, paths=["hand"]))
    again = await ctx.cache.save(Cache(key="hand-" + KEY, paths=["hand"]))
    Path("hand/file").write_text("changed")
    hit = await ctx.cache.restore(Cache(key="nothing", paths=["hand"], restore_keys=["hand-"]))
    return {{
        "saved": saved,
        "again": again,
        "hit": hit.hit,
        "matched": hit.matched_key,
        "content": Path("hand/file").read_text(),
    }}


caching = job("caching", runs_on="kici:os:linux", steps=[install, by_hand])


@job(runs_on="kici:os:linux")
async def mint(ctx: Context) -> dict[str, str]:
    await ctx.set_secret_output("TOKEN", "s3cr3t-value-of-mint")
    print("leaking s3cr3t-value-of-mint")
    return {{"plain": "public"}}


@job(runs_on="kici:os:linux", needs=[mint])
async def use(ctx: Context) -> dict[str, Any]:
    value = await ctx.secrets.get("TOKEN")
    print("leaking", value)
    return {{"length": len(value), "known": await ctx.secrets.list()}}


@job(runs_on="kici:os:linux", needs=[use])
async def other(ctx: Context) -> dict[str, Any]:
    return {{"known": await ctx.secrets.list()}}


@job(runs_on="kici:os:linux")
async def look(ctx: Context) -> dict[str, Any]:
    hosts = await ctx.kici.inventory.query("kici:os:linux")
    one = await ctx.kici.inventory.get(hosts[0].agent_id)
    none = await ctx.kici.inventory.query("role:nothing")
    assert ctx.agent is not None
    return {{
        "hosts": [host.agent_id for host in hosts],
        "one": one.agent_id,
        "none": len(none),
        "me": ctx.agent.id,
        "all": len(await ctx.kici.infrastructure.list()),
    }}


ci = workflow("ci", on=push(), jobs=[caching, mint, use, other, look])
"""

ASKING = """
import time

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def ask(ctx: Context) -> dict[str, int]:
    print("asking")
    longest, until = 0.0, time.monotonic() + 600
    while longest < 0.5 and time.monotonic() < until:
        asked = time.monotonic()
        hosts = await ctx.kici.infrastructure.list()
        longest = max(longest, time.monotonic() - asked)
    return {"hosts": len(hosts)}


ci = workflow("ci", on=push(), jobs=[ask])
"""


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack.started(agents=2) as running:
        yield running


@pytest.fixture(scope="module")
def shop(stack: Stack) -> Repository:
    return stack.repository("shop", {"ci.py": WORKFLOW.format(number=1)})


@pytest.fixture(scope="module")
def first(stack: Stack, shop: Repository) -> dict[str, Any]:
    detail = stack.wait_for_run(sha=shop.push("First"), within_seconds=90)
    assert detail["run"]["status"] == "success", [job["errorMessage"] for job in detail["jobs"]]
    return detail


def _job(detail: dict[str, Any], name: str) -> dict[str, Any]:
    return next(job for job in detail["jobs"] if job["jobName"] == name)


def _output(detail: dict[str, Any], name: str, step: str | None = None) -> Any:
    outputs = _job(detail, name)["outputs"]
    return outputs[step or name]


def _steps(detail: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return _job(detail, name)["steps"]


def _all_logs(stack: Stack, detail: dict[str, Any]) -> str:
    run_id = detail["run"]["runId"]
    return "\n".join(
        stack.log(run_id, job["jobId"], step["stepIndex"]).decode()
        for job in detail["jobs"]
        for step in job["steps"]
    )


def test_a_cache_is_saved_once_and_found_by_key_or_prefix(
    stack: Stack, shop: Repository, first: dict[str, Any]
) -> None:
    """AG-78, AU-58: declared and by hand; restore and save are rows of their own."""
    assert _output(first, "caching", "install") == {"found": ""}
    assert _output(first, "caching", "by-hand") == {
        "saved": True,
        "again": False,
        "hit": True,
        "matched": "hand-deps-1",
        "content": "by hand",
    }
    told = [
        (event["eventType"], event["metadata"]["outcome"])
        for event in first["events"]
        if event["eventType"].startswith("cache.")
    ]
    assert told == [
        ("cache.restore", "miss"),
        ("cache.save", "saved"),
        ("cache.save", "saved"),
        ("cache.save", "skipped"),
        ("cache.restore", "hit"),
    ]
    kinds = {step["stepType"] for step in _steps(first, "caching")}
    assert {"cache:restore", "cache:save"} <= kinds
    again = stack.wait_for_run(sha=shop.push("Same key"), within_seconds=90)
    assert _output(again, "caching", "install") == {"found": "deps-1"}
    shop.write({"ci.py": WORKFLOW.format(number=2)})
    other = stack.wait_for_run(sha=shop.push("Another key, same prefix"), within_seconds=90)
    assert _output(other, "caching", "install") == {"found": "deps-1"}


def test_a_secret_output_reaches_dependants_and_nobody_else(stack: Stack, first: dict[str, Any]) -> None:
    """AG-52, SE-39…42: masked in logs, only names are shown, not even its job's dependants' dependants read it."""
    assert _output(first, "use") == {"length": len("s3cr3t-value-of-mint"), "known": ["TOKEN"]}
    assert _output(first, "other") == {"known": []}
    assert _job(first, "mint")["secretOutputKeys"] == ["TOKEN"]
    assert _job(first, "use")["secretOutputKeys"] == []
    assert _steps(first, "use")[-1]["secretsAccessed"] == ["TOKEN"]
    assert "s3cr3t-value-of-mint" not in str(first)
    logs = _all_logs(stack, first)
    assert "s3cr3t-value-of-mint" not in logs
    assert logs.count("leaking ***") == 2


def test_hosts_are_found_by_label(first: dict[str, Any]) -> None:
    """AG-13, AG-127."""
    found = _output(first, "look")
    assert len(found["hosts"]) == found["all"] == 2
    assert found["one"] == found["hosts"][0]
    assert found["none"] == 0
    assert found["me"] in found["hosts"]


def test_a_request_outlives_the_orchestrator(stack: Stack) -> None:
    """AG-12, AG-20: killed in the middle of it; the next one answers, and the step never knows."""
    repository = stack.repository("asking", {"ci.py": ASKING})
    run = stack.find_run(sha=repository.push("Ask"))

    def asking() -> bool:
        (job,) = stack.detail(run["runId"])["jobs"]
        return any(step["stepIndex"] == 0 for step in job["steps"]) and b"asking" in stack.log(
            run["runId"], job["jobId"], 0
        )

    eventually(asking, what="the step asks")
    old = stack.kill("orchestrator")
    stack.wait_back("orchestrator", old)
    detail = stack.wait_for_end(run["runId"])
    assert detail["run"]["status"] == "success", [job["errorMessage"] for job in detail["jobs"]]
    assert _output(detail, "ask") == {"hosts": 2}


def test_the_preparation_row_says_how_much_it_wrote(stack: Stack, first: dict[str, Any]) -> None:
    """AG-45, AG-82."""
    row = next(step for step in _steps(first, "look") if step["stepIndex"] == -1)
    log = stack.log(first["run"]["runId"], _job(first, "look")["jobId"], -1)
    assert (row["logLines"], row["logBytes"]) == (log.count(b"\n"), len(log))
    assert re.search(rb"Prepared in \d+ ms", log)
