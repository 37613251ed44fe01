"""Fixtures, `kici preview`, `kici fixture`, and what a run leaves for programs (AU-117, AU-120, AU-121)."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from kici.cli.events import WORDS
from tests.process.local.project import Project

pytestmark = pytest.mark.process

WORKFLOWS = """
class Deploy(Inputs):
    target: str
    retries: int = 3

@job(runs_on=LINUX)
async def show(ctx: Context) -> dict[str, str]:
    return {"branch": ctx.event.target_branch or "", "type": ctx.event.type, "inputs": str(dict(ctx.dispatch_inputs))}

@job(runs_on=[LINUX, "!slow"], needs=[show], matrix={"os": ["a", "b"]}, environment="staging",
     rules=[rule("on main", lambda ctx: ctx.event.target_branch == "main"), skip("asked", lambda ctx: os.environ.get("NEVER") is not None)])
async def test(ctx: Context, *, os: str) -> None: ...

@job(runs_on=LINUX, description="never here", rules=[rule("elsewhere", lambda ctx: ctx.event.target_branch == "x")])
async def other(ctx: Context) -> None: ...

ci = workflow("ci", description="all checks", on=[push(branches="main"), dispatch(types="deploy", inputs=Deploy)], jobs=[show, test, other])
nightly = workflow("nightly", on=schedule(cron="0 2 * * *", description="every night"), jobs=[show])
release = workflow("release", on=push(branches="release/**"), jobs=[show], rules=[rule("no", lambda ctx: False)])
byhand = workflow("byhand", jobs=[show])
"""

FIXTURES = """
on_main = fixture("on-main", event=push(branches="main"), workflow="ci")
on_release = fixture("on-release", event=push(branches="release/**"), branch="release/7")
nobody = fixture("nobody", event=pr(target="main"))

@fixture("deploy", workflow="ci", inputs={"target": "eu"})
async def deploy() -> Trigger:
    return dispatch(types="deploy")
"""


def preview(project: Project, *arguments: str) -> dict[str, Any]:
    done = project.kici("preview", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_preview_shows_decisions_and_runs_nothing(project: Project) -> None:
    """AU-75, AU-120."""
    project.commit(WORKFLOWS)
    views = {view["name"]: view for view in preview(project, "push")["workflows"]}
    assert {name: view["matched"] for name, view in views.items()} == {
        "ci": True, "nightly": False, "release": False, "byhand": False,
    }  # fmt: skip
    assert views["ci"]["checks"][1] == {
        "check": "push[0].branches", "expected": "main", "actual": "main", "matched": True,
    }  # fmt: skip
    jobs = {job["name"]: job for job in views["ci"]["jobs"]}
    assert jobs["test"]["matrix"] == ["os:a", "os:b"]  # AU-40
    assert jobs["test"]["needs"] == [{"name": "show", "group": False, "runOn": ["success"]}]
    assert jobs["test"]["environments"] == ["staging"]
    assert jobs["test"]["runsOn"] == ["kici:os:linux", "!slow"]
    assert [(rule["label"], rule["passed"]) for rule in jobs["test"]["rules"]] == [
        ("on main", True),
        ("asked", None),
    ]
    assert (views["ci"]["description"], jobs["other"]["description"]) == ("all checks", "never here")
    assert (jobs["other"]["verdict"], jobs["other"]["message"]) == ("skip", "rule 'elsewhere' said no")
    assert project.kept() == []
    done = project.kici("preview", "push", "--branch", "release/1")
    assert done.returncode == 0
    assert "✗ push[0].branches: wanted main, got release/1" in done.stdout
    assert "→ no job runs: rule 'no' said no" in done.stdout
    assert project.kici("preview", "pr").returncode == 0  # starts nothing, and that is no error
    (view,) = preview(
        project, "dispatch:deploy", "--workflow", "ci", "--input", "target=eu", "--job", "show"
    )["workflows"]
    assert view["inputs"] == {"target": "eu", "retries": 3}
    assert [job["name"] for job in view["jobs"]] == ["show"]
    for arguments, why in (
        (("dispatch:deploy",), "input 'target' is missing"),
        (("push", "--job", "nope"), "there is no job 'nope' in ci"),
        (("pish",), "is no event and no fixture"),
    ):
        done = project.kici("preview", *arguments)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr


def test_without_an_event_the_events_are_listed(project: Project) -> None:
    """AU-120."""
    project.commit(WORKFLOWS)
    done = project.kici("preview")
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["push", "ci"], ["dispatch:deploy", "ci"], ["schedule:nightly", "nightly"], ["push", "release"],
        ["byhand", "has"],
    ]  # fmt: skip
    assert preview(project)["events"][2] == {
        "event": "schedule:nightly", "workflow": "nightly", "filters": "cron 0 2 * * *",
        "description": "every night",
    }  # fmt: skip


def test_fixtures_make_their_event(project: Project) -> None:
    """AU-121: by id or glob; what the command line says comes on top."""
    project.write(FIXTURES, name="tests/more/events.py")
    project.commit(WORKFLOWS)
    run = project.only_run(event="deploy")
    assert run.output("show") == {
        "branch": "main", "type": "dispatch", "inputs": "{'target': 'eu', 'retries': 3}",
    }  # fmt: skip
    run = project.only_run("--input", "target=us", event="deploy")
    assert "'us'" in run.output("show")["inputs"]
    report = project.report("--keep-going", event="on-*")
    assert [(entry["fixture"], entry["runs"][0]["workflow"]) for entry in report["fixtures"]] == [
        ("on-main", "ci"),
        ("on-release", "release"),
    ]
    report = project.report("--keep-going", event="[no]*", code=1)  # reported, though it starts nothing
    assert [(entry["fixture"], entry["ok"]) for entry in report["fixtures"]] == [
        ("on-main", True), ("on-release", True), ("nobody", False),
    ]  # fmt: skip
    assert preview(project, "on-release")["workflows"][2]["verdict"] == "skip"
    done = project.run(event="nowhere")
    assert (done.returncode, "fixtures: on-main, on-release, nobody, deploy" in done.stderr) == (2, True)


def test_the_event_of_a_workflow_without_an_event(project: Project) -> None:
    """AU-111: `--workflow` alone takes its first trigger; `--pick` lists them where nobody can choose."""
    project.commit(WORKFLOWS)
    project.git("checkout", "-qb", "topic")
    run = project.only_run("--workflow", "nightly", event=None)
    assert run.output("show")["type"] == "schedule"
    run = project.only_run("--workflow", "ci", event=None)
    assert run.output("show")["branch"] == "main"  # although another branch is checked out
    done = project.run("--pick", event=None)
    assert done.returncode == 2
    assert "1  ci: push  branches main\n" in done.stderr
    assert "3  nightly: schedule:nightly  cron 0 2 * * *\n" in done.stderr


def test_a_trigger_is_picked_from_a_list(project: Project) -> None:
    """AU-111: the trigger itself is handed over, whatever branch is checked out."""
    project.commit(WORKFLOWS)
    project.git("checkout", "-qb", "topic")
    code, shown = project.on_terminal("Which? ", "1\n", "run", "local", "--pick", "--job", "show")
    assert code == 0, shown
    assert "Push to main matches main" in shown
    code, shown = project.on_terminal("Which? ", "7\n", "run", "local", "--pick")
    assert (code, "7 is none of 1 to 4" in shown) == (2, True)


def test_typed_inputs_on_the_command_line(project: Project) -> None:
    """AU-83."""
    project.commit(WORKFLOWS)
    done = project.run("--input", "target=eu", "--input", "retries=many", event="dispatch:deploy")
    assert (done.returncode, "input 'retries'" in done.stderr) == (2, True)
    done = project.run("--input", "x=1", event="push")
    assert (done.returncode, "input 'x' is not known" in done.stderr) == (2, True)
    run = project.only_run("--input", "target=eu", "--input", "retries=7", event="dispatch:deploy")
    assert run.output("show")["inputs"] == "{'target': 'eu', 'retries': 7}"


def test_a_payload_to_begin_with(project: Project, tmp_path: Path) -> None:
    """AU-121: what `kici fixture` writes is what `--payload` reads, and the stub compiles."""
    project.commit(WORKFLOWS)
    done = project.kici("fixture", "pr", "--output", str(tmp_path / "new" / "pr.json"))
    assert (done.returncode, "✓" in done.stdout) == (0, True), done.stderr
    payload = json.loads((tmp_path / "new" / "pr.json").read_text())
    assert payload["pull_request"]["base"]["ref"] == "main"
    payload["pull_request"]["base"]["ref"] = "elsewhere"
    (tmp_path / "pr.json").write_text(json.dumps(payload))
    shown = preview(project, "pr", "--payload", str(tmp_path / "pr.json"))
    assert shown["event"]["targetBranch"] == "elsewhere"
    assert project.kici("fixture", "pish").returncode == 2
    written = tmp_path / "pr.json"
    done = project.kici("fixture", "pr", "--output", str(written))
    assert (done.returncode, done.stderr) == (
        2,
        f"error: --output {written}: it exists; --force overwrites it\n",
    )
    assert json.loads(written.read_text()) == payload
    assert project.kici("fixture", "pr", "--output", str(written), "--force").returncode == 0
    assert json.loads(written.read_text()) != payload


def test_the_stub_of_every_word_is_a_fixture(project: Project) -> None:
    """AU-111, AU-121."""
    project.commit("""
@job(runs_on=LINUX)
async def show(ctx: Context) -> None: ...

ci = workflow("ci", on=[push(branches=["main", "!old"], paths="src/**"), schedule(cron="0 2 * * *"),
                        lifecycle(events="job_failed")], jobs=[show])
""")
    (project.root / ".kici" / "tests").mkdir()
    assert project.kici("compile").returncode == 0
    words: list[str] = []
    for word, (_, behind) in WORDS.items():
        words.append(word + (":anything" if behind.startswith(":") else ""))
        stub = project.root / ".kici" / "tests" / f"{word}.py"
        done = project.kici("fixture", words[-1], "--python", "--output", str(stub))
        assert done.returncode == 0, done.stderr
    shown = preview(project, "sample-*")
    assert len(shown["fixtures"]) == len(WORDS)


def test_what_a_run_leaves_for_programs(project: Project, tmp_path: Path) -> None:
    """AU-117, AU-137: JUnit and the history of local runs."""
    project.commit("""
@step(retry=2)
async def breaks(ctx: Context) -> None:
    await ctx.sh("echo '<oops>'; exit 4")

bad = job("bad", runs_on=LINUX, steps=[breaks])

@job(runs_on=LINUX, needs=[bad])
async def after(ctx: Context) -> None: ...

ci = workflow("ci", on=push(), jobs=[bad, after])
""")
    run = project.only_run("--junit", str(tmp_path / "out.xml"), code=1)
    assert run.jobs["bad"]["steps"][0]["attempts"] == 2
    suite = ET.parse(tmp_path / "out.xml").getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures"), suite.get("skipped")) == (
        "ci", "2", "1", "1",
    )  # fmt: skip
    case = suite[0]
    assert (case.get("classname"), case.get("name")) == ("bad", "breaks")
    assert "<oops>" in (case[0].text or "")
    (entry,) = (project.home / "history").glob("*.json")
    told = json.loads(entry.read_text())
    assert told["runId"] == run.document["runId"]
    assert (told["root"], told["event"], told["run"]["status"]) == (str(project.root), "push", "failed")
    assert told["run"]["jobs"][0]["steps"][0]["exitCode"] == 4
    assert entry.stat().st_mode & 0o077 == 0
    done = project.kici("runs", "show", told["runId"][:8])
    assert (done.returncode, "✗ bad › breaks, exit code 4" in done.stdout) == (1, True), done.stderr
    done = project.kici("runs", "show", told["runId"], "--json")
    assert json.loads(done.stdout)["run"] == told["run"]


UNBEGUN = """
@job(runs_on=LINUX)
async def show(ctx: Context) -> None: ...

@job(runs_on=LINUX, matrix=lambda g: [])
async def empty(ctx: Context) -> None: ...

async def raises(ctx: RuleContext) -> bool:
    raise ValueError("cannot tell")

guarded = workflow("guarded", on=push(branches="main"), jobs=[show], rules=[rule("pure", lambda ctx: 1 / 0)])
asking = workflow("asking", on=push(branches="main"), jobs=[show], rules=[rule("asked", raises)])
growing = workflow("growing", on=push(branches="main"), jobs=[empty])
"""
EVENTS = """
good = fixture("a-good", event=push(branches="other"))
bad = fixture("b-none", event=push(branches="nobody"))
"""


def test_whatever_fails_is_a_failing_case(project: Project, tmp_path: Path) -> None:
    """AU-117: programs count cases."""
    project.write(EVENTS, name="tests/events.py")
    project.commit(UNBEGUN + 'ci = workflow("ci", on=push(branches="other"), jobs=[show])\n')
    out = tmp_path / "out.xml"

    def failures(*options: str, event: str, code: int) -> dict[str, list[str]]:
        done = project.run("--junit", str(out), *options, event=event)
        assert done.returncode == code, done.stdout + done.stderr
        found: dict[str, list[str]] = {}
        for suite in ET.parse(out).getroot():
            messages = [failure.get("message", "") for failure in suite.iter("failure")]
            assert suite.get("failures") == str(len(messages))
            found[suite.get("name", "")] = messages
        out.unlink()
        return found

    (message,) = failures("--workflow", "guarded", event="push", code=1)["guarded"]
    assert message == "rule 'pure' failed: ZeroDivisionError: division by zero"
    (message, *_) = failures("--workflow", "asking", event="push", code=1)["asking"]
    assert "rule 'asked' failed: ValueError: cannot tell" in message
    (message, *_) = failures("--workflow", "growing", event="push", code=1)["growing"]
    assert message.startswith("Matrix expansion failed")
    assert failures("--job", "nope", event="push", code=2)["push"] != []
    assert failures("--matrix", "oops", event="push", code=2) == {
        "push": ["--matrix oops: write KEY=VALUE"]
    }
    assert failures("--keep-going", event="?-*", code=1) == {
        "ci": [], "b-none": ["no workflow starts on this event"],
    }  # fmt: skip
    project.write("import nowhere\n", name="workflows/other.py")
    assert failures(event="push", code=2) == {"push": ["the workflows do not compile"]}


def test_only_chosen_fixtures_stop_a_run(project: Project) -> None:
    """AU-121: E502 of another one is counted; compile tells of all."""
    project.write(
        """
good = fixture("good", event=push())

@fixture("boom")
def boom() -> PushEvent:
    raise ValueError("no network")
""",
        name="tests/events.py",
    )
    project.commit('@job(runs_on=LINUX)\nasync def a(ctx: Context) -> None: ...\n\n'
                   'ci = workflow("ci", on=push(), jobs=[a])\n')  # fmt: skip
    for event in ("push", "good", "g*"):
        done = project.run(event=event)
        assert done.returncode == 0, done.stderr
        assert "other fixtures of .kici/tests have 1 error" in done.stderr
        assert "E502" not in done.stderr
        assert project.kici("preview", event).returncode == 0
    for event in ("boom", "*"):
        done = project.run(event=event)
        assert done.returncode == 2
        assert "fixture 'boom' raised ValueError: no network" in done.stderr
    assert "E502" in project.kici("compile", "--check").stderr
    project.write("import nowhere\n\nx = fixture('x', event=push())\n", name="tests/broken.py")
    assert project.run(event="good").returncode == 0
    assert project.run(event="x").returncode == 2
