"""Whatever author code a job is in, a cancel ends it with its processes, gently or at once (AG-56, AG-57)."""

import asyncio

import pytest

from kici.runner.host import Zygote
from kici.runner.processes import is_running
from kici.spec.states import JobStatus
from tests.process.runner.builders import Host, Recorder, Repo

pytestmark = pytest.mark.process

HANGS = """
async def hang(ctx, *rest, **named):
    await ctx.sh('echo $$ > ../pid; echo "ready"; sleep 1000 & wait')
def hang_in_thread(ctx: SyncContext):
    ctx.sh('echo $$ > ../pid; echo "ready"; sleep 1000 & wait')
async def tidy(ctx: HookContext) -> None:
    print("tidied", ctx.outcome.status)
@step
async def one(ctx: Context) -> None: ...
"""

PLACES = {
    "job rule": "job('j', runs_on=LINUX, steps=[one], rules=[rule('hangs', hang)], cleanup=tidy)",
    "job rule in a thread": "job('j', runs_on=LINUX, steps=[one], rules=[rule('hangs', hang_in_thread)], cleanup=tidy)",
    "step rule": "job('j', runs_on=LINUX, steps=[step('s', rules=[rule('hangs', hang)])(hang)], cleanup=tidy)",
    "check": "job('j', runs_on=LINUX, steps=[step('s', check=hang, summarize=str)(hang)], cleanup=tidy)",
    "check in a thread": "job('j', runs_on=LINUX, steps=[step('s', check=hang_in_thread, summarize=str)(hang)], cleanup=tidy)",
    "apply": "job('j', runs_on=LINUX, steps=[step('s', check=lambda ctx: 1, summarize=str)(hang)], cleanup=tidy)",
    "wait": "job('j', runs_on=LINUX, steps=[wait_for_step('s', hang, timeout='1h')], cleanup=tidy)",
    "init": "job('j', runs_on=LINUX, steps=[one], cleanup=tidy, "
    "init=Init(run='echo $$ > ../pid; echo \"ready\"; sleep 1000 & wait'))",
}


@pytest.mark.parametrize("force", [False, True], ids=["gentle", "forced"])
@pytest.mark.parametrize("place", PLACES)
async def test_a_cancel_ends_it_wherever_it_is(repo: Repo, place: str, force: bool) -> None:
    """AG-56, AG-57: no process is left; hooks follow unless it is forced."""
    repo.write(f"{HANGS}\njobs = [{PLACES[place]}]")
    seen = Recorder()
    host = Host(repo.root.parent)
    async with asyncio.timeout(30), Zygote.start() as zygote:
        async with asyncio.TaskGroup() as tasks:
            ended = tasks.create_task(zygote.run(repo.execute("j"), seen, services=host))
            await seen.printed("ready\n")
            pid = int((repo.root.parent / "pid").read_text())
            zygote.abort("j", "by ada", force=force)
        result = ended.result()
        assert not is_running(pid)
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "by ada")
    rows = {end.step_name: end.status for end in seen.ends.values()}
    if force:
        assert "cleanup" not in rows
    else:
        assert rows.pop("cleanup") == "success"
        assert seen.text(seen.index("cleanup")) == "tidied cancelled\n"
    assert set(rows.values()) <= {"cancelled", "skipped"}


async def test_an_approval_that_nobody_gives_ends_with_its_job(repo: Repo) -> None:
    """AU-60, AG-56."""
    repo.write(HANGS + "\njobs = [job('j', runs_on=LINUX, steps=[step('s', approval=True)(hang)])]")
    asked = asyncio.Event()

    class Nobody:
        async def request(self, job_id: str, method: str, params: object) -> object:
            asked.set()
            return await asyncio.get_running_loop().create_future()

    seen = Recorder()
    async with asyncio.timeout(30), Zygote.start() as zygote, asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(zygote.run(repo.execute("j"), seen, services=Nobody()))
        await asked.wait()
        zygote.abort("j", "by ada", force=False)
        result = await ended
    assert result.status == JobStatus.CANCELLED
    assert "ready" not in seen.text(0)
