"""Every member of `ctx` (authoring §3), in `async def` and in `def` steps."""

import asyncio

import pytest

from kici.runner.host import Zygote
from kici.spec.events import Event
from kici.spec.states import JobStatus
from tests.process.runner.builders import Host, Recorder, Repo, run

pytestmark = pytest.mark.process


async def test_what_a_step_can_know(repo: Repo) -> None:
    """AU-21, AU-83, AU-86: the event by its class, inputs by theirs, place, host, agent, repositories."""
    repo.write(
        """
class DeployInputs(Inputs):
    target: str
    retries: int = 3

@step
async def facts(ctx: Context) -> dict:
    assert isinstance(ctx.event, PushEvent), type(ctx.event)
    assert ctx.event.payload.repository.full_name == ctx.raw_payload["repository"]["full_name"]
    given = ctx.inputs(DeployInputs)
    return {
        "branch": ctx.event.target_branch, "provider": ctx.provider,
        "inputs": [given.target, given.retries, ctx.dispatch_inputs["target"]],
        "run": [ctx.run_info.run_id, ctx.run_info.sha, ctx.run_info.url],
        "names": [ctx.workflow.name, ctx.job.name, ctx.job.base_name, ctx.job.attempt],
        "step": [ctx.step.name, ctx.step.index, ctx.step.attempt],
        "matrix": dict(ctx.matrix), "fanout": [ctx.fanout.index, ctx.fanout.total, ctx.fanout.last],
        "host": [ctx.host.host, ctx.host.platform, ctx.host.arch], "agent": ctx.agent.id,
        "environments": [ctx.environment, *ctx.environments],
        "flags": [ctx.is_test_run, ctx.check_mode],
        "repos": [ctx.workflow_repo.identifier, ctx.source_repo.identifier],
        "places": [str(ctx.workspace) == os.getcwd(), ctx.tmp.is_dir()],
    }

@step
async def alone(ctx: Context) -> list:
    return [dict(ctx.matrix), ctx.fanout, ctx.host, ctx.agent, ctx.environment, list(ctx.environments)]

jobs = [job("j", runs_on=LINUX, steps=[facts]), job("k", runs_on=LINUX, steps=[alone])]
"""
    )
    result, _seen = await run(
        repo,
        "j",
        event=Event(
            type="push",
            target_branch="main",
            provider="github",
            payload={"ref": "refs/heads/main", "repository": {"full_name": "a/b"}},
        ),
        job_name="j (3.12)",
        matrix={"python": "3.12"},
        inputs={"target": "web"},
        run_info={
            "repository": "a/b",
            "sha": "abc",
            "url": "http://x/1",
            "agentId": "agent-1",
            "sourceRepository": "c/d",
        },
        labels=["kici:os:linux", "kici:arch:x64", "kici:host:web-1"],
        environments=["staging", "eu"],
        is_test_run=True,
        fanout_index=1,
        fanout_total=2,
    )
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs["facts"] == {
        "branch": "main",
        "provider": "github",
        "inputs": ["web", 3, "web"],
        "run": ["run-1", "abc", "http://x/1"],
        "names": ["ci", "j (3.12)", "j", 1],
        "step": ["facts", 0, 1],
        "matrix": {"python": "3.12"},
        "fanout": [1, 2, True],
        "host": ["web-1", "linux", "x64"],
        "agent": "agent-1",
        "environments": ["staging", "staging", "eu"],
        "flags": [True, "apply"],
        "repos": ["a/b", "c/d"],
        "places": [True, True],
    }
    result, _seen = await run(repo, "k")
    assert result.outputs["alone"] == [{}, None, None, None, None, []]


async def test_groups_annotations_and_summary(repo: Repo) -> None:
    """Groups fold between their markers; annotations and summary go with the step's end; both are bounded."""
    repo.write(
        """
@step
async def talk(ctx: Context) -> None:
    with ctx.log.group("unit tests"):
        ctx.log.info("%d passed", 3)
        await ctx.sh("echo in bash")
    ctx.annotate("warning", "unused", file="a.py", line=3)
    ctx.summary("# Title")
    ctx.summary("more")
    for wrong in (lambda: ctx.annotate("loud", "x"), lambda: ctx.summary("x" * (1 << 20))):
        try:
            wrong()
        except (ValueError, LimitExceededError) as error:
            print(type(error).__name__)
jobs = [job("j", runs_on=LINUX, steps=[talk])]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0) == (
        "##[group]unit tests\n3 passed\nin bash\n##[endgroup]\nValueError\nLimitExceededError\n"
    )
    end = seen.end("talk")
    assert end.summary == "# Title\nmore"
    assert [(note.level, note.message, note.file, note.line) for note in end.annotations] == [
        ("warning", "unused", "a.py", 3)
    ]


async def test_secrets(repo: Repo) -> None:
    """AG-64, AG-65: by name and on request, masked, names reported, files gone, exposed for one step only."""
    repo.write(
        """
@step
async def reads(ctx: Context) -> None:
    print(await ctx.secrets.list(), await ctx.secrets.has("TOKEN"), await ctx.secrets.has("NO"))
    meta = await ctx.secrets.get_meta("TOKEN")
    print(meta)
    print(await ctx.secrets.get("TOKEN"))
    await ctx.sh("echo before: ${TOKEN-unset}")
    await ctx.secrets.expose("TOKEN")
    await ctx.secrets.expose("KEY", as_="SSH_KEY")
    await ctx.sh('echo "$TOKEN" $SSH_KEY | rev')
    try:
        await ctx.secrets.get("NO")
    except SecretNotFoundError as missing:
        print(missing.available)

@step(continue_on_error=True)
async def files(ctx: Context) -> None:
    path = await ctx.secrets.mount_file(["TOKEN", "KEY"], divider="\\n", name="both.pem")
    Path("../place").write_text(str(path))
    print(oct(path.stat().st_mode & 0o777), oct(path.parent.stat().st_mode & 0o777), path.name)
    await ctx.secrets.expose_file("KEY_FILE", "KEY", mode=0o400)
    await ctx.sh('stat -c %a "$KEY_FILE"; cat "$KEY_FILE"')
    for bad in ("../x", ""):
        try:
            await ctx.secrets.mount_file("KEY", name=bad)
        except ValueError as error:
            print(error)
    raise RuntimeError("however it ends")

@step
async def after(ctx: Context) -> None:
    place = Path(Path("../place").read_text())
    print(place.exists(), place.parent.exists(), os.environ.get("TOKEN"), ctx.env.get("SSH_KEY"))

jobs = [job("j", runs_on=LINUX, steps=[reads, files, after])]
"""
    )
    host = Host(repo.root.parent, secrets={"TOKEN": "hunter2", "KEY": "opensesame"})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0).splitlines() == [
        "['KEY', 'TOKEN'] True False",
        "SecretMeta(key='TOKEN', backend='test', scope='staging')",
        "***",
        "before: unset",
        "emasesnepo 2retnuh",
        "('KEY', 'TOKEN')",
    ]
    assert seen.end("reads").secrets_accessed == ["TOKEN", "KEY"]
    lines = seen.text(1).splitlines()
    assert lines[:5] == [
        "0o600 0o700 both.pem",
        "400",
        "***'../x' cannot be the name of a file",
        "'' cannot be the name of a file",
        "\x1b[31mTraceback (most recent call last):",
    ]
    assert seen.end("files").secrets_accessed == ["TOKEN", "KEY"]
    assert seen.text(2) == "False False None None\n"
    mounted = [params for method, params in host.asked if method == "secrets.mounted"]
    assert [params["keys"] for params in mounted] == [["TOKEN", "KEY"], ["KEY"]]
    assert "opensesame" not in str(mounted)


async def test_secret_files_vanish_with_a_killed_runner(repo: Repo) -> None:
    """AG-64: the host removes what the runner cannot."""
    repo.write(
        """
@step
async def dies(ctx: Context) -> None:
    print("mounted", await ctx.secrets.mount_file("KEY"), flush=True)
    os.kill(os.getpid(), 9)
jobs = [job("j", runs_on=LINUX, steps=[dies])]
"""
    )
    host = Host(repo.root.parent, secrets={"KEY": "opensesame"})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.FAILED
    assert "mounted" in seen.text(0)
    assert not [path for path in (repo.root.parent / "tmp").rglob("*") if path.name == "private"]


async def test_secret_outputs_and_events(repo: Repo) -> None:
    """AG-52, AU-86: masked from then on, limits and refusals raise in the step."""
    repo.write(
        """
class DeployComplete(EventPayload, event="deploy-complete"):
    env: str

@step
async def hands_on(ctx: Context) -> None:
    await ctx.set_secret_output("TOKEN", "minted-value")
    print("minted-value")
    sent = await ctx.emit(DeployComplete(env="prod"), target_repos=["a/b"])
    await ctx.emit("plain", {"a": [1]})
    print(sent.id)
    async def large():
        await ctx.set_secret_output("BIG", "x" * 65_537)
    async def many():
        for n in range(25):
            await ctx.set_secret_output(f"T{n}", f"value-{n}")
    async def heavy():
        await ctx.emit("heavy", {"a": "x" * (256 << 10)})
    async def nameless():
        await ctx.emit("")
    for wrong in (large, many, heavy, nameless):
        try:
            await wrong()
        except KiciError as error:
            print(error.code, *(str(error).split(":")[:1] if wrong is nameless else ()))

@step
async def refused(ctx: Context) -> None:
    await ctx.kici.oidc.token(audience="sts")
jobs = [job("j", runs_on=LINUX, steps=[hands_on, refused])]
"""
    )
    host = Host(repo.root.parent, event_emit={"deliveryId": "d-1"})
    result, seen = await run(repo, "j", services=host)
    assert seen.text(0).splitlines() == [
        "***",
        "d-1",
        "limit_exceeded",
        "limit_exceeded",
        "event_rejected",
        "event_rejected an event needs a name",
    ]
    assert host.asked[1] == (
        "event.emit",
        {"name": "deploy-complete", "payload": {"env": "prod"}, "targetRepos": ["a/b"]},
    )
    assert len(host.kept) == 20
    assert "CapabilityMissingError: oidc.token is not there yet" in str(result.error_message)


async def test_inventory_and_what_a_host_lacks(repo: Repo) -> None:
    """AU-43, AU-115: hosts by agent id; what this host cannot do says so."""
    repo.write(
        """
@step
async def asks(ctx: Context) -> list:
    hosts = await ctx.kici.inventory.query(["role:web", "eu-*"], exclude="slow")
    one = await ctx.kici.inventory.get("b")
    return [[h.agent_id for h in hosts], hosts[0].labels, hosts[0].properties["ram"], one.host]
@step
async def lacks(ctx: Context) -> None:
    await ctx.attest_provenance("wheel", path=".kici/workflows/ci.py")
jobs = [job("j", runs_on=LINUX, steps=[asks, lacks])]
"""
    )
    hosts = [
        {"agentId": "b", "host": "web-2", "labels": ["role:web"]},
        {"agentId": "a", "host": "web-1", "labels": ["role:web"], "properties": {"ram": 4}},
    ]
    host = Host(repo.root.parent, inventory_query={"hosts": hosts}, inventory_get={"host": hosts[0]})
    result, _seen = await run(repo, "j", services=host)
    assert result.outputs["asks"] == [["a", "b"], ["role:web"], 4, "web-2"]
    assert host.asked[0][1] == {"include": ["role:web", "eu-*"], "exclude": ["slow"]}
    assert "CapabilityMissingError" in str(result.error_message)
    result, _seen = await run(repo, "j", is_local=True)
    assert "NotAvailableLocallyError: inventory.query is not available in a local run" in str(
        result.error_message
    )


async def test_def_steps_get_blocking_twins(repo: Repo) -> None:
    """AU-13: for a step, a hook and a rule that declare `SyncContext`, also side by side."""
    repo.write(
        """
def decides(ctx: "SyncContext") -> bool:
    return ctx.sh("echo deciding").ok

@step(rules=[rule("decides", decides)])
def build(ctx: SyncContext, *, word: str) -> dict:
    with ctx.log.group("all"):
        done = ctx.sh('echo "$w"', w=word)
    try:
        ctx.run("false")
    except CommandError as error:
        print("failed", error.returncode, error.duration < 10)
    ctx.set_env("FROM", "def")
    return {"text": done.text, "secret": ctx.secrets.has("K"), "hosts": len(ctx.kici.infrastructure.list())}

@step
def reads(ctx: SyncContext) -> str:
    return ctx.outputs_of(build)["text"] + ctx.env["FROM"]

jobs = [job("j", runs_on=LINUX, steps=[build.bind(word="hi there"), reads]),
        job("p", runs_on=LINUX, steps=[parallel(build.bind(word="x"), reads, fail_fast=False)])]
"""
    )
    host = Host(repo.root.parent, secrets={"K": "value"}, infrastructure_list={"hosts": [{"agentId": "a"}]})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs == {
        "build": {"text": "hi there", "secret": True, "hosts": 1},
        "reads": "hi theredef",
    }
    assert seen.text(0) == "##[group]all\nhi there\n##[endgroup]\nfailed 1 True\n"
    result, seen = await run(repo, "p", services=host)
    assert result.outputs == {"build": {"text": "x", "secret": True, "hosts": 1}}


async def test_a_blocking_call_ends_with_its_step(repo: Repo) -> None:
    """AU-13, AU-68: the thread that waits for the host is freed by a cancel."""
    repo.write(
        """
@step
def waits(ctx: SyncContext) -> None:
    try:
        print("asking", flush=True)
        ctx.secrets.get("SLOW")
    finally:
        print("freed", flush=True)
jobs = [job("j", runs_on=LINUX, steps=[waits])]
"""
    )

    class Slow:
        async def request(self, job_id: str, method: str, params: object) -> object:
            return await asyncio.get_running_loop().create_future()

    seen = Recorder()
    async with asyncio.timeout(30), Zygote.start() as zygote, asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(zygote.run(repo.execute("j"), seen, services=Slow()))
        await seen.printed("asking", 0)
        zygote.abort("j", "enough", force=False)
        result = await ended
    assert result.status == JobStatus.CANCELLED
    assert "freed" in seen.text(0)


async def test_every_new_call_must_be_awaited(repo: Repo) -> None:
    """AU-14: the step fails and names each call with its line."""
    calls = [
        'ctx.secrets.get("K")',
        'ctx.secrets.mount_file("K")',
        "ctx.secrets.list()",
        'ctx.emit("e")',
        'ctx.set_secret_output("K", "v")',
        'ctx.cache.restore(Cache(key="k", paths=["p"]))',
        'ctx.kici.inventory.get("a")',
        'ctx.kici.oidc.token(audience="a")',
        'ctx.attest_provenance("w", digest="sha256:0")',
    ]
    body = "\n".join(f"    {call}" for call in calls)
    repo.write(
        f"""
@step
async def forgets(ctx: Context) -> None:
{body}
jobs = [job("j", runs_on=LINUX, steps=[forgets])]
"""
    )
    result, _seen = await run(repo, "j")
    message = str(result.error_message)
    assert message.count("was never awaited") == len(calls)
    for name in ("secrets.get('K')", "emit('e')", "cache.restore('k')", "kici.inventory.get('a')"):
        assert f"ctx.{name} at .kici/workflows/ci.py:" in message


async def test_names_of_operator_secrets_are_not_overwritten(repo: Repo) -> None:
    """AU-55, AG-49: refused with a warning, whichever way it is tried."""
    repo.write(
        """
@step
async def tries(ctx: Context) -> None:
    ctx.set_env("DEPLOY_TOKEN", "mine")
    await ctx.sh('echo "DEPLOY_TOKEN=mine" >> "$KICI_ENV"; echo "OTHER=1" >> "$KICI_ENV"')
@step
async def sees(ctx: Context) -> list:
    return [ctx.env.get("DEPLOY_TOKEN"), ctx.env["OTHER"]]
jobs = [job("j", runs_on=LINUX, steps=[tries, sees])]
"""
    )
    result, seen = await run(repo, "j", locked_env=["DEPLOY_TOKEN"])
    assert result.outputs == {"sees": [None, "1"]}
    assert seen.text(0).count("warning: DEPLOY_TOKEN was not changed") == 2


async def test_upstream_groups_and_hosts(repo: Repo) -> None:
    """AU-26: a group is an ordered list, hosts have their own accessor, a wrong one names the right one."""
    repo.write(
        """
@job(runs_on_all=["role:web"])
async def deploy(ctx: Context) -> dict: return {}

@dynamic_jobs("reports")
async def reports(g: GenerateContext): return []

@job(runs_on=LINUX, needs=[need(deploy, when="always"), reports])
async def gather(ctx: Context) -> list:
    hosts = ctx.host_outputs(deploy)
    wrong = []
    for call in (lambda: ctx.need(reports), lambda: ctx.job_outputs(deploy), lambda: ctx.need("nope")):
        try:
            call()
        except OutputError as error:
            wrong.append(str(error))
    return [
        dict(hosts.by_host), list(hosts.succeeded), list(hosts.failed), dict(hosts.column("v")),
        [r.name for r in ctx.needs["reports"]], [str(r.status) for r in ctx.needs["deploy"]], wrong,
    ]
jobs = [deploy, reports, gather]
"""
    )
    result, _seen = await run(
        repo,
        "gather",
        upstream_statuses={
            "deploy (b)": "success",
            "deploy (a)": "failed",
            "report-2": "success",
            "report-1": "success",
        },
        upstream_outputs={"deploy (b)": {"deploy": {"v": 7}}},
        upstream_groups={"reports": ["report-2", "report-1"], "deploy": ["deploy (b)", "deploy (a)"]},
    )
    assert result.status == JobStatus.SUCCESS, result.error_message
    *found, wrong = result.outputs["gather"]
    assert found == [
        {"b": {"v": 7}},
        ["b"],
        ["a"],
        {"b": 7},
        ["report-2", "report-1"],
        ["success", "failed"],
    ]
    assert wrong == [
        "job 'reports' is a group: use ctx.needs['reports']",
        "job 'deploy' is a fan-out: use ctx.host_outputs(job)",
        "job 'nope' is not declared in `needs` of this job (declared: deploy, reports); add needs=[nope]",
    ]


async def test_accessors_of_the_other_fan_out_name_the_right_one(repo: Repo) -> None:
    """AU-26: and what they give prints as people can read it."""
    repo.write(
        """
@step
async def one(ctx: Context) -> dict: return {}

@step
async def two(ctx: Context) -> int: return 1

test = job("test", runs_on=LINUX, matrix=["a", "b"], steps=[one, two])

@job(runs_on_all=["role:web"])
async def deploy(ctx: Context) -> dict: return {}

@job(runs_on=LINUX, needs=[test, deploy])
async def gather(ctx: Context) -> list:
    wrong = []
    for call in (lambda: ctx.host_outputs(test), lambda: ctx.matrix_outputs(deploy)):
        try:
            call()
        except OutputError as error:
            wrong.append(str(error))
    return [*wrong, repr(ctx.needs["test"][0]), repr(ctx.matrix_outputs(test).by_matrix)]
jobs = [test, deploy, gather]
"""
    )
    result, _seen = await run(
        repo,
        "gather",
        upstream_statuses={"test (a)": "success", "deploy (h)": "success"},
        upstream_outputs={"test (a)": {"one": {"v": 7}, "two": 1}},
        upstream_groups={"test": ["test (a)"], "deploy": ["deploy (h)"]},
    )
    assert result.status == JobStatus.SUCCESS, result.error_message
    outputs = "StepOutputs('test (a)', {'one': {'v': 7}, 'two': 1})"
    assert result.outputs["gather"] == [
        "job 'test' is a matrix: use ctx.matrix_outputs(job)",
        "job 'deploy' is one job per host: use ctx.host_outputs(job)",
        f"NeedResult('test (a)', 'success', {outputs})",
        f"{{'a': {outputs}}}",
    ]
