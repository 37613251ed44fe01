"""`kici run local` as its users start it."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.process.local.project import KICI, Project

pytestmark = pytest.mark.process

DAG = """
@dataclass
class Built:
    version: str

@job(runs_on=LINUX)
async def build(ctx: Context) -> Built:
    await ctx.sh("cat data.txt; echo built > artifact")
    return Built(version="1.4")

@job(runs_on=LINUX, matrix={"os": ["a", "b"]}, needs=[build], env={"GREETING": "hi"})
async def test(ctx: Context, *, os: str) -> dict[str, str]:
    print("testing", ctx.job_outputs(build).version, os, ctx.env["GREETING"], Path("artifact").exists())
    return {os: "ok"}

@job(runs_on=["kici:os:linux", "gpu"], needs=[test])
async def deploy(ctx: Context) -> list[str]:
    print(ctx.run_info.ref, ctx.run_info.repository, ctx.event.type, ctx.run_info.sha[:1] != "")
    return sorted(ctx.matrix_outputs(test).merged)

ci = workflow("ci", on=push(branches="main"), jobs=[build, test, deploy])
"""


def test_a_graph_of_jobs_from_the_working_tree(project: Project) -> None:
    """AU-110, AU-113, AU-117."""
    (project.root / "data.txt").write_text("committed\n")
    project.commit(DAG)
    (project.root / "data.txt").write_text("as it stands\n")
    done = project.run()
    assert done.returncode == 0, done.stderr
    lines = [line.replace(" ", "") for line in done.stdout.splitlines()]
    assert "build│asitstands" in lines
    assert "test(a)│testing1.4ahiFalse" in lines
    assert "deploy│runsonkici:os:linux,gpu" in lines
    assert "deploy│mainprojectpushTrue" in lines
    assert lines[-1].startswith("successin")
    assert "✓ ci  Push to main matches main" in done.stdout
    assert "├─ ✓ test (b)" in done.stdout
    assert project.kept() == []
    assert not (project.root / "artifact").exists()
    report = project.report("--keep", "--quiet")
    (run,) = report["runs"]
    assert [job["name"] for job in run["jobs"]] == ["build", "test (a)", "test (b)", "deploy"]
    assert run["jobs"][3]["outputs"] == {"deploy": ["a", "b"]}
    assert Path(run["jobs"][0]["workspace"], "artifact").read_text() == "built\n"
    assert len(project.kept()) == 1


def test_in_place_works_in_the_tree(project: Project) -> None:
    """AU-113."""
    (project.root / "data.txt").write_text("x\n")
    project.commit(DAG)
    report = project.report("--in-place", "--job", "test (a)")
    (run,) = report["runs"]
    assert [(job["name"], job["status"]) for job in run["jobs"]] == [
        ("build", "success"),
        ("test (a)", "success"),
    ]
    assert (project.root / "artifact").exists()
    assert project.kept() == []


FAILING = """
@job(runs_on=LINUX)
async def bad(ctx: Context) -> None:
    await ctx.sh("echo now; exit 3")

@job(runs_on=LINUX, needs=[bad])
async def after(ctx: Context) -> None: ...

@job(runs_on=LINUX, needs=[need(bad, when="always")])
async def report(ctx: Context) -> str:
    return str(ctx.need(bad).status)

@job(runs_on=LINUX)
async def other(ctx: Context) -> None: ...

ci = workflow("ci", on=push(), jobs=[bad, after, report, other])
"""


def test_the_first_failure_stops_what_has_not_started(project: Project) -> None:
    """AU-117, AU-136."""
    project.commit(FAILING)
    (run,) = project.report("--concurrency", "1", code=1)["runs"]
    jobs = {job["name"]: job for job in run["jobs"]}
    assert {name: job["status"] for name, job in jobs.items()} == {
        "bad": "failed", "after": "skipped", "report": "success", "other": "skipped",
    }  # fmt: skip
    assert run["status"] == "failed"
    assert jobs["bad"]["steps"][0]["exitCode"] == 3
    assert jobs["report"]["outputs"] == {"report": "failed"}
    assert jobs["after"]["errorMessage"] == "upstream_unmet: bad (failed)"
    assert "--keep-going" in jobs["other"]["errorMessage"]
    assert Path(jobs["bad"]["workspace"]).is_dir()
    (run,) = project.report("--concurrency", "1", "--keep-going", code=1)["runs"]
    assert {job["name"]: job["status"] for job in run["jobs"]}["other"] == "success"
    done = project.run("--quiet")
    assert done.returncode == 1
    assert "bad │ now" not in done.stdout
    assert "✗ bad › bad, exit code 3\n  now\n" in done.stdout
    assert "✗ bad" in done.stdout
    assert "exited with code 3" in done.stdout


def test_what_cannot_run_says_why(project: Project) -> None:
    """AU-136."""
    project.commit(DAG)
    done = project.run("--branch", "topic")
    assert done.returncode == 2
    assert "no workflow starts on this event\n  ci: push.branches: wanted main, got topic" in done.stderr
    done = project.run("--workflow", "cy")
    assert (done.returncode, "there is no workflow 'cy'; workflows: ci" in done.stderr) == (2, True)
    done = project.run("--job", "nope")
    assert (done.returncode, "there is no job 'nope' among build, test (a)" in done.stderr) == (2, True)
    assert project.run(event="pish").returncode == 2
    (project.root / ".kici" / "workflows" / "ci.py").write_text("import nowhere\n")
    done = project.run()
    assert done.returncode == 2
    assert "error[E003]" in done.stderr
    assert project.kept() == []


WAITING = """
async def note(ctx: HookContext) -> None:
    Path(os.environ["NOTES"], f"{ctx.run_info.job}-{ctx.outcome.status}").touch()

async def never_ends(ctx: HookContext) -> None:
    Path(os.environ["NOTES"], "in-hook").touch()
    await ctx.sh("sleep 1000")

@job(runs_on=LINUX, cleanup=note, env={"NOTES": NOTES})
async def gentle(ctx: Context) -> None:
    Path(NOTES, "gentle-runs").touch()
    await ctx.sh("sleep 1000")

@job(runs_on=LINUX, needs=[gentle])
async def later(ctx: Context) -> None: ...

@job(runs_on=LINUX, on_cancel=never_ends, env={"NOTES": NOTES})
async def stubborn(ctx: Context) -> None:
    Path(NOTES, "stubborn-runs").touch()
    await ctx.sh("sleep 1000")

one = workflow("one", on=push(), jobs=[gentle, later])
two = workflow("two", on=push(), jobs=[stubborn])
"""


def wait_for(path: Path) -> None:
    give_up_at = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < give_up_at, f"{path} never came"
        time.sleep(0.01)


@pytest.mark.parametrize(("name", "presses"), [("one", 1), ("two", 2)])
def test_interrupting_once_is_gentle_and_twice_kills(
    project: Project, tmp_path: Path, name: str, presses: int
) -> None:
    """AU-117, AU-136."""
    notes = tmp_path / "notes"
    notes.mkdir()
    project.commit(f"NOTES = {str(notes)!r}\n" + WAITING)
    with subprocess.Popen(
        [*KICI, "run", "local", "push", "--workflow", name, "--json"],
        cwd=project.root,
        env=project.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        wait_for(notes / ("gentle-runs" if name == "one" else "stubborn-runs"))
        command.send_signal(signal.SIGINT)
        if presses == 2:
            wait_for(notes / "in-hook")
            command.send_signal(signal.SIGINT)
        stdout, stderr = command.communicate(timeout=30)
    assert command.returncode == 130, stderr
    (run,) = json.loads(stdout)["runs"]
    assert run["status"] == "cancelled"
    assert "Cancelling; once more kills." in stderr
    if name == "one":
        assert [job["status"] for job in run["jobs"]] == ["cancelled", "cancelled"]
        assert (notes / "gentle-cancelled").exists()
    else:
        assert "Killing." in stderr


def test_windows_of_a_matrix_and_fail_fast(project: Project) -> None:
    """AU-21."""
    project.commit("""
@job(runs_on=LINUX, matrix={"n": [1, 2, 3, 4]}, max_parallel=1, fail_fast=True)
async def shard(ctx: Context, *, n: int) -> None:
    if n == 2:
        raise ValueError("two")

ci = workflow("ci", on=push(), jobs=[shard])
""")
    (run,) = project.report("--concurrency", "4", "--keep-going", code=1)["runs"]
    assert [job["status"] for job in run["jobs"]] == ["success", "failed", "skipped", "skipped"]
    assert run["jobs"][2]["errorMessage"] == "fail_fast: another shard failed"
    shown = project.run("--concurrency", "4", "--keep-going").stdout
    assert "○ shard (3)  another shard failed, and fail_fast ends the others" in shown


def test_the_whole_run_has_a_time_limit(project: Project) -> None:
    """AU-31."""
    project.commit("""
@job(runs_on=LINUX)
async def slow(ctx: Context) -> None:
    await asyncio.sleep(1000)

ci = workflow("ci", on=push(), jobs=[slow], timeout="500ms")
""")
    (run,) = project.report(code=1)["runs"]
    assert run["jobs"][0]["errorMessage"] == "workflow_timeout: the run took longer than 0.5s"
    assert (run["status"], run["timeoutReason"]) == ("cancelled", "workflow_timeout")
    shown = project.run().stdout
    assert "slow │ the workflow timed out after 0.5s\n" in shown
    assert "\n✗ ci  Push to main\n" in shown
    assert "s  the workflow timed out after 0.5s\n" in shown
    assert "\ntimed out in " in shown
    assert "workflow_timeout" not in shown
