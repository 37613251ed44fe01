"""`kici up` plus `kici run remote`: real processes, a working tree as it is (AU-123…129)."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.process.remote.desk import Desk
from tests.support.stack import Stack, eventually

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]

HELLO = '''
"""What the remote run sees of the working tree."""
import os
from pathlib import Path
from kici import Context, job, push, step, workflow


@step
async def look(ctx: Context) -> None:
    await ctx.sh("cat note.txt; ls; git status --porcelain; git log -1 --format=subject:%s; cat .git/config")
    ctx.log.info("image there: %s", Path("disk.iso").exists())
    ctx.log.info("test run: %s", ctx.is_test_run)


hello = workflow("hello-world", on=push(branches="main"), jobs=[job("look", runs_on="kici:os:linux", steps=[look])])
'''


@pytest.fixture(scope="module")
def stack() -> Generator[Stack]:
    with Stack.started(agents=1) as stack:
        yield stack


@pytest.fixture
def desk(stack: Stack, tmp_path: Path) -> Desk:
    desk = Desk(stack, tmp_path / "project")
    desk.write(".kici/workflows/hello.py", HELLO)
    desk.write("note.txt", "committed note\n")
    desk.write(".kiciignore", "*.iso\n")
    desk.commit("The first")
    desk.git("remote", "add", "origin", "https://ada:s3cret-token@forge.example/project.git")
    return desk


def test_a_newcomers_first_remote_run_is_green(desk: Desk, stack: Stack):
    """AU-129, AU-124: no forge, no object store, no configuration; uncommitted changes run, what .kiciignore
    names stays, credentials do."""
    desk.write("note.txt", "uncommitted note\n")
    desk.write("disk.iso", "image\n")
    done = desk.kici("run", "remote", "--workflow", "hello-world")
    shown = done.stdout
    assert "1 file changed, 0 new, 0 deleted (" in shown
    assert "uncommitted note" in shown
    assert "committed note\n" not in shown.replace("uncommitted note", "")
    assert " M note.txt" in shown
    assert "subject:The first" in shown
    assert "image there: False" in shown
    assert "test run: True" in shown
    assert "forge.example/project.git" in shown
    assert "s3cret-token" not in shown
    run_id = shown.partition("/runs/")[2].split()[0]
    assert "s3cret-token" not in json.dumps(stack.detail(run_id))
    assert stack.detail(run_id)["run"]["repoIdentifier"] == "project"
    assert "look" in shown


def test_what_kici_init_writes_runs_as_it_is(stack: Stack, tmp_path: Path):
    """AU-129, AU-145: `kici init`, one commit, `kici run remote --workflow hello-world`."""
    desk = Desk(stack, tmp_path / "newcomer")
    desk.write("README.md", "# Newcomer\n")
    desk.kici("init", "--skip-install")
    desk.commit("Start with KiCI")
    code, report, shown = desk.remote("--workflow", "hello-world")
    assert (code, report["ok"]) == (0, True), shown
    (run,) = report["fixtures"][0]["runs"]
    assert [(job["name"], job["status"]) for job in run["jobs"]] == [
        ("inspect", "success"),
        ("greet", "success"),
    ]
    assert "Hello, Ada!" in shown


MORE = """
import asyncio
from pathlib import Path
from kici import Context, Init, dispatch, job, rule, step, workflow

LINUX = "kici:os:linux"


@step
async def tell(ctx: Context) -> None:
    value = await ctx.secrets.get("TOKEN")
    await ctx.sh('echo "the token is $value, $length long"', value=value, length=len(value))


@step
async def fail(ctx: Context) -> None:
    await ctx.sh("echo bad news; exit 7")


@step
async def count(ctx: Context) -> None:
    for number in range(1, 61):
        print("line", number, flush=True)
        await asyncio.sleep(0.1)


@step
async def linger(ctx: Context) -> None:
    print("lingering\\nfor long", flush=True)
    await asyncio.sleep(300)


async def look(ctx: Context) -> str | None:
    return "something differs"


@step(check=look, summarize=str)
async def change(ctx: Context, drift: str) -> None:
    raise AssertionError("nothing is changed in check mode")


def lonely(name, *steps, **options):
    only = job("only", runs_on=LINUX, steps=list(steps), **options)
    return workflow(name, on=dispatch(types=name), jobs=[only])


def before(ctx):
    print("hook before")


def after(ctx):
    print("hook after")


def talk(ctx):
    print("in a rule")
    return True


@step
async def first(ctx: Context) -> None:
    print("first")


@step(rules=[rule("talks", talk)])
async def second(ctx: Context) -> None:
    print("second")


secret = lonely("secret", tell)
failing = lonely("failing", fail)
counting = lonely("counting", count)
lingering = lonely("lingering", linger)
drifting = lonely("drifting", change)
rows = lonely("rows", first, second, init=Init(run="echo init"), before_step=before, after_step=after)
"""

FIXTURES = """
from kici import dispatch, fixture, push

a = fixture("a-hello", event=push(branches="main"), workflow="hello-world")
b = fixture("b-mapped", event=push(branches="main"), workflow="hello-world", secrets={"db": "test-database"})
c = fixture("c-failing", event=dispatch(types="failing"))
"""


def lines_of(shown: str, job: str) -> list[str]:
    return [line.partition("│ ")[2] for line in shown.splitlines() if line.startswith(f"{job} ")]


def test_every_fixture_is_reported(desk: Desk):
    """AU-128: rejected ones, too; in sequence up to the first failure, or all at once. AU-126: a mapping to an
    environment that does not exist rejects the run."""
    desk.write(".kici/workflows/more.py", MORE)
    desk.write(".kici/tests/events.py", FIXTURES)
    code, report, _ = desk.remote("--all", check=False)
    assert (code, report["ok"]) == (1, False)
    assert [(f["fixture"], f["status"], f["reason"]) for f in report["fixtures"]] == [
        ("a-hello", "accepted", None),
        ("b-mapped", "rejected", "environment_unknown"),
    ]
    assert "test-database" in report["fixtures"][1]["message"]
    assert [run["status"] for run in report["fixtures"][0]["runs"]] == ["success"]
    junit = desk.root / "out.xml"
    code, report, _ = desk.remote("*-*", "--parallel", "--junit", str(junit), check=False)
    assert code == 1
    assert {(f["fixture"], f["status"]) for f in report["fixtures"]} == {
        ("a-hello", "accepted"),
        ("b-mapped", "rejected"),
        ("c-failing", "accepted"),
    }, report
    failed = next(f for f in report["fixtures"] if f["fixture"] == "c-failing")["runs"][0]
    assert failed["jobs"][0]["steps"][-1]["exitCode"] == 7
    suites = {suite.get("name"): suite.get("failures") for suite in ET.parse(junit).getroot()}
    assert suites == {"hello-world": "0", "b-mapped": "1", "failing": "1"}


def test_what_cannot_start_uploads_nothing(desk: Desk, stack: Stack):
    """AU-123, AU-136: compile errors and names that nobody knows leave this machine in peace."""
    before = len(list((stack.data_dir / "orchestrator/store").rglob("overlays/*/*")))
    assert desk.kici("run", "remote", "--workflow", "nothing", check=False).returncode == 2
    assert desk.kici("run", "remote", "no-such-fixture", check=False).returncode == 2
    assert desk.kici("run", "remote", check=False).returncode == 2
    desk.write(".kici/workflows/hello.py", "import nothing_there\n")
    done = desk.kici("run", "remote", "--workflow", "hello-world", check=False)
    assert done.returncode == 2
    assert "nothing_there" in done.stderr
    assert len(list((stack.data_dir / "orchestrator/store").rglob("overlays/*/*"))) == before


@pytest.mark.parametrize(
    ("option", "named"),
    [("--approve-all", "--approve-all (approvals)"), ("--target=web-1", "--target (runs_on_all)")],
)
def test_what_the_server_lacks_is_said(desk: Desk, option: str, named: str):
    """AU-127, AU-142: hosts are not narrowed in silence; both versions are named, and who must upgrade."""
    done = desk.kici("run", "remote", "--workflow", "hello-world", option, check=False)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "does not offer" in line]
    assert named in line
    assert line.count("kici 0") == 2, line
    assert "its operator must upgrade it" in line


def test_there_are_no_approvals_to_give_yet(desk: Desk, stack: Stack):
    """AU-138, AU-142."""
    run_id = "01990000-0000-7000-8000-000000000000"
    for command in (("approve", run_id), ("reject", run_id, "--reason", "no")):
        done = desk.kici(*command, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        assert "does not offer approvals" in done.stderr
        assert done.stderr.count("kici 0") == 2
        assert "Its operator must upgrade" in done.stderr


def test_clusters_that_there_are_are_named(desk: Desk):
    """AU-123."""
    done = desk.kici("run", "remote", "--workflow", "hello-world", "--orchestrator", "north", check=False)
    assert "local" in done.stderr  # the clusters that there are
    assert done.returncode != 0


def test_secrets_travel_sealed_and_stay_masked(desk: Desk, stack: Stack):
    """AU-126: local files and --env, readable by the job alone."""
    desk.write(".kici/workflows/more.py", MORE)
    desk.write(".kici/.secrets", "TOKEN=from-the-file\n[prod]\nTOKEN=from-production\n")
    done = desk.kici("run", "remote", "--workflow", "secret")
    assert "the token is ***, 13 long" in done.stdout
    done = desk.kici("run", "remote", "--workflow", "secret", "--env", "TOKEN=swordfish-9000-x")
    assert "the token is ***, 16 long" in done.stdout
    found = subprocess.run(
        [
            "grep",
            "-rlsF",
            "swordfish-9000-x",
            *(stack.data_dir / name for name in ("logs", "orchestrator", "agents")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # files may vanish meanwhile: agents clean up behind jobs
    assert found.stdout == ""


def test_drift_has_its_own_exit_code(desk: Desk):
    """AU-136: 3 with --fail-on-drift; check mode changes nothing."""
    desk.write(".kici/workflows/more.py", MORE)
    code, report, _ = desk.remote("--workflow", "drifting", "--check")
    assert (code, report["fixtures"][0]["runs"][0]["drifted"]) == (0, True)
    code, _, _ = desk.remote("--workflow", "drifting", "--check", "--fail-on-drift", check=False)
    assert code == 3


NOWHERE = """
from kici import Context, dispatch, job, workflow


@job(runs_on="no-such-label")
async def nowhere(ctx: Context) -> None:
    ctx.log.info("never")


lost = workflow("lost", on=dispatch(), jobs=[nowhere])
"""


def test_a_run_that_cannot_begin_says_why(desk: Desk):
    """AU-123, AU-128: somebody who waits for labels that no agent has is told so, and may give up."""
    desk.write(".kici/workflows/more.py", NOWHERE)
    process = subprocess.Popen(
        [sys.executable, "-m", "kici.cli.main", "run", "remote", "--workflow", "lost"],
        cwd=desk.root,
        env={**desk.stack.environment, "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "nowhere waits: No connected agent fits: no-such-label\n":
                break
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert "cancelled in" in rest
    assert process.returncode == 130


def test_ctrl_c_cancels_and_the_second_lets_go(desk: Desk, stack: Stack):
    """AU-128."""
    desk.write(".kici/workflows/more.py", MORE)
    for times, status in ((1, "cancelled"), (2, None)):
        process = subprocess.Popen(
            [sys.executable, "-m", "kici.cli.main", "run", "remote", "--workflow", "lingering", "--json"],
            cwd=desk.root,
            env={**stack.environment, "CI": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        shown = ""
        for line in process.stdout:
            shown += line
            if "│ lingering" in line:
                break
        process.send_signal(signal.SIGINT)
        for line in process.stdout:
            shown += line
            if "Cancelling" in line:
                break
        if times == 2:
            process.send_signal(signal.SIGINT)
        with process.stdout as reader:  # not communicate(): it would miss what the reader holds already
            shown += reader.read()
        assert process.wait(timeout=60) == 130, shown
        document = json.loads(shown[shown.index("\n{\n") :])
        run_id = shown.partition("/runs/")[2].split()[0]
        assert document["interrupted"]
        assert [fixture["runIds"] for fixture in document["fixtures"]] == [[run_id]]
        if status is not None:
            assert stack.detail(run_id)["run"]["status"] == status
        else:
            assert f"the run goes on: {run_id}" in shown or "cancelled" in shown
            stack.wait_for_end(run_id)


def test_a_lost_connection_leaves_no_gap(desk: Desk, stack: Stack):
    """AU-128: the Platform is killed while lines come; every one is shown, once, in order."""
    desk.write(".kici/workflows/more.py", MORE)
    process = subprocess.Popen(
        [sys.executable, "-m", "kici.cli.main", "run", "remote", "--workflow", "counting"],
        cwd=desk.root,
        env={**stack.environment, "CI": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "│ line 5" in line:
            break
    killed = stack.kill("platform")
    with process.stdout as reader:  # not communicate(): it would miss what the reader holds already
        shown += reader.read()
    assert process.wait(timeout=100) == 0, shown
    assert "The connection is lost" in shown
    assert [line for line in lines_of(shown, "only") if line.startswith("line")] == [
        f"line {number}" for number in range(1, 61)
    ]
    stack.wait_back("platform", killed)
    eventually(lambda: stack.api("GET", "/orchestrators")["connected"], what="the orchestrator back")


def read_by_cursor(stack: Stack, run_id: str) -> list[str]:
    lines: list[str] = []
    done = False
    while not done:
        page = stack.api("GET", f"/test/runs/{run_id}/logs", params={"cursor": len(lines)})
        lines += page["lines"]
        assert page["nextCursor"] == len(lines)
        done = page["done"]
    return lines


def test_a_cursor_means_the_same_lines_for_ever(desk: Desk, stack: Stack):
    """AU-123: rows that are no steps come in between, and what was printed outside of steps last."""
    desk.write(".kici/workflows/more.py", MORE)
    for _ in range(5):
        _, report, _ = desk.remote("--workflow", "rows", "--no-wait")
        lines = read_by_cursor(stack, report["fixtures"][0]["runIds"][0])
        said = [
            "init",
            "hook before",
            "first",
            "hook after",
            "hook before",
            "second",
            "hook after",
            "in a rule",
        ]
        assert [line for line in lines if line in said] == said


def test_the_log_is_read_by_cursor(desk: Desk, stack: Stack):
    """AU-123: every line once, `done` with the last of them; then history knows the run."""
    desk.write(".kici/workflows/more.py", MORE)
    code, report, _ = desk.remote("--workflow", "counting", "--no-wait")
    assert (code, report["fixtures"][0]["runs"]) == (0, [])
    run_id = report["fixtures"][0]["urls"][0].rpartition("/")[2]
    lines = read_by_cursor(stack, run_id)
    assert [line for line in lines if line.startswith("line")] == [f"line {n}" for n in range(1, 61)]
    last = stack.api("GET", f"/test/runs/{run_id}/logs", params={"cursor": len(lines) - 3})
    assert last["lines"] == lines[-3:]
    view = stack.api("GET", f"/test/runs/{run_id}")
    assert (view["status"], view["done"]) == ("success", True)
    assert [(job["jobName"], job["status"]) for job in view["jobs"]] == [("only", "success")]
    history = json.loads(desk.kici("run", "remote", "--history", "--json").stdout)["runs"]
    assert history[0]["runId"] == run_id


def test_an_agent_refuses_a_changed_overlay(desk: Desk, stack: Stack):
    """AU-125: one byte of the stored working tree is changed before the agent fetches it."""
    known = set((stack.data_dir / "orchestrator/store").rglob("overlays/*/*"))
    agent = stack.kill("agent-1", signal.SIGSTOP)
    try:
        code, report, _ = desk.remote("--workflow", "hello-world", "--no-wait")
        assert code == 0
        (fresh,) = set((stack.data_dir / "orchestrator/store").rglob("overlays/*/*")) - known
        data = bytearray(fresh.read_bytes())
        assert b"uncommitted" not in data
        assert b"The first" not in data  # it is sealed
        data[len(data) // 2] ^= 1
        fresh.write_bytes(data)
    finally:
        os.kill(agent, signal.SIGCONT)
    run_id = report["fixtures"][0]["urls"][0].rpartition("/")[2]
    detail = stack.wait_for_end(run_id)
    assert detail["run"]["status"] == "failed"
    assert "overlay does not open" in json.dumps(detail)
    assert [
        s["stepName"] for job in detail["jobs"] for s in job["steps"] if s["stepIndex"] >= 0
    ] == [] or all(
        s["status"] in {"skipped", "pending", "cancelled"}
        for job in detail["jobs"]
        for s in job["steps"]
        if s["stepIndex"] >= 0
    )


def test_nobody_signed_in_and_nobody_there(desk: Desk, tmp_path: Path):
    """AU-136: 4 without a sign-in, 5 when the server does not answer."""
    for environment, code in (
        ({"KICI_CONFIG_DIR": str(tmp_path / "none"), "XDG_DATA_HOME": str(tmp_path), "HOME": str(tmp_path),
          "KICI_PLATFORM_URL": "http://127.0.0.1:9"}, 4),
        ({"KICI_PLATFORM_URL": "http://127.0.0.1:9", "KICI_TOKEN": "kici_pat_x"}, 5),
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "kici.cli.main", "run", "remote", "--workflow", "hello-world"],
            cwd=desk.root,
            env={**desk.stack.environment, **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
