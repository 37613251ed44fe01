"""Jobs of a local run in containers (AU-110, AU-115)."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.process.local.project import KICI, Project
from tests.support.container_image import Image, NoContainers

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    try:
        made = Image(tmp_path_factory.mktemp("image"))
    except NoContainers as error:
        pytest.skip(f"no containers here: {error}")
    yield made
    made.remove()


SOURCE = """
def where() -> str:
    return "outside" if Path("/usr/bin/git").exists() else "inside"

@job(runs_on=LINUX, container=Container(image=IMAGE, env={"FROM": "container"}))
async def boxed(ctx: Context) -> dict[str, str]:
    Path("made.txt").write_text("x")
    said = (await ctx.sh("cat data.txt")).text
    return {"where": where(), "said": said, "from": ctx.env["FROM"], "secret": (await ctx.secrets.get("KEY"))[::-1]}

@job(runs_on=LINUX, needs=[boxed])
async def plain(ctx: Context) -> str:
    return where() + " after " + ctx.job_outputs(boxed)["where"]

@job(runs_on=LINUX, container=IMAGE)
async def sleeps(ctx: Context) -> None:
    print("asleep", flush=True)
    try:
        await ctx.sh("sleep 1000")
    finally:
        print("woken")

ci = workflow("ci", on=push(), jobs=[boxed, plain])
slow = workflow("slow", on=push(), jobs=[sleeps])
"""


@pytest.fixture
def boxed(project: Project, image: Image) -> Project:
    project.env |= image.env
    (project.root / "data.txt").write_text("committed")
    project.commit(f"IMAGE = {image.name!r}\n" + SOURCE)
    return project


def test_jobs_that_name_a_container_run_in_it(boxed: Project, image: Image) -> None:
    """AU-110, AU-115: the same runner, secrets and files; others stay outside unless an image is given."""
    run = boxed.only_run("--workflow", "ci", "--container", "--env", "KEY=sesame", "--keep")
    assert run.output("boxed") == {
        "where": "inside", "said": "committed", "from": "container", "secret": "emases",
    }  # fmt: skip
    assert run.output("plain") == "outside after inside"
    assert (Path(run.jobs["boxed"]["workspace"]) / "made.txt").exists()
    run = boxed.only_run("--workflow", "ci", "--image", image.name, "--env", "KEY=sesame")
    assert run.output("plain") == "inside after inside"
    run = boxed.only_run("--workflow", "ci", "--env", "KEY=sesame")
    assert run.output("boxed")["where"] == "outside"
    assert image.containers() == []


def test_interrupting_reaches_into_the_container(boxed: Project, image: Image) -> None:
    """AU-117."""
    with subprocess.Popen(
        [*KICI, "run", "local", "push", "--workflow", "slow", "--container"],
        cwd=boxed.root,
        env=boxed.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as command:
        assert command.stdout is not None
        shown = ""
        for line in command.stdout:
            shown += line
            if "asleep" in line:
                command.send_signal(signal.SIGINT)
                break
        shown += command.stdout.read()
        assert command.wait(30) == 130, shown
    assert "sleeps │ woken" in shown
    give_up_at = time.monotonic() + 20
    while image.containers():
        assert time.monotonic() < give_up_at, "a container is left"


def test_what_cannot_be_run_says_why(boxed: Project, tmp_path: Path) -> None:
    """AU-115."""
    boxed.commit(
        '@job(runs_on=LINUX, container="localhost/kici-none:1")\nasync def a(ctx: Context) -> None: ...\n\nci = workflow("ci", on=push(), jobs=[a])\n'
    )
    run = boxed.only_run("--container", code=1)
    message = run.jobs["a"]["errorMessage"]
    assert message.startswith("localhost/kici-none:1 cannot run jobs; jobs in containers need python3")
    only_git = tmp_path / "bin"
    only_git.mkdir()
    for program in ("git", "cp", "bash"):
        (only_git / program).symlink_to(f"/usr/bin/{program}")
    boxed.env["PATH"] = str(only_git)
    done = boxed.run("--container")
    assert (done.returncode, "--container needs podman or docker" in done.stderr) == (2, True)
