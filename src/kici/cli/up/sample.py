"""The sample repository: a workflow that does something small and real, and a push to it.

Two folders below the data directory: `hello-kici.git` is the repository that KiCI watches, `hello-kici` is
a working clone of it. A commit pushed from the clone starts a run.
"""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

from kici.cli.client import Client
from kici.cli.up.console import Console
from kici.cli.up.paths import DataDir
from kici.spec.errors import KiciError

SOURCE_NAME = "hello-kici"

WORKFLOW = '''"""Two jobs: tests on several inputs, then a report that reads what they returned."""

from kici import Context, job, push, step, workflow


@step
async def greet(ctx: Context) -> dict[str, str]:
    name = ctx.matrix["name"]
    ctx.log.info("Hello from Python %s", name)
    result = await ctx.sh('echo "hello, $name"; git log -1 --oneline', name=name)
    return {"greeting": result.stdout.splitlines()[0]}


@step
async def run_tests(ctx: Context) -> None:
    await ctx.sh("python3 -m unittest -v test_greeting.py")


hello = job("hello", runs_on="kici:os:linux", matrix={"name": ["world", "kici"]}, steps=[greet])
tests = job("tests", runs_on="kici:os:linux", steps=[run_tests])


@job(runs_on="kici:os:linux", needs=[hello, tests])
async def report(ctx: Context) -> None:
    await ctx.sh("echo all green at $(git rev-parse --short HEAD)")


ci = workflow("ci", on=push(branches="main"), jobs=[hello, tests, report])
'''

TEST = """import unittest

from greeting import greeting


class GreetingTest(unittest.TestCase):
    def test_names_the_guest(self):
        self.assertEqual(greeting("kici"), "Hello, kici!")


if __name__ == "__main__":
    unittest.main()
"""

MODULE = """def greeting(name: str) -> str:
    return f"Hello, {name}!"
"""


_CLONE_CONFIG = {
    "user.name": "KiCI sample",
    "user.email": "sample@localhost",
    "branch.main.remote": "origin",
    "branch.main.merge": "refs/heads/main",
}


class SampleFailed(KiciError):
    code: ClassVar[str] = "sample_failed"


def _git(folder: Path, *arguments: str) -> str:
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "KiCI sample",
        "GIT_AUTHOR_EMAIL": "sample@localhost",
        "GIT_COMMITTER_NAME": "KiCI sample",
        "GIT_COMMITTER_EMAIL": "sample@localhost",
    }
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments],
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode != 0:
        raise SampleFailed(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout.strip()


def make_repository(data: DataDir) -> tuple[Path, Path]:
    """Bare repository and working clone with one commit, not yet pushed. Idempotent."""
    bare = data.sample / "hello-kici.git"
    clone = data.sample / "hello-kici"
    data.sample.mkdir(exist_ok=True)
    if not bare.exists():
        bare.mkdir()
        _git(bare, "init", "--bare", "--quiet", "--initial-branch=main")
    if not (clone / ".git").exists():
        (clone / ".kici" / "workflows").mkdir(parents=True)
        (clone / ".kici" / "workflows" / "ci.py").write_text(WORKFLOW)
        (clone / "greeting.py").write_text(MODULE)
        (clone / "test_greeting.py").write_text(TEST)
        compiled = subprocess.run(
            [sys.executable, "-m", "kici.cli.main", "compile", "--kici-dir", str(clone / ".kici")],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if compiled.returncode != 0:
            raise SampleFailed(f"the sample workflow does not compile:\n{compiled.stderr}")
        _git(clone, "init", "--quiet", "--initial-branch=main")
        _git(clone, "remote", "add", "origin", str(bare))
        # What `kici up` prints to try works as it stands, also for people whose git does not know them yet.
        for key, value in _CLONE_CONFIG.items():
            _git(clone, "config", key, value)
        _git(clone, "add", "-A")
        _git(clone, "commit", "--quiet", "-m", "Say hello")
    return bare, clone


async def register_source(client: Client, name: str, bare: Path) -> None:
    """Make the source unless it is there, and the hook that tells KiCI about pushes."""
    known = await client.admin("GET", "/sources")
    if not any(source["name"] == name for source in known["sources"]):
        await client.admin("POST", "/sources", {"kind": "local", "name": name, "path": str(bare)})


async def push_and_follow(client: Client, console: Console, data: DataDir) -> None:
    """First start: register, push, wait for green, show the log's tail. Later starts: nothing."""
    bare, clone = await asyncio.to_thread(make_repository, data)
    await register_source(client, SOURCE_NAME, bare)
    installed = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "kici.cli.admin.main",
        "source",
        "install-hook",
        SOURCE_NAME,
        "--data-dir",
        str(data.root),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await installed.communicate()
    if installed.returncode != 0:
        raise SampleFailed(f"cannot install the push hook:\n{output.decode()}")
    with console.step("git push to the sample repository"):
        await asyncio.to_thread(_git, clone, "push", "--quiet", "origin", "main")
        run_id = await _first_run(client, _git(clone, "rev-parse", "HEAD"))
    with console.step("workflow run"):
        run = await client.wait_for_run(run_id, patience_seconds=120)
    for line in await client.log_tail(run_id, lines=12):
        console.say(f"    {line}")
    if run["status"] != "success":
        raise SampleFailed(f"the sample run ended {run['status']}: {run['failureReason']}")


async def _first_run(client: Client, sha: str) -> str:
    for _ in range(600):
        runs = await client.runs(sha=sha)
        if runs:
            return runs[0]["runId"]
        await asyncio.sleep(0.05)
    raise SampleFailed(
        "the push was accepted but no run appeared in 30 s; `kici-admin event-log list` says why"
    )
