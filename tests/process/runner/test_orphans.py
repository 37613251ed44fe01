"""Nobody survives: whichever process is killed, everything below it and the job's whole tree is gone."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kici.runner.host import Zygote, ZygoteError
from kici.runner.processes import is_running, parent_of
from kici.spec.states import JobStatus
from tests.process.runner.builders import Recorder, Repo

pytestmark = pytest.mark.process

# A job with children of every kind: plain, orphaned, in another session, with a scrubbed environment.
FAMILY = """
@step
async def work(ctx: Context) -> None:
    subprocess.Popen(["sleep", "1001"])
    subprocess.Popen("setsid sleep 1002 & (setsid env -i sleep 1003 &) ; (sleep 1004 &)", shell=True)
    print("runner", os.getpid(), os.getppid(), flush=True)
    await ctx.sh("trap '' TERM HUP INT; nohup sleep 1005 & sleep 1006 & echo ready; wait")

jobs = [job("j", runs_on=LINUX, steps=[work])]
"""

HOST = """
import asyncio, os, sys
from pathlib import Path
from kici.runner.host import Zygote
from tests.process.runner.builders import Recorder, Repo

async def main():
    repo = Repo.__new__(Repo)
    repo.root, repo._tmp = Path(sys.argv[1]) / "repo", Path(sys.argv[1]) / "tmp"
    class Tell(Recorder):
        def output(self, step_index, data):
            sys.stdout.buffer.write(data)
            sys.stdout.flush()
    async with Zygote.start() as zygote:
        await zygote.run(repo.execute("j"), Tell())

asyncio.run(main())
"""


def tree_of(root: int) -> set[int]:
    found = {root}
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    while new := {pid for pid in pids if pid not in found and parent_of(pid) in found}:
        found |= new
    return found


async def all_gone(pids: set[int]) -> None:
    async with asyncio.timeout(10):
        while alive := {pid for pid in pids if is_running(pid)}:
            await asyncio.sleep(0.01)
    assert not alive


def sleepers(pids: set[int]) -> list[str]:
    found: list[str] = []
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        if words[0].endswith(b"sleep"):
            found.append(words[1].decode())
    return sorted(found)


class Family:
    """The processes of a running FAMILY job."""

    def __init__(self, guardian: int, said: str) -> None:
        words = said.split()
        self.guardian = guardian
        self.runner = int(words[words.index("runner") + 1])
        self.zygote = int(words[words.index("runner") + 2])
        self.pids = tree_of(guardian)

    def check(self) -> None:
        assert {self.guardian, self.zygote, self.runner} <= self.pids
        assert sleepers(self.pids) == ["1001", "1002", "1003", "1004", "1005", "1006"]


async def settled(guardian: int, said: str) -> Family:
    """The family once all its members are there."""
    async with asyncio.timeout(10):
        while True:
            family = Family(guardian, said)
            try:
                family.check()
            except (AssertionError, FileNotFoundError, IndexError):
                await asyncio.sleep(0.01)
                continue
            return family


@pytest.mark.parametrize("victim", ["runner", "zygote", "guardian"])
async def test_kill_9_of_one_of_ours(repo: Repo, victim: str) -> None:
    """AG-43, AG-46."""
    repo.write(FAMILY)
    seen = Recorder()
    async with asyncio.timeout(60), Zygote.start() as zygote:
        job = asyncio.ensure_future(zygote.run(repo.execute("j"), seen))  # noqa: TID251 - the test kills meanwhile
        said = await seen.printed("ready")
        assert zygote._process is not None
        family = await settled(zygote._process._popen.pid, said)
        os.kill(getattr(family, victim), signal.SIGKILL)
        result = await job
        assert result.status == JobStatus.FAILED
        assert seen.end("work").status == "failed"
        if victim == "runner":
            assert str(result.error_message).startswith("the runner was killed by signal 9 (SIGKILL)")
            await all_gone(family.pids - {family.guardian, family.zygote})
        else:
            assert str(result.error_message).startswith("the process that started the runner died")
            await all_gone(family.pids)
        repo.write("jobs = [job('again', runs_on=LINUX, steps=[lambda ctx: print('alive')])]")
        assert (await zygote.run(repo.execute("again"), Recorder())).status == JobStatus.SUCCESS


async def test_kill_9_of_the_host(repo: Repo) -> None:
    """AG-43."""
    repo.write(FAMILY)
    host = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOST, str(repo.root.parent), stdout=subprocess.PIPE
    )
    assert host.stdout is not None
    async with asyncio.timeout(30):
        said = (await host.stdout.readuntil(b"ready")).decode()
    guardian = parent_of(int(said.split()[said.split().index("runner") + 2]))
    assert guardian is not None
    family = await settled(guardian, said)
    host.kill()
    await host.wait()
    await all_gone(family.pids)


async def test_closing_and_cancelling_leave_nobody(repo: Repo) -> None:
    """AG-43."""
    repo.write(FAMILY)
    seen = Recorder()
    async with asyncio.timeout(60):
        async with Zygote.start() as zygote:
            job = asyncio.ensure_future(zygote.run(repo.execute("j"), seen))  # noqa: TID251 - the test cancels it
            said = await seen.printed("ready")
            assert zygote._process is not None
            family = await settled(zygote._process._popen.pid, said)
            job.cancel()
            with pytest.raises(asyncio.CancelledError):
                await job
            assert not [pid for pid in family.pids - {family.guardian, family.zygote} if is_running(pid)]
        assert not [pid for pid in family.pids if is_running(pid)]


async def test_a_finished_job_leaves_nobody(repo: Repo) -> None:
    """AG-43."""
    repo.write(FAMILY.replace("; wait", ""))
    seen = Recorder()
    async with asyncio.timeout(60), Zygote.start() as zygote:
        result = await zygote.run(repo.execute("j"), seen)
        assert result.status == JobStatus.SUCCESS, result.error_message
        assert zygote._process is not None
        left = tree_of(zygote._process._popen.pid)
        assert len(left) == 2, sleepers(left)


async def test_jobs_run_side_by_side_on_one_zygote(repo: Repo) -> None:
    repo.write("""
    @step
    async def meet(ctx: Context) -> str:
        me = ctx.run_info.job
        (ctx.workspace / me).touch()
        while len(list(ctx.workspace.glob("j?"))) < 4:
            await asyncio.sleep(0.005)
        return me

    jobs = [job(f"j{n}", runs_on=LINUX, steps=[meet]) for n in range(4)]
    """)
    async with asyncio.timeout(30), Zygote.start() as zygote:
        results = await asyncio.gather(
            *(zygote.run(repo.execute(f"j{number}"), Recorder()) for number in range(4))
        )
    assert [result.outputs for result in results] == [{"meet": f"j{number}"} for number in range(4)]


async def test_an_interpreter_that_cannot_serve_says_why(tmp_path: Path) -> None:
    with pytest.raises(ZygoteError, match="cannot be started"):
        async with Zygote.start(python=str(tmp_path / "python")):
            pass
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho this is no python >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ZygoteError, match="this is no python"):
        async with Zygote.start(python=str(broken)):
            pass
