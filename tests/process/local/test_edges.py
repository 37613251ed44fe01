"""`kici run local` where the machine, the tree or the terminal is not as usual."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.process.local.project import KICI, Project

pytestmark = pytest.mark.process

PLAIN = """
@job(runs_on=LINUX)
async def build(ctx: Context) -> list[str]:
    print("building")
    return sorted(name.encode("utf-8", "replace").decode() for name in os.listdir("."))

ci = workflow("ci", on=push(), jobs=[build])
"""
LATIN = os.fsdecode(b"caf\xe9")  # as older systems write it


@pytest.mark.parametrize("options", [[], ["--in-place"]])
def test_a_name_that_is_no_utf8_is_a_name(project: Project, options: list[str]) -> None:
    """AU-112, AU-113."""
    project.commit(PLAIN)
    project.git("commit", "-qm", "the second", "--allow-empty")  # nothing is known to change in a first one
    (project.root / LATIN).touch()
    run = project.only_run(*options)
    assert run.output("build") == [".git", ".kici", "caf?"]


def test_words_of_the_command_line_are_bytes(project: Project) -> None:
    """AU-112."""
    project.commit(
        """
class Where(Inputs):
    to: str = ""

@job(runs_on=LINUX)
async def build(ctx: Context) -> list[str]:
    to = ctx.inputs(Where).to if ctx.event.type == "dispatch" else ""
    return [*(ctx.event.changed_files or []), ctx.event.target_branch or "", to]

ci = workflow("ci", on=[push(), dispatch(inputs=Where)], jobs=[build])
"""
    )
    run = project.only_run("--files", LATIN, "--branch", LATIN)
    assert run.output("build") == ["caf\ufffd", "caf\ufffd", ""]
    run = project.only_run("--input", f"to={LATIN}", event="dispatch")
    assert run.output("build")[-1] == "caf\ufffd"
    done = project.run("--env", f"TOKEN={LATIN}")
    assert done.returncode == 2
    assert done.stderr == "error: --env TOKEN: the value is not UTF-8\n"


SLOW = """
@hook
async def told(ctx: Context) -> None:
    Path("NOTES").write_text("cancelled")

@job(runs_on=LINUX, on_cancel=told)
async def slow(ctx: Context) -> None:
    for number in range(600):
        print("line", number, flush=True)
        await asyncio.sleep(0.1)

ci = workflow("ci", on=push(), jobs=[slow])
"""


@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_a_reader_that_has_read_enough_ends_the_run(
    project: Project, tmp_path: Path, quiet: list[str]
) -> None:
    """AU-117, AU-136: `kici run local push | head -1`, and hooks run."""
    notes = tmp_path / "notes"
    project.commit(PLAIN if quiet else SLOW.replace("NOTES", str(notes)))
    with subprocess.Popen(
        [*KICI, "run", "local", "push", *quiet],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as command:
        assert command.stdout is not None
        assert command.stderr is not None
        if not quiet:
            assert command.stdout.readline()
        command.stdout.close()
        assert command.stderr.read() == b""
        assert command.wait(30) == 1
    if quiet:
        assert project.kept() == []
    else:
        assert notes.read_text() == "cancelled"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full disk here")
@pytest.mark.parametrize("arguments", [["run", "local", "push"], ["compile"], ["preview", "push"]])
def test_a_full_disk_is_one_line(project: Project, arguments: list[str]) -> None:
    """AU-136."""
    project.commit(PLAIN)
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*KICI, *arguments],
            cwd=project.root,
            env=project.env,
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (1, "error: cannot write: No space left on device\n")


@pytest.mark.parametrize(
    "arguments", [["run", "local", "push"], ["compile"], ["preview", "push", "--json"]]
)
def test_no_standard_output_at_all(project: Project, arguments: list[str]) -> None:
    """AU-136: `>&-`."""
    project.commit(PLAIN)
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *KICI, *arguments],
        cwd=project.root,
        env=project.env,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture
def without_git(project: Project, tmp_path: Path) -> Project:
    project.commit(PLAIN)
    programs = tmp_path / "programs"
    programs.mkdir()
    bash = shutil.which("bash")
    assert bash is not None
    (programs / "bash").symlink_to(bash)
    project.env["PATH"] = str(programs)
    return project


def test_in_place_needs_no_git(without_git: Project) -> None:
    """AU-113."""
    assert without_git.only_run("--in-place").status == "success"


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (["run", "local", "push"], ", or pass --in-place"),
        (["preview", "push"], ""),
        (["fixture", "push"], ""),
    ],
)
def test_without_git_it_is_said_what_is_missing(
    without_git: Project, arguments: list[str], more: str
) -> None:
    """AU-113, AU-136: in the words of `kici doctor`."""
    done = without_git.kici(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"error: git is not installed; install it: every command reads the repository with it{more}\n"
    )
    assert "every command reads the repository with it" in without_git.kici("doctor").stdout


def test_another_commit_is_not_in_place(project: Project) -> None:
    """AU-112, AU-113: no run says that it was of a commit that did not run."""
    project.write('old = fixture("old", event=push(), sha="HEAD")\n', name="tests/events.py")
    project.commit(PLAIN)
    done = project.run("--sha", "HEAD", "--in-place")
    assert (done.returncode, done.stderr) == (2, "error: --sha does not go with --in-place\n")
    done = project.run("--in-place", event="old")
    assert done.returncode == 2
    assert "fixture old names a commit: `sha` does not go with --in-place" in done.stderr


def test_workflows_below_the_top_of_the_repository(project: Project) -> None:
    """AU-1: every command says so in the same words, and nothing runs."""
    project.commit(PLAIN)
    below = project.root / "services" / "x"
    below.mkdir(parents=True)
    project.git("mv", ".kici", "services/x/.kici")
    top, project.root = project.root, below
    sentence = f".kici is not at the top of its git work tree ({top}), and servers read it only there"
    remedy = f"  move services/x/.kici to {top}, or make services/x a repository of its own\n"
    for options in ([], ["--in-place"]):
        done = project.run(*options)
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"error: {sentence}\n{remedy}")
    done = project.kici("preview", "push")
    assert (done.returncode, done.stderr) == (0, f"warning: {sentence}\n{remedy}")
    done = project.kici("compile")
    assert (done.returncode, done.stderr) == (0, f"warning: {sentence}\n{remedy}")
    assert project.kici("compile", "--check", "--strict").returncode == 1
    done = project.kici("doctor")
    assert done.returncode == 1
    assert f"✗ workflows: {sentence}\n  {remedy}" in done.stdout


def test_one_interrupt_ends_the_question(project: Project) -> None:
    """AU-111, AU-136: Ctrl-C on a terminal, once."""
    project.commit(PLAIN)
    code, shown = project.on_terminal("Which?", "\x03", "run", "local", "--pick")
    assert code == 130
    assert "Traceback" not in shown
    assert "Cancelling" not in shown


def test_a_run_folder_that_cannot_be(project: Project) -> None:
    """AU-113, AU-136."""
    project.commit(PLAIN)
    project.env["KICI_RUN_DIR"] = "/proc/nope"
    done = project.run()
    assert done.returncode == 2
    assert done.stderr == (
        "error: KICI_RUN_DIR=/proc/nope: No such file or directory\n"
        "  set KICI_RUN_DIR to a folder that you may write\n"
    )


@pytest.mark.parametrize("arguments", [["compile"], ["compile", "--check"], ["run", "local"], ["preview"]])
def test_a_lock_file_that_is_a_folder(project: Project, arguments: list[str]) -> None:
    """AU-136."""
    project.commit(PLAIN)
    (project.root / ".kici" / "kici.lock.json").mkdir()
    done = project.kici(*arguments)
    assert (done.returncode, done.stderr) == (
        2,
        "error: .kici/kici.lock.json is a folder: remove it, then run `kici compile`\n",
    )


def test_the_doctor_sees_that_the_lock_file_is_a_folder(project: Project) -> None:
    """AU-103."""
    project.commit(PLAIN)
    (project.root / ".kici" / "kici.lock.json").mkdir()
    assert (
        "✗ lock file: it is a folder\n    remove it, run `kici compile`\n" in project.kici("doctor").stdout
    )


def test_a_repository_inside_is_not_left_out_in_silence(project: Project) -> None:
    """AU-113, AU-115."""
    project.commit(PLAIN)
    project.git("commit", "-qm", "the second", "--allow-empty")
    inner = project.root / "vendor" / "lib"
    inner.mkdir(parents=True)
    project.git("init", "-q", "vendor/lib")
    (inner / "file").touch()
    line = "Not in the workspaces, as each is a git repository of its own: vendor/lib/ ("
    done = project.run()
    assert [shown for shown in done.stdout.splitlines() if shown.startswith(line)], done.stdout
    assert line not in project.run("--in-place").stdout
    assert line not in project.run("--sha", "HEAD~1").stdout
