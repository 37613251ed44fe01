"""What steps of a local run may ask for: secrets, caches, events, approvals (AU-114, AU-115)."""

from pathlib import Path

import pytest

from tests.process.local.project import Project

pytestmark = pytest.mark.process

SECRETS = """
@job(runs_on=LINUX)
async def plain(ctx: Context) -> dict[str, str]:
    found = {name: await ctx.secrets.get(name) for name in await ctx.secrets.list()}
    print("all of them:", *found.values())
    return {name: value[::-1] for name, value in found.items()}

@job(runs_on=LINUX, environment="staging")
async def staging(ctx: Context) -> list[str]:
    meta = await ctx.secrets.get_meta("TOKEN")
    value = await ctx.secrets.get("TOKEN")
    ctx.set_env("TOKEN", "mine")
    print("locked:", "TOKEN" not in ctx.env, "on", ctx.host.platform)
    return [value[::-1], meta.backend, meta.scope, str(sorted(path.name for path in Path(".kici").iterdir()))]

@job(runs_on=LINUX)
async def wrong(ctx: Context) -> None:
    await ctx.secrets.get("NOWHERE")

@job(runs_on=LINUX)
async def makes(ctx: Context) -> None:
    await ctx.set_secret_output("MADE", "sesame-open")

@job(runs_on=LINUX, needs=[makes])
async def uses(ctx: Context) -> str:
    value = await ctx.secrets.get("MADE")
    print("it is", value)
    return value[::-1]

one = workflow("one", on=push(), jobs=[plain, staging])
two = workflow("two", on=push(), jobs=[wrong])
three = workflow("three", on=push(), jobs=[makes, uses])
"""


def write_secrets(project: Project) -> None:
    kici = project.root / ".kici"
    (kici / ".secrets").write_text("TOKEN=ini-default\nONLY='quoted value'\n[staging]\nTOKEN=ini-staging\n")
    (kici / ".env.local").write_text("export LOCAL=from-dotenv\n")
    (kici / "secrets.toml").write_text(
        '[staging]\nTOKEN = "toml-staging"\n[production]\nTOKEN = "toml-production"\n'
    )


def reverse(values: dict[str, str]) -> dict[str, str]:
    return {name: value[::-1] for name, value in values.items()}


def test_secrets_by_environment(project: Project) -> None:
    """AU-114: in their order, from the real `.kici`, never copied, masked everywhere. AU-55: no step sets one."""
    project.commit(SECRETS)
    write_secrets(project)
    run = project.only_run("--workflow", "one", "--env", "GIVEN=on-the-command-line", "--keep")
    assert reverse(run.output("plain")) == {
        "TOKEN": "ini-default", "ONLY": "quoted value", "LOCAL": "from-dotenv", "GIVEN": "on-the-command-line",
    }  # fmt: skip
    token, backend, scope, files = run.output("staging")
    assert (token[::-1], backend, scope) == ("toml-staging", ".kici/secrets.toml", "staging")
    assert files == "['workflows']"
    for report in (run.jobs["plain"], run.jobs["staging"]):
        assert not (Path(report["workspace"]) / ".kici" / ".secrets").exists()
    assert sorted(run.jobs["plain"]["steps"][0]["secretsAccessed"]) == ["GIVEN", "LOCAL", "ONLY", "TOKEN"]
    done = project.run("--workflow", "one", "--context", "production")
    assert "all of them: *** *** ***" in done.stdout
    assert "locked: True on linux" in done.stdout
    run = project.only_run("--workflow", "one", "--context", "production")
    assert reverse(run.output("plain"))["TOKEN"] == "toml-production"
    assert run.output("staging")[0][::-1] == "toml-staging"  # never another environment's value


def test_a_secret_that_is_not_there(project: Project) -> None:
    """AU-114: the error lists the names there are."""
    project.commit(SECRETS)
    write_secrets(project)
    run = project.only_run("--workflow", "two", code=1)
    message = run.jobs["wrong"]["errorMessage"]
    assert "SecretNotFoundError" in message
    assert "LOCAL, ONLY, TOKEN" in message
    for options, why in (
        (("--context", "nowhere"), "--context nowhere: contexts: production, staging"),
        (("--env", "KEY"), "write KEY=value"),
    ):
        done = project.run("--workflow", "two", *options)
        assert (done.returncode, why in done.stderr) == (2, True), done.stderr
    (project.root / ".kici" / ".secrets").write_text("no equals sign\n")
    done = project.run("--workflow", "two")
    assert (done.returncode, ".kici/.secrets:1" in done.stderr) == (2, True)
    assert "no equals sign" not in done.stderr


def test_secret_outputs_reach_dependants_only_as_secrets(project: Project) -> None:
    """AU-114, AU-26."""
    project.commit(SECRETS)
    done = project.run("--workflow", "three")
    assert "it is ***" in done.stdout
    run = project.only_run("--workflow", "three")
    assert run.output("uses")[::-1] == "sesame-open"
    assert run.jobs["makes"]["secretOutputs"] == ["MADE"]


CACHED = """
@job(runs_on=LINUX, cache=Cache(key=cache_key("deps", files=["lock.txt"]), paths=["deps"], restore_keys=["deps-"]))
async def build(ctx: Context) -> str:
    found = Path("deps/made").read_text() if Path("deps/made").exists() else "nothing"
    Path("deps").mkdir(exist_ok=True)
    Path("deps/made").write_text(f"from {Path('lock.txt').read_text()}")
    return found

ci = workflow("ci", on=push(), jobs=[build])
"""


def test_caches_stay_on_this_machine(project: Project) -> None:
    """AU-58, AU-115."""
    (project.root / "lock.txt").write_text("1")
    project.commit(CACHED)
    assert project.only_run().output("build") == "nothing"
    run = project.only_run()
    assert run.output("build") == "from 1"
    assert run.jobs["build"]["steps"][0]["type"] == "cache:restore"
    (project.root / "lock.txt").write_text("2")
    assert project.only_run().output("build") == "from 1"  # by prefix, newest first
    assert project.only_run().output("build") == "from 2"


EMITTING = """
@job(runs_on=LINUX)
async def tell(ctx: Context) -> None:
    await ctx.emit("deployed", {"env": "prod"})
    try:
        await ctx.emit("huge", {"text": "x" * 300_000})
    except EventRejectedError as error:
        print("refused:", error)

@job(runs_on=LINUX)
async def hear(ctx: Context) -> None: ...

ci = workflow("ci", on=push(), jobs=[tell])
listener = workflow("listener", on=kici_event("deployed", match={"$.env": "prod"}), jobs=[hear])
deaf = workflow("deaf", on=kici_event("deployed", match={"$.env": "dev"}), jobs=[hear])
"""


def test_events_are_told_and_not_sent(project: Project) -> None:
    """AU-86, AU-115."""
    project.commit(EMITTING)
    run = project.only_run()
    (event,) = run.document["events"]
    assert (event["job"], event["name"], event["payload"]) == ("tell", "deployed", {"env": "prod"})
    assert event["wouldStart"] == ["listener"]
    done = project.run()
    assert "a local run sends no events; it would start listener" in done.stdout
    assert "refused: " in done.stdout


APPROVED = """
@job(runs_on=LINUX, approval=Approval(approvers=[team("ops")], reason="touches production"))
async def deploy(ctx: Context) -> None: ...

@step(approval=True)
async def careful(ctx: Context) -> None: ...

steps = job("steps", runs_on=LINUX, steps=[careful])
ci = workflow("ci", on=push(), jobs=[deploy])
inner = workflow("inner", on=push(), jobs=[steps])
"""


def test_approvals_need_a_terminal_or_yes(project: Project) -> None:
    """AU-60, AU-115."""
    project.commit(APPROVED)
    for name, job in (("ci", "deploy"), ("inner", "steps")):
        run = project.only_run("--workflow", name, code=1)
        assert "it needs a terminal to ask on, or --yes" in run.jobs[job]["errorMessage"]
        assert project.only_run("--workflow", name, "--yes").statuses() == {job: "success"}


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1)])
def test_approvals_are_asked_for_on_a_terminal(project: Project, answer: str, code: int) -> None:
    """AU-115, AU-117: with the reason and who would be asked; running jobs have moving lines."""
    project.commit(APPROVED)
    got, shown = project.on_terminal("Approve? [y/N]", answer, "run", "local", "push", "--workflow", "ci")
    assert got == code, shown
    assert "deploy needs approval by team ops" in shown
    assert "touches production" in shown
    assert ("success in" if code == 0 else "you said no") in shown


ELSEWHERE = """
@job(runs_on=LINUX)
async def hosts(ctx: Context) -> list[str]:
    found = await ctx.kici.inventory.query("kici:os:linux")
    none = await ctx.kici.inventory.query("kici:os:windows")
    return [found[0].agent_id, found[0].platform, str(len(none))]

@job(runs_on=LINUX)
async def token(ctx: Context) -> None:
    await ctx.kici.oidc.token(audience="aws")

ci = workflow("ci", on=push(), jobs=[hosts, token])
"""


def test_the_inventory_is_this_host_and_tokens_are_not_here(project: Project) -> None:
    """AU-115."""
    import socket

    project.commit(ELSEWHERE)
    run = project.only_run("--keep-going", code=1)
    assert run.output("hosts") == [socket.gethostname(), "linux", "0"]
    assert "NotAvailableLocallyError" in run.jobs["token"]["errorMessage"]
