"""`kici runs logs`, `show` and `watch` of runs on a server (AU-136, AU-137)."""

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.support.stack import Repository, Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

WORKFLOWS = """
import asyncio
from pathlib import Path

from kici import Context, job, push, step, workflow

LINUX = "kici:os:linux"


def before(ctx):
    print("hook before")


def tidy(ctx):
    print("tidy")


@step(cleanup=tidy)
async def first(ctx: Context) -> None:
    print("first")


@step
async def second(ctx: Context) -> None:
    print("x" * 200_000)
    print("second")


@step
async def fails(ctx: Context) -> None:
    raise ValueError("no good")



@step
async def talks(ctx: Context) -> None:
    print("deploying", flush=True)
    while not Path("@RELEASE@").exists():
        await asyncio.sleep(0.05)
    for number in range(1, 21):
        print("line", number, flush=True)
        await asyncio.sleep(0.1)


tests = job("test", runs_on=LINUX, matrix={"os": ["linux"], "py": ["3.12"]}, before_step=before, steps=[first, second])
rows = workflow("rows", on=push(branches="rows"), jobs=[tests])
bad = workflow("bad", on=push(branches="bad"), jobs=[job("only", runs_on=LINUX, steps=[fails])])
slow = workflow("slow", on=push(branches=["slow", "slower"]), jobs=[job("only", runs_on=LINUX, steps=[talks])])
"""


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack.started(agents=1) as running:
        yield running


@pytest.fixture(scope="module")
def release(stack: Stack) -> Path:
    """The file that lets the slow workflow go on."""
    return stack.data_dir.parent / "release"


@pytest.fixture(scope="module")
def repository(stack: Stack, release: Path) -> Repository:
    return stack.repository("shop", {"ci.py": WORKFLOWS.replace("@RELEASE@", str(release))})


def kici(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return stack.cli(*arguments, "--data-dir", str(stack.data_dir), check=False)


def start(stack: Stack, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "kici.cli.main", *arguments, "--data-dir", str(stack.data_dir)],
        env=dict(stack.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stdout is not None
    shown = ""
    while text not in shown:
        piece = process.stdout.read(1)
        assert piece, shown
        shown += piece
    return shown


def rest_of(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Not communicate(): it would miss what the reader holds already."""
    assert process.stdout is not None
    assert process.stderr is not None
    with process.stdout as out, process.stderr as err:
        shown = out.read(), err.read()
    process.wait(100)
    return shown


def test_rows_stand_as_they_ran_and_long_lines_say_that_they_are_cut(
    stack: Stack, repository: Repository
) -> None:
    """AG-45, AG-81: hooks between the steps; names as they are shown are understood."""
    sha = repository.push("Rows", branch="rows")
    detail = stack.wait_for_run(sha=sha)
    run_id = detail["run"]["runId"]
    done = kici(stack, "runs", "logs", run_id, "--job", "test (os:linux, py:3.12)")
    assert done.returncode == 0, done.stderr
    headings = [line.split(" › ")[1] for line in done.stdout.splitlines() if line.startswith("=== ")]
    assert [heading.rpartition(" success ===")[0] for heading in headings] == [
        "Prepare",
        "before_step (first)",
        "first",
        "cleanup (first)",
        "before_step (second)",
        "second",
    ]
    assert "x" * 65_536 + " … [line cut at 64 KiB]\nsecond\n" in done.stdout
    shown = kici(stack, "runs", "show", run_id).stdout
    places = [
        shown.index(name)
        for name in ("Prepare", "before_step (first)", "cleanup (first)", "before_step (second)")
    ]
    assert places == sorted(places)
    documents = json.loads(kici(stack, "runs", "logs", run_id, "--step", "first", "--json").stdout)
    assert [document["lines"] for document in documents] == [["first"]]


def test_names_that_do_not_exist_are_refused(stack: Stack, repository: Repository) -> None:
    """AU-136: 2, with the names that do."""
    run_id = stack.wait_for_run(workflow="rows")["run"]["runId"]
    for options, known in (
        (("--step", "nope"), "first, cleanup (first)"),
        (("--step", "99"), "first, cleanup (first)"),
        (("--job", "nope"), "test (linux, 3.12)"),
    ):
        done = kici(stack, "runs", "logs", run_id, *options)
        assert done.returncode == 2
        assert known in done.stderr


def test_following_ends_as_the_run_does(stack: Stack, repository: Repository) -> None:
    """AU-136: exit 1 for a failed run, as text and as JSON; without --follow the command itself counts."""
    sha = repository.push("Bad", branch="bad")
    run_id = stack.wait_for_run(sha=sha)["run"]["runId"]
    for options, code in ((("-f",), 1), (("-f", "--json"), 1), ((), 0), (("--json",), 0)):
        done = kici(stack, "runs", "logs", run_id, *options)
        assert done.returncode == code, (options, done.stderr)
        assert "no good" in done.stdout


def test_a_line_is_shown_when_it_is_written_and_a_lost_server_is_waited_for(
    stack: Stack, repository: Repository, release: Path
) -> None:
    """AU-137: no line is held back for the next one; the orchestrator is killed while lines come, and every one is
    shown once, in order."""
    sha = repository.push("Slow", branch="slow")
    process = start(stack, "runs", "logs", stack.find_run(sha=sha)["runId"], "-f")
    shown = read_until(process, "deploying")
    release.touch()
    shown += read_until(process, "line 3")
    killed = stack.kill("orchestrator")
    out, err = rest_of(process)
    shown += out
    assert process.returncode == 0, err
    assert "The connection is lost" in err
    assert [line for line in shown.splitlines() if line.startswith(("deploying", "line"))] == [
        "deploying",
        *(f"line {number}" for number in range(1, 21)),
    ]
    stack.wait_back("orchestrator", killed)
    release.unlink()


def test_a_job_that_runs_again_says_why(stack: Stack, repository: Repository, release: Path) -> None:
    """ADR 8: visibly."""
    sha = repository.push("Slower", branch="slower")
    run_id = stack.find_run(sha=sha)["runId"]
    process = start(stack, "runs", "logs", run_id, "-f")
    read_until(process, "deploying")
    killed = stack.kill("agent-1", signal.SIGKILL)
    stack.wait_back("agent-1", killed)
    eventually(lambda: stack.detail(run_id)["jobs"][0]["attempt"] == 2, what="a second attempt")
    threading.Timer(0.5, release.touch).start()
    _, err = rest_of(process)
    assert process.returncode == 0, err
    assert "only: attempt 2, the one before was lost: agent agent-1" in err
    assert "attempt 2, the one before was lost" in kici(stack, "runs", "show", run_id).stdout
