"""Concurrency groups between processes of one user (AU-59, AU-116)."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.process.local.project import KICI, Project, Run

pytestmark = pytest.mark.process

GROUPS = """
@job(runs_on=LINUX)
async def holds(ctx: Context) -> None:
    notes = Path(NOTES)
    (notes / f"began-{os.getpid()}").touch()
    try:
        while not (notes / "go").exists():
            await asyncio.sleep(0.02)
    finally:
        (notes / f"ended-{os.getpid()}").touch()

@job(runs_on=LINUX, concurrency_group="deploys")
async def first(ctx: Context) -> None:
    with open(Path(NOTES) / "order", "a") as log:
        log.write("begin\\n")
        log.flush()
        await asyncio.sleep(0.05)
        log.write("end\\n")

@job(runs_on=LINUX, environment="deploys")
async def second(ctx: Context) -> None:
    with open(Path(NOTES) / "order", "a") as log:
        log.write("begin\\n")
        log.flush()
        await asyncio.sleep(0.05)
        log.write("end\\n")

def group(ctx: ConcurrencyContext) -> str:
    return f"asked-{os.environ.get('KICI_REF', '')}-{ctx.event.target_branch}"

def fails(ctx: ConcurrencyContext) -> str:
    raise ValueError("no group")

async def note(ctx: HookContext) -> None:
    (Path(NOTES) / "hook-ran").touch()

ONE = Concurrency(group="one", cancel_in_progress=False)
observed = workflow("observed", on=push(), jobs=[holds], on_cancel=note, cleanup=note, concurrency=ONE)
waits = workflow("waits", on=push(), jobs=[holds], concurrency=Concurrency(group="one", cancel_in_progress=False))
supersedes = workflow("supersedes", on=push(), jobs=[holds], concurrency=Concurrency(group=lambda ctx: f"two-{ctx.event.target_branch}"))
asks = workflow("asks", on=push(), jobs=[holds], concurrency=Concurrency(group=group, cancel_in_progress=False))
broken = workflow("broken", on=push(), jobs=[holds], concurrency=Concurrency(group=fails))
serial = workflow("serial", on=push(), jobs=[first, second])
"""


class Notes:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def go(self) -> None:
        (self.folder / "go").touch()

    def count(self, word: str) -> int:
        return len(list(self.folder.glob(f"{word}-*")))

    def wait_for(self, word: str, count: int) -> None:
        give_up_at = time.monotonic() + 30
        while self.count(word) < count:
            assert time.monotonic() < give_up_at, f"{word} happened {self.count(word)} times"
            time.sleep(0.01)


@pytest.fixture
def notes(tmp_path: Path) -> Notes:
    return Notes(tmp_path / "notes")


@contextmanager
def started(project: Project, workflow: str) -> "Generator[subprocess.Popen[str]]":
    with subprocess.Popen(
        [*KICI, "run", "local", "push", "--json", "--workflow", workflow],
        cwd=project.root,
        env={**project.env, "KICI_LOCAL_LOCK_KILL_GRACE_MS": "20000"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        try:
            yield command
        finally:
            command.kill()


def ended(command: "subprocess.Popen[str]", code: int) -> tuple[Run, str]:
    stdout, stderr = command.communicate(timeout=40)
    assert command.returncode == code, stderr
    (run,) = json.loads(stdout)["runs"]
    return Run(run), stderr


def seen(command: "subprocess.Popen[str]", text: str) -> None:
    assert command.stderr is not None
    for line in command.stderr:
        if text in line:
            return
    pytest.fail(f"{text!r} was never said")


@pytest.mark.parametrize("workflow", ["waits", "asks"])
def test_a_second_run_waits_for_its_turn(project: Project, notes: Notes, workflow: str) -> None:
    """AU-116: it says at once what it waits for."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    with started(project, workflow) as one:
        notes.wait_for("began", 1)
        with started(project, workflow) as two:
            seen(two, f"(1 ahead); process {one.pid}, workflow {workflow}")
            assert notes.count("began") == 1
            notes.go()
            assert ended(one, 0)[0].status == "success"
            assert ended(two, 0)[0].status == "success"
    assert notes.count("ended") == 2


def test_a_run_that_is_called_off_while_it_waits_has_nothing_to_observe(
    project: Project, notes: Notes
) -> None:
    """AU-33, AU-116: as on a server, its hooks are skipped, and their row says why."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    with started(project, "waits") as one:
        notes.wait_for("began", 1)
        with started(project, "observed") as two:
            seen(two, "(1 ahead)")
            two.send_signal(signal.SIGINT)
            run, _said = ended(two, 130)
        notes.go()
        ended(one, 0)
    assert (run.status, run.statuses()["holds"]) == ("cancelled", "cancelled")
    hooks = run.jobs["Hooks: observed"]
    assert (hooks["status"], hooks["errorMessage"]) == (
        "skipped",
        "the run was called off before anything began",
    )
    assert notes.count("hook") == 0


def test_a_newer_run_cancels_the_older(project: Project, notes: Notes) -> None:
    """AU-59, AU-116: gently, and begins when the older one has ended."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    with started(project, "supersedes") as one:
        notes.wait_for("began", 1)
        with started(project, "supersedes") as two:
            older, _said = ended(one, 1)
            assert older.status == "cancelled"
            assert (
                "Superseded by run in concurrency group 'two-main'" in older.jobs["holds"]["errorMessage"]
            )
            notes.wait_for("began", 2)
            assert notes.count("ended") == 1
            notes.go()
            newer, said = ended(two, 0)
            assert newer.status == "success"
            assert f"Superseding the run of process {one.pid}" in said


def test_a_killed_holder_leaves_no_lock(project: Project, notes: Notes) -> None:
    """AU-116."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    with started(project, "waits") as one:
        notes.wait_for("began", 1)
        os.kill(one.pid, signal.SIGKILL)
        one.communicate(timeout=30)
    notes.go()
    assert project.only_run("--workflow", "waits").status == "success"


def test_a_raising_group_fails_the_run(project: Project, notes: Notes) -> None:
    """AU-59, AU-116."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    run = project.only_run("--workflow", "broken", code=1)
    assert run.status == "failed"
    assert "no group" in run.document["errorMessage"]
    assert run.statuses()["holds"] == "skipped"
    assert notes.count("began") == 0


def test_jobs_of_one_group_run_one_at_a_time(project: Project, notes: Notes) -> None:
    """AU-59: a job's group is by default its first environment."""
    project.commit(f"NOTES = {str(notes.folder)!r}\n" + GROUPS)
    project.only_run("--workflow", "serial", "--concurrency", "4")
    assert (notes.folder / "order").read_text() == "begin\nend\nbegin\nend\n"
