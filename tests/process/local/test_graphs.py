"""The whole graph of a workflow in a local run: as a server would run it (AU-110)."""

from pathlib import Path

import pytest

from tests.process.local.project import Project

pytestmark = pytest.mark.process

GROWING = """
@step
async def scan(ctx: Context, *, target: str) -> str:
    return f"scanned {target}"

@job(runs_on=LINUX)
async def discover(ctx: Context) -> list[str]:
    return ["a", "b"]

@dynamic_jobs("reports", needs=[discover])
async def reports(g: GenerateContext) -> list[MultiJob]:
    print("for", g.event.target_branch)
    return [job(f"report-{t}", runs_on=LINUX, steps=[scan.bind(target=t)]) for t in g.job_outputs(discover)]

def combinations(g: GenerateContext) -> dict[str, list[str]]:
    return {"letter": g.job_outputs(discover), "size": ["s", "m"]}

@job(runs_on=LINUX, needs=[discover], matrix=combinations, exclude=[{"letter": "b", "size": "m"}])
async def test(ctx: Context, *, letter: str, size: str) -> dict[str, str]:
    return {letter + size: f"{ctx.fanout.index} of {ctx.fanout.total}"}

@job(runs_on=LINUX, needs=[reports, test])
async def after(ctx: Context) -> list[str]:
    found = [f"{each.name}: {each.status}" for each in ctx.needs["reports"]]
    return sorted(ctx.matrix_outputs(test).merged) + found

ci = workflow("ci", on=push(), jobs=[discover, reports, test, after])
"""


def test_matrices_and_jobs_made_at_run_time(project: Project) -> None:
    """AU-40, AU-43, AU-44, AU-45, AU-110."""
    project.commit(GROWING)
    done = project.run()
    assert done.returncode == 0, done.stderr
    assert "Evaluate: reports │ for main\n" in done.stdout
    run = project.only_run()
    assert run.statuses() == {
        "discover": "success", "Evaluate: reports": "success", "Init: test": "success",
        "report-a": "success", "report-b": "success", "after": "success",
        "test (a, s)": "success", "test (a, m)": "success", "test (b, s)": "success",
    }  # fmt: skip
    assert run.output("test (b, s)") == {"bs": "2 of 3"}
    assert run.output("report-b") == "scanned b"
    assert run.output("after") == ["am", "as", "bs", "report-a: success", "report-b: success"]
    assert [job["kind"] for job in run.document["jobs"] if job["kind"] != "job"] == ["init", "dynamic"]


def test_parts_of_what_is_made_at_run_time(project: Project) -> None:
    """AU-110: `--job` and `--matrix` reach generated jobs and run-time matrices."""
    project.commit(GROWING)
    run = project.only_run("--job", "report-b")
    assert run.statuses() == {
        "discover": "success", "Evaluate: reports": "success", "report-a": "skipped", "report-b": "success",
    }  # fmt: skip
    run = project.only_run("--job", "test", "--matrix", "size=m")
    assert run.statuses() == {"discover": "success", "Init: test": "success", "test (a, m)": "success"}
    assert set(project.only_run("--job", "reports").jobs) == {
        "discover", "Evaluate: reports", "report-a", "report-b",
    }  # fmt: skip


FAILING = """
@step
async def nothing(ctx: Context) -> None: ...

@dynamic_jobs("clash")
async def clash(g: GenerateContext) -> list[MultiJob]:
    return [job("plain", runs_on=LINUX, steps=[nothing])]

@job(runs_on=LINUX, matrix=lambda g: [])
async def empty(ctx: Context) -> None: ...

def broken(event: Event) -> dict[str, str]:
    print("asked")
    raise ValueError("no variables")

@job(runs_on=LINUX, env=broken)
async def unset(ctx: Context) -> None: ...

@job(runs_on=LINUX, needs=[clash])
async def behind(ctx: Context) -> None: ...

@job(runs_on=LINUX)
async def plain(ctx: Context) -> None: ...

ci = workflow("ci", on=push(), jobs=[clash, empty, unset, behind, plain])
"""


def test_what_cannot_join_the_run_fails_with_its_reason(project: Project) -> None:
    """AU-40, AU-41, AU-42, AU-45."""
    project.commit(FAILING)
    run = project.only_run("--keep-going", code=1)
    messages = {title: job["errorMessage"] for title, job in run.jobs.items() if job["errorMessage"]}
    assert "already" in messages["Evaluate: clash"]
    assert "Matrix expansion failed" in messages["empty"]
    assert run.jobs["empty"]["failureCategory"] == "matrix_expansion"
    assert "no variables" in messages["unset"]
    assert run.jobs["unset"]["failureCategory"] == "dynamic_eval"
    assert run.statuses()["behind"] == "skipped"
    assert run.statuses()["plain"] == "success"


RULES = """
@step(rules=[rule("by hand", lambda ctx: False)])
async def left_out(ctx: Context) -> None: ...

@step
async def done(ctx: Context) -> None: ...

async def impure(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo yes")).text == "no"

async def raises(ctx: RuleContext) -> bool:
    raise ValueError("cannot tell")

on_main = rule("on main", lambda ctx: ctx.event.target_branch == "main")
first = job("first", runs_on=LINUX, steps=[left_out, done], rules=[on_main])
pure = job("pure", runs_on=LINUX, steps=[done], rules=[on_main, skip("never", lambda ctx: True)])
asked = job("asked", runs_on=LINUX, steps=[done], rules=[on_main, rule("asked", impure)])
wrong = job("wrong", runs_on=LINUX, steps=[done], rules=[rule("wrong", raises)])
then = job("then", runs_on=LINUX, steps=[done], needs=[need(pure, when="on-skip")])

ci = workflow("ci", on=push(), jobs=[first, pure, asked, wrong, then])
guarded = workflow("guarded", on=push(), jobs=[first], rules=[rule("elsewhere", lambda ctx: ctx.event.target_branch == "x")])
asking = workflow("asking", on=push(), jobs=[first], rules=[rule("asked", impure)])
"""


def test_rules_of_jobs_and_steps(project: Project) -> None:
    """AU-24, AU-34, AU-41."""
    project.commit(RULES)
    run = project.only_run("--workflow", "ci", "--keep-going", code=1)
    assert run.statuses() == {
        "first": "success", "pure": "skipped", "asked": "skipped", "wrong": "failed", "then": "success",
    }  # fmt: skip
    assert [step["status"] for step in run.jobs["first"]["steps"]] == ["skipped", "success"]
    assert [(r["label"], r["passed"]) for r in run.jobs["pure"]["rules"]] == [
        ("on main", True),
        ("never", False),
    ]
    assert [(r["label"], r["passed"]) for r in run.jobs["asked"]["rules"]] == [
        ("on main", True),
        ("asked", False),
    ]
    assert "rule 'wrong' failed" in run.jobs["wrong"]["errorMessage"]


@pytest.mark.parametrize("name", ["guarded", "asking"])
def test_rules_of_the_workflow(project: Project, name: str) -> None:
    """AU-34: decided before anything runs, or by a setup row when they are author code."""
    project.commit(RULES)
    run = project.only_run("--workflow", name)
    assert run.status == "skipped"
    assert run.statuses().get("first") == (None if name == "guarded" else "skipped")
    assert [rule["passed"] for rule in run.document["rules"]] == [False]


HOOKS = """
async def note(ctx: HookContext) -> None:
    print("ended as", ctx.outcome.status, "because of", ctx.outcome.reason)

async def cleans(ctx: HookContext) -> None:
    print("cleaning")

@job(runs_on=LINUX)
async def fine(ctx: Context) -> None: ...

@job(runs_on=LINUX)
async def bad(ctx: Context) -> None:
    raise ValueError("broken")

good = workflow("good", on=push(), jobs=[fine], on_success=note, on_failure=cleans, cleanup=cleans)
poor = workflow("poor", on=push(), jobs=[bad], on_success=cleans, on_failure=note)
unused = workflow("unused", on=push(), jobs=[fine], on_failure=note)
"""


def test_hooks_of_the_workflow_run_when_all_has_ended(project: Project) -> None:
    """AU-33."""
    project.commit(HOOKS)
    done = project.run("--workflow", "good")
    assert "Hooks: good │ ended as success because of None" in done.stdout
    assert "Hooks: good │ cleaning" in done.stdout
    done = project.run("--workflow", "poor")
    assert done.returncode == 1
    assert "Hooks: poor │ ended as failed because of step 'bad' failed: ValueError: broken" in done.stdout
    assert "cleaning" not in done.stdout
    assert project.only_run("--workflow", "unused").statuses()["Hooks: unused"] == "skipped"


PARTS = """
@step
async def one(ctx: Context) -> None: ...

@step
async def two(ctx: Context) -> None: ...

@step
async def three(ctx: Context) -> None: ...

base = job("base", runs_on=LINUX, steps=[one])
many = job("many", runs_on=LINUX, needs=[base], steps=[one, parallel(two, three, name="both")])

@job(runs_on=LINUX, matrix={"os": ["linux", "mac"], "n": [1, 2]}, include=[{"os": "linux", "n": 9}])
async def grid(ctx: Context, *, os: str, n: int) -> str:
    return f"{os} {n}"

async def cleans(ctx: HookContext) -> None: ...

ci = workflow("ci", on=push(), jobs=[base, many, grid], cleanup=cleans)
"""


def test_one_step_and_some_combinations(project: Project) -> None:
    """AU-110."""
    project.commit(PARTS)
    run = project.only_run("--step", "three")
    assert {title: [s["status"] for s in job["steps"]] for title, job in run.jobs.items()} == {
        "base": ["success"],
        "many": ["skipped", "skipped", "success"],
    }
    run = project.only_run("--job", "grid", "--matrix", "os=linux", "--matrix", "n=9")
    assert list(run.jobs) == ["grid (linux, 9)"]
    run = project.only_run("--matrix", "os=mac")
    assert list(run.jobs) == ["base", "many", "grid (mac, 1)", "grid (mac, 2)", "Hooks: ci"]
    for options, why in (
        (("--matrix", "os=bsd", "--job", "grid"), "no job 'grid' with combination os=bsd"),
        (("--step", "four"), "no step 'four'"),
        (("--matrix", "os"), "write KEY=VALUE"),
    ):
        done = project.run(*options)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    done = project.run("--job", "base")
    assert "Hooks of the workflow are left out" in done.stdout


CHECKED = """
async def look(ctx: Context) -> str | None:
    return None if Path(STATE).exists() else f"{STATE} is missing"

@step(check=look, summarize=lambda drift: f"- {drift}")
async def make(ctx: Context, drift: str) -> None:
    Path(STATE).touch()

@step
async def plain(ctx: Context) -> None: ...

keep = job("keep", runs_on=LINUX, steps=[make, plain])
ci = workflow("ci", on=push(), jobs=[keep])
"""


def test_check_mode_changes_nothing(project: Project, tmp_path: Path) -> None:
    """AU-48, AU-49, AU-136."""
    state = tmp_path / "state"
    project.commit(f"STATE = {str(state)!r}\n" + CHECKED)

    def outcomes(*options: str, code: int = 0) -> list[str]:
        run = project.only_run(*options, code=code)
        return [step["checkOutcome"] for step in run.jobs["keep"]["steps"]]

    assert outcomes("--check") == ["would_change", "no_check"]
    assert outcomes("--check", "--fail-on-drift", code=3)[0] == "would_change"
    assert not state.exists()
    assert outcomes() == ["applied", None]
    assert state.exists()
    assert outcomes("--check", "--fail-on-drift")[0] == "in_sync"
    done = project.run("--fail-on-drift")
    assert (done.returncode, "--fail-on-drift goes with --check" in done.stderr) == (2, True)


ENVIRONMENTS = """
@job(runs_on=LINUX, environment=lambda event: "staging" if event.target_branch == "main" else "dev",
     env=lambda event: {"BRANCH": event.target_branch or ""})
async def deploy(ctx: Context) -> list[str]:
    return [ctx.environment or "", ctx.env["BRANCH"]]

@job(runs_on_all="kici:os:linux", resources={"memory": "2g"}, container="alpine:3")
async def everywhere(ctx: Context) -> None: ...

@job(runs_on="kici:os:windows", needs=[everywhere])
async def foreign(ctx: Context) -> list[str]:
    return sorted(ctx.host_outputs(everywhere).succeeded)

ci = workflow("ci", on=push(), jobs=[deploy, everywhere, foreign],
              registries=[Registry(url="https://pypi.example.org/simple", token_secret="ci:TOKEN")], install_env=["ci:KEY"])
"""


def test_nothing_that_differs_from_a_server_is_silent(project: Project) -> None:
    """AU-41, AU-54, AU-115: labels, hosts, containers and limits."""
    import socket

    host = socket.gethostname()
    project.commit(ENVIRONMENTS)
    done = project.run()
    assert done.returncode == 0, done.stdout
    assert "this machine is no windows" in done.stdout
    assert f"of them only this machine, {host}" in done.stdout
    assert "asks for the container alpine:3, and runs without: --container uses it" in done.stdout
    assert "its resource limits are not enforced here" in done.stdout
    assert "registries and install_env of ci: not used here" in done.stdout
    run = project.only_run()
    assert run.output("deploy") == ["staging", "main"]
    assert run.jobs["deploy"]["environments"] == ["staging"]
    assert run.jobs[f"everywhere ({host})"]["name"] == f"everywhere ({host})"
    assert run.output("foreign") == [host]


BLAMED = """
@step
async def nothing(ctx: Context) -> None: ...

async def raises(ctx: RuleContext) -> bool:
    raise ValueError("cannot tell")

@dynamic_jobs("services")
async def services(g: GenerateContext) -> list[MultiJob]:
    raise ValueError("no list of services")

@job(runs_on=LINUX)
async def dies(ctx: Context) -> None:
    os.kill(os.getpid(), 9)

wrong = job("wrong", runs_on=LINUX, steps=[nothing], rules=[rule("asked", raises)])

@job(runs_on=LINUX, matrix={"os": ["linux"], "python": ["3.12", "3.13"]}, needs=[dies])
async def test(ctx: Context, *, os: str, python: str) -> None: ...

ci = workflow("ci", on=push(), jobs=[services, dies, wrong, test])
"""


def test_the_end_of_the_tree_blames_every_failure(project: Project) -> None:
    """AU-117, AU-40: setup rows, runners that died and rules that raised, in sentences."""
    project.commit(BLAMED)
    shown = project.run("--keep-going", "--quiet").stdout
    assert "  generator 'services' failed: ValueError: no list of services (" in next(
        line for line in shown.splitlines() if "Evaluate: services" in line
    )
    assert "\n✗ dies › dies\n  the runner was killed by signal 9 (SIGKILL)\n" in shown
    assert "\n✗ wrong\n  rule 'asked' failed: ValueError: cannot tell (" in shown
    assert "○ test (linux, 3.12)  needs dies, which ended as failed" in shown
    assert "matrix 2 variants: os:linux, python:3.12; os:linux, python:3.13" in (
        project.kici("preview", "push").stdout
    )
