"""Steps that look before they change, steps that wait, and what a check run leaves alone (AU-48…51)."""

import json

import pytest

from kici.spec.states import JobStatus
from tests.process.runner.builders import Host, Repo, run

pytestmark = pytest.mark.process

WEB = """
HAS = Path("motd")

async def look(ctx: Context) -> str | None:
    print("looking in", ctx.check_mode)
    return None if HAS.exists() else "motd is missing"

def told(ctx: HookContext) -> None:
    print(ctx.outcome.status)

@step(check=look, summarize=lambda drift: f"- {drift}\\n- a secret", when_in_sync=lambda ctx: "there")
async def motd(ctx: Context, drift: str) -> str:
    HAS.write_text("hello")
    return "made"

@step
async def plain(ctx: Context) -> None:
    print("plain ran", ctx.check_mode)

jobs = [job("j", runs_on=LINUX, steps=[motd, plain], before_step=told, after_step=told, cleanup=told,
            on_success=told, on_failure=told, cache=Cache(key="k", paths=["motd"]))]
"""


async def test_apply_changes_only_what_differs(repo: Repo) -> None:
    """AU-48, AU-50: the summary is logged and stored, masked; in sync, `when_in_sync` gives the output."""
    repo.write(WEB)
    result, seen = await run(repo, "j", secrets=["secret"])
    end = seen.end("motd")
    assert (end.status, end.check_outcome, end.output) == ("success", "applied", "made")
    assert end.drift_summary == "- motd is missing\n- a ***"
    assert seen.text(0) == "looking in apply\nChanging:\n- motd is missing\n- a ***\n"
    assert (result.status, result.drifted) == (JobStatus.SUCCESS, False)
    result, seen = await run(repo, "j")
    end = seen.end("motd")
    assert (end.status, end.check_outcome, end.output) == ("skipped", "in_sync", "there")
    assert end.drift_summary is None
    assert result.outputs == {"motd": "there"}
    assert seen.end("plain").check_outcome is None


@pytest.mark.parametrize("mode", ["check", "check-fail-on-drift"])
async def test_check_mode_changes_nothing(repo: Repo, mode: str) -> None:
    """AU-48, AU-49: no apply, no plain step, no cache saved; of hooks only before, after and cleanup."""
    repo.write(WEB)
    host = Host(repo.root.parent)
    result, seen = await run(repo, "j", check_mode=mode, services=host)
    assert not (repo.root / "motd").exists()
    assert (seen.end("motd").status, seen.end("motd").check_outcome) == ("success", "would_change")
    assert seen.end("motd").drift_summary == "- motd is missing\n- a secret"
    assert (seen.end("plain").status, seen.end("plain").check_outcome) == ("skipped", "no_check")
    assert host.methods() == ["cache.restore"]
    kinds = [row.step_type for row in seen.starts]
    assert kinds == ["cache:restore", "hook:beforeStep", "step", "hook:afterStep", "hook:cleanup"]
    assert result.drifted
    if mode == "check":
        assert result.status == JobStatus.SUCCESS
    else:
        assert (result.status, result.error_message) == (
            JobStatus.FAILED,
            "drift found: 'motd' would change",
        )
        assert seen.text(seen.starts[-1].step_index) == "failed\n"
    (repo.root / "motd").write_text("x")
    result, seen = await run(repo, "j", check_mode=mode, services=host)
    assert (result.status, result.drifted) == (JobStatus.SUCCESS, False)
    assert seen.end("motd").check_outcome == "in_sync"


async def test_check_functions_cannot_leak_effects(repo: Repo) -> None:
    """AU-49: emit, secret outputs, cache saves and reboots are only spoken of; `idempotent` applies nothing."""
    repo.write(
        """
async def look(ctx: Context) -> None:
    sent = await ctx.emit("deployed", {"env": "prod"})
    await ctx.set_secret_output("TOKEN", "abcdef")
    saved = await ctx.cache.save(Cache(key="k", paths=["motd"]))
    await ctx.kici.host.request_reboot()
    async def differs(): return "differs"
    async def change(drift): raise AssertionError("applied in check mode")
    outcome = await idempotent("inner", check=differs, apply=change, summarize=str.upper)
    print(repr(sent.id), saved, outcome.applied)

@step(check=look, summarize=str)
async def quiet(ctx: Context, drift: str) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[quiet])]
"""
    )
    host = Host(repo.root.parent)
    result, seen = await run(repo, "j", check_mode="check", services=host)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert host.asked == []
    log = seen.text(0)
    assert log.count("check mode: ") == 4
    assert "inner: would change: DIFFERS\n'' False False\n" in log


async def test_a_broken_check_fails_the_step_and_may_be_retried(repo: Repo) -> None:
    """AU-30, AU-48."""
    repo.write(
        """
async def look(ctx: Context) -> str | None:
    if ctx.step.attempt == 1:
        raise ConnectionError("not yet")
    return "old"
@step(check=look, summarize=lambda drift: drift, retry=Retry(attempts=2, delay="1ms"), timeout="20s")
async def steady(ctx: Context, drift: str, *, suffix: str) -> str:
    return drift + suffix
def wrong(drift): raise RuntimeError("cannot say")
@step(check=look, summarize=wrong, retry=Retry(attempts=2, delay="1ms"))
async def mute(ctx: Context, drift: str) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[steady.bind(suffix="!"), mute])]
"""
    )
    result, seen = await run(repo, "j")
    assert result.outputs == {"steady": "old!"}
    assert str(seen.end("mute").error_message).startswith("RuntimeError: cannot say")


async def test_approval_of_drift(repo: Repo) -> None:
    """AU-60: asked with the drift before anything changes; a rejection fails the step and is not retried."""
    repo.write(
        """
@step(check=lambda ctx: "disk full", summarize=str, retry=3,
      approval=Approval(approvers=[team("sre"), user("ada")], reason="prod", when="drift", timeout="1h"))
async def grow(ctx: Context, drift: str) -> None:
    print("grown")
@step(approval=True)
async def ship(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[grow]), job("k", runs_on=LINUX, steps=[ship])]
"""
    )
    host = Host(repo.root.parent, approval_request={"outcome": "rejected", "reason": "not today"})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.FAILED
    assert "approval: rejected (not today)" in str(result.error_message)
    assert "grown" not in seen.text(0)
    assert len(host.asked) == 1
    assert host.asked[0][1] == {
        "stepIndex": 0,
        "stepName": "grow",
        "clauses": [{"team": "sre"}, {"user": "ada"}],
        "reason": "prod",
        "timeoutMs": 3_600_000,
        "drift": "disk full",
    }
    host = Host(repo.root.parent, approval_request={"outcome": "approved", "reason": ""})
    result, seen = await run(repo, "j", services=host)
    assert (result.status, seen.end("grow").check_outcome) == (JobStatus.SUCCESS, "applied")
    result, _seen = await run(repo, "k", services=host)
    assert result.status == JobStatus.SUCCESS
    assert json.dumps(host.asked[-1][1]["clauses"]) == "[]"


async def test_what_a_check_exports_is_taken_over_once(repo: Repo) -> None:
    """AU-69: also when approval parts looking from changing; in a check run there is no output to read."""
    repo.write(
        """
async def look(ctx: Context) -> str:
    await ctx.sh('echo "SEEN=1" >> "$KICI_ENV"; echo /from/check >> "$KICI_PATH"')
    return "old"
@step(check=look, summarize=str, approval=Approval(when="drift"))
async def change(ctx: Context, drift: str) -> str:
    ctx.set_env("SEEN", "2")
    return "new"
async def reads(ctx: Context) -> str | None:
    return ctx.outputs_of(change) + ctx.env["SEEN"] + str(ctx.env["PATH"].split(":").count("/from/check"))
@step(check=reads, summarize=str)
async def after(ctx: Context, drift: str) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[change, after])]
"""
    )
    host = Host(repo.root.parent, approval_request={"outcome": "approved"})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.end("after").drift_summary == "new21"
    result, _seen = await run(repo, "j", check_mode="check")
    assert "step 'change' has no output: a check run changes nothing" in str(result.error_message)


async def test_steps_that_wait(repo: Repo) -> None:
    """AU-50: the first value that is not None counts, False too; a hanging check is cut off at the deadline."""
    repo.write(
        """
tries = []
async def up(ctx: Context) -> bool | None:
    tries.append(1)
    if len(tries) < 3:
        raise ConnectionError("down")
    return False
async def hangs(ctx: Context) -> None:
    await ctx.sh("sleep 1000")
async def give_up(late: WaitForTimeoutError) -> str:
    return f"{late.name}: {late.attempts}"
def blocks(ctx: SyncContext) -> None:
    ctx.sh("sleep 1000")

ready = wait_for_step("ready", up, interval="1ms")
rescued = wait_for_step("rescued", hangs, timeout="200ms", on_timeout=give_up)
late = wait_for_step("late", blocks, timeout="200ms")
jobs = [job("j", runs_on=LINUX, steps=[ready, rescued, late])]
"""
    )
    result, seen = await run(repo, "j")
    assert result.outputs == {"ready": False, "rescued": "rescued: 1"}
    assert "WaitForTimeoutError: 'late' was not ready after" in str(seen.end("late").error_message)
    _result, seen = await run(repo, "j", check_mode="check")
    assert {end.check_outcome for end in seen.ends.values()} == {"no_check"}


@pytest.mark.parametrize(
    ("is_local", "error"), [(True, "NotAvailableLocallyError"), (False, "CapabilityMissingError")]
)
async def test_nobody_restarts_hosts_yet(repo: Repo, is_local: bool, error: str) -> None:
    """AU-51, AU-115: never silently."""
    repo.write("jobs = [job('j', runs_on=LINUX, steps=[restart_host()])]")
    result, _seen = await run(repo, "j", is_local=is_local)
    assert result.status == JobStatus.FAILED
    assert error in str(result.error_message)
