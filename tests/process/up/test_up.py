"""`kici up` as people use it: real processes on a throw-away data directory."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

HELLO = """
from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def hello(ctx: Context) -> None:
    await ctx.sh('echo "hello from $branch"', branch=ctx.event.target_branch)


ci = workflow("ci", on=push(branches="main"), jobs=[hello])
"""


@pytest.fixture(scope="module")
def stack():
    with Stack.started(agents=2) as running:
        yield running


def family(pid: int) -> set[int]:
    process = psutil.Process(pid)
    return {process.pid, *(child.pid for child in process.children(recursive=True))}


def gone(pids: set[int]) -> bool:
    return all(not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie" for pid in pids)


def test_status_tells_where_everything_is(stack: Stack):
    """AG-134, PD-3: two agents, URLs, a private token file, memory of each process."""
    status = json.loads(stack.cli("status", "--json", "--data-dir", str(stack.data_dir)).stdout)
    assert status["platformUrl"] == stack.platform_url
    assert status["orchestratorUrl"] == stack.orchestrator_url
    assert len(status["agentUrls"]) == 2
    assert [p["name"] for p in status["processes"]] == [
        "postgres",
        "platform",
        "orchestrator",
        "agent-1",
        "agent-2",
    ]
    assert all(p["state"] == "ready" and p["rssBytes"] > 0 for p in status["processes"])
    assert status["signInUrl"].startswith(stack.platform_url)
    assert Path(status["apiTokenFile"]).stat().st_mode & 0o777 == 0o600


def test_a_second_start_on_the_same_data_is_refused(stack: Stack):
    done = stack.cli("up", "--data-dir", str(stack.data_dir), "--port-offset", "1", check=False)
    assert done.returncode == 1
    assert "already running" in done.stderr
    assert "kici status" in done.stderr


def test_the_data_directory_in_use_is_not_wiped(stack: Stack):
    done = stack.cli("reset", "--yes", "--data-dir", str(stack.data_dir), check=False)
    assert done.returncode == 1
    assert "kici down" in done.stderr
    assert stack.data_dir.exists()


def test_a_push_becomes_a_green_run_and_the_cli_shows_it(stack: Stack):
    """The main job: real git, real hook, real agent, and `kici runs` signed in without a word."""
    repository = stack.repository("hello", {"ci.py": HELLO})
    sha = repository.push("Say hello")
    detail = stack.wait_for_run(sha=sha)
    run_id = detail["run"]["runId"]
    assert detail["run"]["status"] == "success"
    listed = json.loads(stack.cli("runs", "list", "--json").stdout)
    assert run_id in [run["runId"] for run in listed["runs"]]
    assert "ci" in stack.cli("runs", "show", run_id).stdout
    assert "hello from main" in stack.cli("runs", "logs", run_id).stdout.splitlines()


@pytest.mark.parametrize("name", ["platform", "orchestrator", "agent-2", "postgres"])
def test_a_crashed_program_is_started_again(stack: Stack, name: str):
    old = stack.kill(name)
    stack.wait_back(name, old)
    eventually(lambda: stack.cli("runs", "list", check=False).returncode == 0, what="the API answers")


def test_a_taken_port_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        offset = taken.getsockname()[1] - 10_142
        if offset < 0:
            pytest.fail("an ephemeral port below 10142")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "kici.cli.main",
                "up",
                "--data-dir",
                f"/tmp/kici-port-{os.getpid()}",
                "--port-offset",
                str(offset),
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
    subprocess.run(["rm", "-rf", f"/tmp/kici-port-{os.getpid()}"], check=True)
    assert done.returncode == 1
    assert f"port {offset + 10_142} is taken" in done.stderr


def test_kill_9_of_the_supervisor_leaves_no_orphan_and_a_restart_keeps_the_runs():
    """OR-5: everything below dies with it; the next start finds the old runs."""
    with Stack.started(agents=1) as stack:
        repository = stack.repository("hello", {"ci.py": HELLO})
        run_id = stack.wait_for_run(sha=repository.push())["run"]["runId"]
        assert stack.process is not None
        pids = family(stack.process.pid)
        assert len(pids) > 4
        stack.process.kill()
        stack.process.wait()
        eventually(lambda: gone(pids), within_seconds=20, what="all processes gone")
        stack.start()
        assert run_id in [run["runId"] for run in stack.runs()]
        assert stack.wait_for_run(sha=repository.push("Again"))["run"]["status"] == "success"


def test_stop_is_clean_and_reset_wipes():
    with Stack.started(agents=1) as stack:
        assert stack.process is not None
        pids = family(stack.process.pid)
        stack.cli("down", "--data-dir", str(stack.data_dir))
        assert stack.process.wait(30) == 0
        assert gone(pids)
        assert stack.cli("status", "--data-dir", str(stack.data_dir), check=False).returncode == 1
        refused = stack.cli("reset", "--data-dir", str(stack.data_dir), check=False)
        assert refused.returncode == 1
        assert stack.data_dir.exists()
        stack.cli("reset", "--yes", "--data-dir", str(stack.data_dir))
        assert not stack.data_dir.exists()


def _try_it(stack: Stack) -> None:
    """The line that `kici up` prints, word by word, for somebody whose git knows neither name nor defaults."""
    env = {"PATH": os.environ["PATH"], "HOME": str(stack.data_dir), "GIT_CONFIG_NOSYSTEM": "1"}
    subprocess.run(
        ["sh", "-c", "cd sample/hello-kici && git commit -q --allow-empty -m hi && git push -q"],
        cwd=stack.data_dir,
        env=env,
        check=True,
        timeout=30,
    )
    eventually(lambda: [run["status"] for run in stack.runs()] == ["success"] * 2, what="the push ran")


def test_the_sample_ends_green_and_detach_returns_when_ready(tmp_path: Path):
    """The newcomer's first minute, detached."""
    with Stack.started(agents=1, sample=True) as stack:
        done = eventually((stack.data_dir / "sample" / ".done").exists, what="the sample ran")
        assert done
        assert [run["status"] for run in stack.runs()] == ["success"]
        _try_it(stack)
        stack.stop()
        stack.cli(
            "up",
            "--detach",
            "--data-dir",
            str(stack.data_dir),
            "--port-offset",
            str(stack.offset),
        )
        state = stack.state()
        assert state is not None
        assert state["ready"]
        assert [run["status"] for run in stack.runs()] == ["success", "success"]
        os.kill(state["supervisorPid"], signal.SIGTERM)
        eventually(lambda: gone({state["supervisorPid"]}), what="stopped")
