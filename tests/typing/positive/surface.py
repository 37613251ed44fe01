"""The whole authoring surface, each option in each form, with what it infers (AU-5)."""

from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, Literal, assert_type

from kici import (
    Amount,
    ApiKeyAuth,
    Applied,
    Approval,
    Approver,
    Cache,
    CacheHit,
    CacheKey,
    Concurrency,
    ConcurrencyContext,
    Container,
    Context,
    Delivery,
    DynamicJobs,
    Event,
    EventPayload,
    Fanout,
    Fixture,
    GenerateContext,
    HmacAuth,
    HookContext,
    HostFacts,
    HostOutputs,
    Hosts,
    Init,
    Inputs,
    InSync,
    Job,
    JobOutputs,
    Meta,
    MultiJob,
    NeedResult,
    OidcToken,
    Outcome,
    Payload,
    Preset,
    Provenance,
    PullRequestEvent,
    PushEvent,
    Registry,
    Resources,
    Rule,
    RuleContext,
    Runner,
    ScheduleEvent,
    SecretMeta,
    Step,
    SyncContext,
    Trigger,
    WaitForTimeoutError,
    Workflow,
    cache_key,
    comment,
    create,
    delete,
    dispatch,
    dynamic_jobs,
    fixture,
    fork,
    generic_webhook,
    group,
    hook,
    idempotent,
    job,
    job_complete,
    kici_event,
    lifecycle,
    mise,
    need,
    only_on_fanout_index,
    only_on_first_host,
    only_on_last_host,
    parallel,
    pr,
    push,
    release,
    restart_host,
    review,
    review_comment,
    rule,
    schedule,
    skip,
    star,
    status,
    step,
    tag,
    team,
    user,
    uv,
    wait_for,
    wait_for_host_alive,
    wait_for_step,
    watch,
    webhook,
    workflow,
    workflow_complete,
    workflow_run,
)

# ── rules ──


@rule("touches docs")
async def touches_docs(ctx: RuleContext) -> bool:
    assert_type(ctx.event, Event)
    assert_type(ctx.changed_files, list[str] | None)
    assert_type(ctx.fanout, Fanout)
    return (await ctx.sh("git diff --quiet docs", check=False)).ok or ctx.inputs(DeployInputs).retries > 1


assert_type(touches_docs, Rule)
on_main = rule("main only", lambda ctx: ctx.event.target_branch == "main")
no_bots = skip("bots", lambda ctx: ctx.event.sender_username == "bot" and ctx.env.get("CI") is None)
rules = [touches_docs, on_main, no_bots, only_on_first_host(), only_on_last_host(), only_on_fanout_index(2)]

# ── inputs and events ──


class Mode(Enum):
    FULL = "full"
    EDGE = "edge"


class DeployInputs(Inputs):
    target: str | None = None
    mode: Literal["full", "edge-only"] = "full"
    kind: Mode = Mode.FULL
    retries: Annotated[int, Meta(ge=0, le=10)] = 3
    note: Annotated[str, Meta(min_length=1, max_length=80, pattern="^[a-z]", description="why")] = "x"
    share: float = 0.5
    dry: bool


class DeployComplete(EventPayload, event="deploy-complete"):
    env: str
    versions: list[str] = []


assert_type(DeployInputs(dry=True).retries, int)
assert_type(DeployComplete(env="prod").versions, list[str])

# ── steps ──

pip = Cache(key=cache_key("uv", "3.12", files=["uv.lock"]), paths=["~/.cache/uv"], restore_keys=["uv-"])
assert_type(cache_key("uv"), CacheKey)


async def drifted(ctx: Context) -> list[str] | None:
    return (await ctx.sh("./diff.sh")).lines or None


async def packages(ctx: Context) -> int:
    return 0


@step(
    check=drifted,
    summarize=lambda drift: f"{len(drift)} differ",
    when_in_sync=packages,
    approval=Approval(when="drift"),
)
async def install(ctx: Context, drift: list[str]) -> int:
    return len(drift)


@step("with-parameter", check=drifted, summarize=", ".join, timeout="1m", retry=2)
def install_blocking(ctx: SyncContext, drift: list[str], *, force: bool = False) -> str:
    assert_type(ctx.sh("ls").text, str)
    assert_type(ctx.run("ls").lines, list[str])
    assert_type(ctx.secrets.get("x"), str)
    assert_type(ctx.cache.restore(pip), CacheHit)
    assert_type(ctx.kici.inventory.query("web"), list[HostFacts])
    assert_type(ctx.kici.oidc.token(audience="a"), OidcToken)
    assert_type(ctx.emit("done", {"a": 1}), Delivery)
    assert_type(ctx.job_outputs(deploy), None)
    assert_type(ctx.outputs_of(install), int)
    assert_type(ctx.event, Event)
    ctx.set_env("A", "b")
    with ctx.log.group("x"):
        ctx.set_secret_output("k", "v")
    return drift[0]


@step(
    rules=rules,
    cache=[pip, {"key": "x", "paths": ["y"]}],
    approval=[team("sre"), user("ada")],
    continue_on_error=True,
)
async def guarded(ctx: Context) -> None: ...


@step(cache=pip, approval=True, rules=[on_main])
def plain(ctx: SyncContext) -> list[int]:
    return [1]


@step
def bare(ctx: SyncContext) -> bytes:
    return b""


assert_type(install, Step[int])
assert_type(install_blocking, Step[str])
assert_type(install_blocking.bind(force=True).named("forced"), Step[str])
assert_type(plain, Step[list[int]])
assert_type(bare, Step[bytes])
assert_type(team("sre"), Approver)

# ── waiting ──


async def answer() -> str | None:
    return None


async def answers(ctx: Context) -> str | None:
    return (await ctx.sh("curl localhost")).text


async def late(error: WaitForTimeoutError) -> str:
    return f"{error.name} {error.elapsed:.0f} {error.attempts}"


async def write(drift: str) -> int:
    return len(drift)


async def untouched() -> float:
    return 1.0


async def waits() -> None:
    assert_type(await wait_for(answer, name="api", interval="1s", timeout=5, initial_delay=1), str)
    outcome = await idempotent(
        "file", check=answer, apply=write, when_in_sync=untouched, summarize=str.upper
    )
    match outcome:
        case Applied():
            assert_type(outcome.drift, str)
            assert_type(outcome.result, int | None)
        case InSync():
            assert_type(outcome.result, float | None)


up = wait_for_step("up", answers, timeout="2m", swallow_errors=False, on_timeout=late)
assert_type(up, Step[str])
assert_type(restart_host(deadline="10m"), Step[None])
assert_type(wait_for_host_alive(answer, interval=5), Step[None])

# ── jobs ──


def region(event: Event) -> str:
    return "eu" if event.target_branch == "main" else "us"


async def region_later(event: Event) -> str:
    return "eu"


async def platforms(g: GenerateContext) -> Mapping[str, list[str]]:
    return {"os": (await g.sh("./platforms.sh")).lines}


async def unlock(ctx: HookContext) -> None:
    assert_type(ctx.outcome, Outcome)


@job(
    runs_on_all=Hosts(include=[["role:web", "zone:a"], "role:edge"], exclude="draining"),
    on_unreachable="skip",
    include_uninitialized=False,
    rules=rules,
    max_parallel=1,
    container=Container(image="python:3.12", env={"A": "b"}),
    environment=["base", region, lambda event: event.source_branch or "none"],
    env=lambda event: {"BRANCH": event.target_branch or ""},
    concurrency_group=region_later,
    resources=Resources(requests=Amount(memory="1g"), limits=Amount(cpus=2)),
    init=[mise(cache=False), uv(python="3.12", groups=["dev"]), Init(run="./x", env={"A": "b"})],
    cache=pip,
    approval=Approval(approvers=[team("sre")], reason="prod", timeout="1d"),
)
async def deploy(ctx: Context) -> None: ...


everywhere = job("everywhere", runs_on_all=["role:web", "!old"], steps=[install])
mapped = job(
    "mapped",
    runs_on_all={"include": ["web"]},
    container="python:3.12",
    environment="staging",
    concurrency_group="deploy",
    resources={"memory": "2g", "cpus": 1},
    init="auto",
    approval={"reason": "x"},
    steps=[install.bind().named("a"), parallel(plain, guarded)],
)
no_init = job("no-init", runs_on=Runner(labels="linux"), init=False, environment=region, steps=[up, bare])


@job(runs_on="linux", matrix=platforms, environment=region_later)
def dynamic_matrix(ctx: SyncContext) -> str:
    return ctx.sh("uname").text


@job(runs_on="linux", matrix=lambda g: ["a", "b"], needs=[deploy])
async def lambda_matrix(ctx: Context, *, value: str) -> int:
    assert_type(ctx.host_outputs(deploy), HostOutputs[None])
    assert_type(ctx.host_outputs(everywhere), HostOutputs[JobOutputs])
    return 1


@dynamic_jobs("reports", needs=[lambda_matrix, group("others", when="always")])
async def reports(g: GenerateContext) -> list[Job[Any] | MultiJob]:
    assert_type(g.matrix_outputs(lambda_matrix).by_matrix, Mapping[str, int])
    hosts = await g.kici.inventory.query("role:web", exclude=["old"])
    assert_type(await g.kici.infrastructure.list(), list[HostFacts])
    return [deploy, *(job(f"on-{host.host}", runs_on=host.agent_id, steps=[plain]) for host in hosts)]


@dynamic_jobs()
def more_reports(g: GenerateContext) -> list[MultiJob]:
    return [job("x", runs_on="linux", steps=[plain])]


assert_type(reports, DynamicJobs)
after = job(
    "after", runs_on="linux", needs=[reports, need(more_reports, when={"success", "failed"})], steps=[plain]
)
assert_type(deploy, Job[None])
assert_type(dynamic_matrix, Job[str])
assert_type(lambda_matrix, Job[int])
assert_type(uv(), Preset)

# ── ctx ──


@step
async def everything(ctx: Context) -> None:
    assert_type(await ctx.secrets.get("KEY"), str)
    assert_type(await ctx.secrets.list(), list[str])
    assert_type(await ctx.secrets.has("KEY"), bool)
    assert_type(await ctx.secrets.get_meta("KEY"), SecretMeta)
    await ctx.secrets.expose("KEY", as_="OTHER")
    await ctx.sh(
        "cat", input=(await ctx.secrets.mount_file(["A", "B"], divider="\n", mode=0o400)).read_text()
    )
    await ctx.secrets.expose_file("KUBECONFIG", "KUBE", name="config")
    await ctx.set_secret_output("token", "value")
    assert_type(await ctx.emit(DeployComplete(env="prod"), target_repos=["a/b"]), Delivery)
    assert_type(await ctx.emit("name", {"a": 1}), Delivery)
    assert_type(await ctx.emit("name", payload={"a": 1}, target_repos=["a/b"]), Delivery)
    assert_type(await ctx.cache.restore(pip), CacheHit)
    assert_type(await ctx.cache.save(pip), bool)
    assert_type(await ctx.attest_provenance("wheel", path="dist/x.whl"), Provenance)
    ctx.annotate("warning", "unused", file="a.py", line=3)
    ctx.summary("# Done")
    assert_type(ctx.inputs(DeployInputs).mode, Literal["full", "edge-only"])
    assert_type(ctx.dispatch_inputs, Mapping[str, Any])
    assert_type(ctx.raw_payload, Mapping[str, Any])
    assert_type(ctx.provider, str | None)
    assert_type(ctx.fanout, Fanout | None)
    assert_type(ctx.host, HostFacts | None)
    assert_type(ctx.environment, str | None)
    assert_type(ctx.is_test_run, bool)
    assert_type(ctx.check_mode, Literal["apply", "check", "check-fail-on-drift"])
    assert_type(ctx.step.index, int)
    assert_type((ctx.workflow.name, ctx.job.base_name), tuple[str, str])
    assert_type(ctx.agent.id if ctx.agent else None, str | None)
    assert_type(ctx.workflow_repo.sha, str)
    assert_type(ctx.source_repo.identifier, str)
    assert_type(ctx.need("anything"), NeedResult[Any])
    await ctx.kici.host.request_reboot(deadline="5m")
    match ctx.event:
        case PushEvent(target_branch="main") as pushed:
            if pushed.payload.commits:
                assert_type(pushed.payload.commits[0].message, str)
            assert_type(pushed.payload.repository.full_name, str)
        case PullRequestEvent(action="opened"):
            assert_type(ctx.event.payload.pull_request.draft, bool | None)
            assert_type(ctx.event.payload.pull_request.head.ref, str)
        case ScheduleEvent():
            assert_type(ctx.event.payload.scheduledAt, str)
        case other:
            assert_type(other.payload, Payload)
            assert_type(other.payload["anything"], Any)
            assert_type(other.payload.raw, Mapping[str, Any])
    print(ctx.event.payload.get("x"))


# ── triggers, workflows, fixtures ──

triggers: list[Trigger] = [
    push(tags="v*", repos=["acme/*", "!acme/old"], description="tags"),
    pr(repos="acme/*"),
    tag(repos="acme/*"),
    comment(actions=["created", "edited"], source="pr", body_match="/^!deploy/"),
    review(actions="submitted", states=["approved", "commented"]),
    review_comment(actions="deleted", repos="a/b"),
    release(actions=["published", "prereleased"]),
    dispatch(types=["deploy", "rollback"], inputs=DeployInputs, repos="a/b"),
    create(ref_types="tag", patterns="v*"),
    delete(ref_types=["branch", "tag"]),
    status(contexts="ci/*", states="failure"),
    workflow_run(actions="completed", workflows="build", conclusions=["success"]),
    fork(repos="a/b"),
    star(actions="created"),
    watch(actions="started"),
    webhook(events=["deployment"], repos="a/b"),
    kici_event("done", match={"$.env": "prod"}, not_={"$.dry": True}, source="a/*"),
    kici_event(DeployComplete),
    kici_event(name="done"),
    workflow_complete(name="build", status=["success", "cancelled"], source="a/b"),
    job_complete(workflow="build", job="package", status="skipped"),
    generic_webhook(source="x", auth=HmacAuth(secret="s", signature_header="x-signature")),
    generic_webhook(source="x", auth=ApiKeyAuth(secret="s")),
    schedule(cron="0 4 * * *", timezone="Europe/Berlin", inputs=DeployInputs),
    lifecycle(events=["job_failed"], sources="a/b"),
]


def key(ctx: ConcurrencyContext) -> str:
    return f"{ctx.workflow}-{ctx.ref}-{ctx.inputs(DeployInputs).mode}"


flow = workflow(
    "flow",
    jobs=[deploy, everywhere, mapped, no_init, dynamic_matrix, lambda_matrix, reports, more_reports, after],
    on=triggers,
    rules=[on_main, no_bots],
    registries=[Registry(url="https://pypi.example.com/simple", token_secret="build:TOKEN", name="own")],
    install_env=["build:EXTRA"],
    concurrency=Concurrency(group=key, cancel_in_progress=False, max=2),
    timeout="2h",
    approval=[user("ada")],
    on_cancel=unlock,
    cleanup=hook(unlock, timeout="1m"),
    on_success=unlock,
    on_failure=lambda ctx: None,
)
assert_type(flow, Workflow)
by_lambda = workflow("b", jobs=[deploy], concurrency=Concurrency(group=lambda c: c.ref))

push_main = fixture("push-main", event=push(branches="main"), secrets={"db": "test"}, branch="main", pr=3)
as_event = fixture("as-event", event=PushEvent(target_branch="main", payload={"ref": "x"}), inputs={"a": 1})


@fixture("made", workflow="flow")
async def made() -> PullRequestEvent:
    return PullRequestEvent(action="opened", target_branch="main")


@fixture("made-too")
def made_too() -> dict[str, Any]:
    return {"event": push(), "branch": "main"}


assert_type(push_main, Fixture)
assert_type(made, Fixture)
assert_type(made_too, Fixture)
