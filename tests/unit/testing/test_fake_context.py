"""A step is tested with a context that records commands and answers as told (AU-6, AU-122)."""

import asyncio
import gc
import re
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from kici import (
    Cache,
    CommandError,
    Completed,
    Context,
    EventPayload,
    EventRejectedError,
    Fanout,
    GenerateContext,
    HostFacts,
    Inputs,
    MultiJob,
    NeedResult,
    OutputError,
    PushEvent,
    SecretNotFoundError,
    Step,
    SyncContext,
    cache_key,
    dynamic_jobs,
    job,
    only_on_last_host,
    rule,
    step,
)
from kici.spec.states import JobStatus
from kici.testing import (
    Command,
    Emitted,
    FakeContext,
    FakeRuleContext,
    NotAwaitedError,
    UnexpectedCommand,
)


@step
async def build(ctx: Context) -> str:
    tag = (await ctx.sh("git describe --tags")).text
    await ctx.run("docker", "build", "a b", cwd="sub", env={"A": "b"}, input="x")
    await ctx.sh('docker push "$image"', image=f"registry/{tag}")
    return tag


package = job("package", runs_on="linux", steps=[build])


@job(runs_on="linux")
async def deploy(ctx: Context) -> dict[str, int]:
    return {"replicas": 3}


async def test_commands_are_recorded_and_answered() -> None:
    """AU-122: recorded commands, canned outputs; awaiting a step is an ordinary call."""
    ctx = FakeContext()
    ctx.answer("git describe*", "v1.2\n")

    assert await build(ctx) == "v1.2"
    assert [command.text for command in ctx.commands] == [
        "git describe --tags",
        "docker build 'a b'",
        'docker push "$image"',
    ]
    assert ctx.commands[1] == Command(
        text="docker build 'a b'", argv=("docker", "build", "a b"), cwd="sub", env={"A": "b"}, input="x"
    )
    assert ctx.commands[2].variables == {"image": "registry/v1.2"}


async def test_a_strict_context_names_what_nobody_expected() -> None:
    """AU-122"""
    ctx = FakeContext(strict=True)
    ctx.answer(re.compile("^git describe"), "v1")

    with pytest.raises(
        UnexpectedCommand, match=r"unexpected command \"docker build 'a b'\" .*/\^git describe/"
    ):
        await build(ctx)


async def test_answers_fail_like_commands_do() -> None:
    """AU-67, AU-122: a non-zero code raises CommandError unless check=False; later answers win."""
    ctx = FakeContext()
    ctx.answer("make", 0)
    ctx.answer("make", Completed(returncode=2, stdout="", stderr="line\nwrong", duration=0.1))
    ctx.answer("curl *", lambda command: f"got {command.text.removeprefix('curl ')}")

    with pytest.raises(CommandError) as failed:
        await ctx.sh("make")
    assert (failed.value.returncode, failed.value.stderr_tail) == (2, ("line", "wrong"))
    assert (await ctx.sh("make", check=False)).returncode == 2
    assert (await ctx.run("curl", "x")).text == "got x"


async def test_secrets_live_in_memory(tmp_path: Path) -> None:
    """AU-122: in-memory secrets; names that were read are kept."""
    ctx = FakeContext(secrets={"A": "1", "B": "2"}, tmp=tmp_path)

    assert await ctx.secrets.get("A") == "1"
    assert (await ctx.secrets.has("A"), await ctx.secrets.has("C")) == (True, False)
    assert await ctx.secrets.list() == ["A", "B"]
    assert (await ctx.secrets.get_meta("A")).backend == "memory"
    await ctx.secrets.expose("B", as_="OTHER")
    path = await ctx.secrets.expose_file("FILE", ["A", "B"], divider="\n", name="both")
    assert (ctx.env["OTHER"], ctx.env["FILE"], path.read_text()) == ("2", str(path), "1\n2")
    assert path.stat().st_mode & 0o777 == 0o600
    assert ctx.secrets.accessed == ["A", "B", "A", "B"]
    with pytest.raises(SecretNotFoundError, match="available: A, B"):
        await ctx.secrets.get("C")


async def test_outputs_are_what_the_test_gave() -> None:
    """AU-26, AU-122"""
    ctx = FakeContext()
    ctx.give_output(build, "v1")
    ctx.give_job(package, {build: "v2"})
    ctx.give_job(deploy, {"replicas": 1}, status="failed")

    assert ctx.outputs_of(build) == "v1"
    assert ctx.job_outputs(package).of(build) == "v2"
    assert ctx.job_outputs(deploy) == {"replicas": 1}
    assert ctx.need(deploy) == NeedResult(name="deploy", status=JobStatus.FAILED, result={"replicas": 1})
    assert set(ctx.needs) == {"package", "deploy"}


async def test_fan_outs_and_groups_are_what_the_test_gave() -> None:
    """AU-24, AU-26"""
    ctx = FakeContext()
    ctx.give_matrix(deploy, {"a": {"replicas": 1}, "b": {"replicas": 2, "x": 3}})
    ctx.give_group("reports", [NeedResult(name="r1", status=JobStatus.SUCCESS)])

    assert ctx.matrix_outputs(deploy).by_matrix["a"] == {"replicas": 1}
    assert ctx.matrix_outputs(deploy).merged == {"replicas": 2, "x": 3}
    children = ctx.needs["deploy"]
    assert isinstance(children, list)
    assert [child.name for child in children] == ["deploy (a)", "deploy (b)"]
    ctx.give_hosts(deploy, {"web-1": {"replicas": 5}}, failed=["web-2"])
    assert ctx.host_outputs(deploy).column("replicas") == {"web-1": 5}
    assert (ctx.host_outputs(deploy).succeeded, ctx.host_outputs(deploy).failed) == (["web-1"], ["web-2"])
    with pytest.raises(OutputError, match="group or a fan-out"):
        ctx.need("reports")


@pytest.mark.parametrize(
    ("ask", "remedy"),
    [
        (lambda ctx: ctx.outputs_of(build), "ctx.give_output"),
        (lambda ctx: ctx.job_outputs(package), "ctx.give_job"),
        (lambda ctx: ctx.matrix_outputs(package), "ctx.give_matrix"),
        (lambda ctx: ctx.host_outputs(package), "ctx.give_hosts"),
        (lambda ctx: ctx.need(deploy), "ctx.give_job"),
    ],
)
def test_what_nobody_gave_says_how_to_give_it(ask: object, remedy: str) -> None:
    """AU-122"""
    assert callable(ask)
    with pytest.raises(OutputError, match=remedy):
        ask(FakeContext())


async def test_effects_are_kept() -> None:
    """AU-122"""

    class Done(EventPayload, event="done"):
        env: str

    ctx = FakeContext(hosts=[HostFacts(host="b", agent_id="b", labels=("role:web",))])
    ctx.set_env("A", "b")
    ctx.add_path("bin")
    ctx.summary("# Done")
    ctx.annotate("warning", "unused", file="a.py", line=3)
    ctx.log.warning("%d left", 3)
    with ctx.log.group("part"):
        ctx.log.add_mask("x")
    await ctx.set_secret_output("token", "t")
    assert (await ctx.emit(Done(env="prod"), target_repos=["a/b"])).id == "delivery-1"
    await ctx.emit("plain", {"a": 1})
    await ctx.kici.host.request_reboot(deadline="5m")

    assert ctx.emitted == [
        Emitted(event="done", payload={"env": "prod"}, target_repos=("a/b",)),
        Emitted(event="plain", payload={"a": 1}),
    ]
    assert (ctx.env["A"], ctx.exported, ctx.added_paths) == ("b", {"A": "b"}, ["bin"])
    assert (ctx.summaries, ctx.annotations[0].line, ctx.secret_outputs) == (["# Done"], 3, {"token": "t"})
    assert [(line.level, line.text) for line in ctx.log.lines] == [("warning", "3 left"), ("group", "part")]
    assert ctx.kici.host.reboots == ["5m"]
    assert (await ctx.attest_provenance("w", digest="sha256:1")).subject_digest == "sha256:1"
    assert (await ctx.kici.oidc.token(audience="x")).expires_in == 600


@step
async def forgot(ctx: Context) -> None:
    ctx.sh("rm -r build", cwd="x")  # pyright: ignore[reportUnusedCoroutine]


@step
def forgot_in_a_thread(ctx: Context) -> None:
    ctx.secrets.get("A")  # pyright: ignore[reportUnusedCoroutine]


@step
async def takes_a_call_for_its_result(ctx: Context) -> str:
    return "yes" if ctx.secrets.has("A") else "no"  # pyright: ignore[reportUnnecessaryComparison]


@step
async def forgets_nothing(ctx: Context) -> None:
    one = ctx.sh("one")
    await asyncio.gather(one, ctx.run("two"), ctx.cache.save(Cache(key="k", paths=["x"])))
    ctx.sh("three").close()


@pytest.mark.parametrize(
    ("body", "call"),
    [
        (forgot, r"ctx\.sh\('rm -r build', cwd='x'\) at .*test_fake_context.py:\d+ was never awaited"),
        (forgot_in_a_thread, r"ctx\.secrets\.get\('A'\) at .*test_fake_context.py:\d+ was never"),
        (takes_a_call_for_its_result, r"ctx\.secrets\.has\('A'\) at .* Write `await` before it"),
    ],
)
async def test_a_forgotten_await_fails_the_test_as_it_fails_the_step(body: Step[Any], call: str) -> None:
    """AU-14, AU-122: naming call and line."""
    ctx = FakeContext(secrets={"A": "1"})
    with pytest.raises(NotAwaitedError, match=call):
        await body(ctx)
    assert ctx.commands == []


async def test_calls_that_ran_are_not_forgotten() -> None:
    """AU-14: however they were awaited; and what a step raises is not hidden by what it forgot."""
    ctx = FakeContext()
    await forgets_nothing(ctx)
    assert [command.text for command in ctx.commands] == ["one", "two"]

    @step
    async def raises(ctx: Context) -> None:
        ctx.sh("forgotten")  # pyright: ignore[reportUnusedCoroutine]
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await raises(ctx)


async def test_values_are_taken_and_refused_as_by_the_real_one() -> None:
    """AU-65, AU-122"""

    class Stage(str, Enum):  # noqa: UP042 - StrEnum would be text by itself
        DEV = "dev"

    ctx = FakeContext()
    await ctx.sh('echo "$e"', e=Stage.DEV, l=[Stage.DEV, 1])
    await ctx.run("echo", Stage.DEV, env={"STAGE": Stage.DEV})
    ctx.set_env("STAGE", Stage.DEV)
    assert [(type(value), value) for value in ctx.commands[0].variables.values()] == [
        (str, "dev"),
        (list, ["dev", 1]),
    ]
    assert (ctx.commands[1].argv, ctx.commands[1].env["STAGE"]) == (("echo", "dev"), "dev")
    assert type(ctx.exported["STAGE"]) is str
    with pytest.raises(TypeError, match=r"x=\{\} cannot become a shell variable"):
        await ctx.sh("echo", x={})
    with pytest.raises(ValueError, match="'bad name' cannot be the name"):
        ctx.set_env("bad name", "1")


async def test_caches_hit_by_key_and_by_beginning() -> None:
    """AU-58"""
    ctx = FakeContext()
    spec = Cache(key=cache_key("uv", "3.12"), paths=["x"], restore_keys=["uv-"])

    assert (await ctx.cache.restore(spec)).hit is False
    assert await ctx.cache.save(spec) is True
    assert await ctx.cache.save(spec) is False
    assert (await ctx.cache.restore(spec)).matched_key == "uv-3.12"
    other = Cache(key="uv-3.13", paths=["x"], restore_keys=["uv-"])
    assert (await ctx.cache.restore(other)).matched_key == "uv-3.12"
    assert len(ctx.cache.restored) == 3


async def test_inputs_and_inventory() -> None:
    """AU-45, AU-83"""

    class Deploy(Inputs):
        target: str = "all"
        retries: int = 3

    hosts = [
        HostFacts(host="b", agent_id="b", labels=("role:web", "old")),
        HostFacts(host="a", agent_id="a", labels=("role:web",)),
    ]
    ctx = FakeContext(inputs={"retries": "5"}, hosts=hosts)

    assert ctx.inputs(Deploy) == Deploy(retries=5)
    assert [host.host for host in await ctx.kici.inventory.query("role:*")] == ["a", "b"]
    assert [host.host for host in await ctx.kici.inventory.query("role:web", exclude="old")] == ["a"]
    assert (await ctx.kici.inventory.get("b")).host == "b"
    assert len(await ctx.kici.infrastructure.list()) == 2


async def test_generators_and_rules_can_be_called() -> None:
    """AU-34, AU-35, AU-43"""

    @dynamic_jobs("reports", needs=[deploy])
    async def reports(g: GenerateContext) -> list[MultiJob]:
        return [
            job(f"r{n}", runs_on="linux", steps=[build]) for n in range(g.job_outputs(deploy)["replicas"])
        ]

    ctx = FakeContext()
    ctx.give_job(deploy, {"replicas": 2})
    assert [made.name for made in await reports.fn(ctx)] == ["r0", "r1"]

    on_main = rule("main", lambda ctx: ctx.event.target_branch == "main" and ctx.changed_files is None)
    assert on_main.check(FakeRuleContext(event=PushEvent(target_branch="main"))) is True
    assert only_on_last_host().check(FakeRuleContext()) is True
    assert only_on_last_host().check(FakeRuleContext(fanout=Fanout(index=0, total=2))) is False


async def test_blocking_steps_get_blocking_twins() -> None:
    """AU-13: a `def` annotated SyncContext gets blocking members, `def` annotated Context the ordinary ones."""

    @step
    def blocking(ctx: SyncContext) -> list[str]:
        ctx.set_env("A", "b")
        ctx.kici.host.request_reboot()
        return [
            ctx.sh("echo").text,
            ctx.run("echo").text,
            ctx.secrets.get("A"),
            ctx.kici.oidc.token(audience="x").token,
            str(ctx.host and ctx.host.host),
            str(ctx.event.target_branch),
        ]

    @step
    def ordinary(ctx: Context) -> bool:
        call = ctx.sh("ls")
        call.close()
        return asyncio.iscoroutine(call)

    ctx = FakeContext(secrets={"A": "1"}, hosts=[HostFacts(host="h")])
    ctx.answer("echo", "out\n")

    assert await blocking(ctx) == ["out", "out", "1", "token-for-x", "h", "main"]
    assert (ctx.env, ctx.kici.host.reboots) == ({"A": "b"}, [None])
    assert await ordinary(ctx) is True


def test_folders_are_made_when_asked_for_and_go_with_the_context() -> None:
    ctx = FakeContext()
    made = ctx.tmp
    (ctx.workspace / "file").write_text("x")

    assert made.is_dir()
    del ctx
    gc.collect()
    assert not made.exists()


async def test_an_event_needs_a_name() -> None:
    """AU-122: as in a step."""
    with pytest.raises(EventRejectedError, match="an event needs a name"):
        await FakeContext().emit("")
    with pytest.raises(TypeError, match="not int"):
        await FakeContext().emit(1)  # type: ignore[arg-type]
