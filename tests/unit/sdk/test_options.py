"""Every option of steps, jobs and workflows: taken in each form, refused with its code (AU-2, AU-60…61, AU-90)."""

from collections.abc import Callable
from typing import Any, cast

import pytest

from kici import (
    Amount,
    Approval,
    Approver,
    Cache,
    CacheKey,
    Concurrency,
    Container,
    Context,
    DefinitionError,
    Event,
    GenerateContext,
    HookContext,
    Hosts,
    Init,
    Job,
    MultiJob,
    Preset,
    Registry,
    Resources,
    Step,
    cache_key,
    dynamic_jobs,
    group,
    hook,
    job,
    mise,
    need,
    only_on_fanout_index,
    only_on_first_host,
    only_on_last_host,
    parallel,
    restart_host,
    rule,
    skip,
    step,
    team,
    user,
    uv,
    wait_for_host_alive,
    wait_for_step,
    workflow,
)
from kici.sdk import problems
from kici.sdk.definitions import JobSettings, flat_steps
from kici.sdk.readers import memory_bytes
from kici.testing import FakeRuleContext


@step
async def build(ctx: Context) -> int:
    return 1


def settings(**options: Any) -> JobSettings:
    made: MultiJob = cast("Any", job)("j", steps=[build], **{"runs_on": "linux", **options})
    return made.options


def codes(make: Callable[[], object]) -> list[str]:
    with problems.collect() as found:
        make()
    assert all(problem.source is not None and problem.source.file == __file__ for problem in found), found
    return [problem.code for problem in found]


# ── where jobs run ──


def test_runs_on_all_is_an_or_of_ands() -> None:
    """AU-20"""
    hosts = Hosts(include=[["role:web", "zone:a"], "role:edge"], exclude="draining")

    def everywhere(value: object) -> Hosts | None:
        found = settings(runs_on=None, runs_on_all=value)
        assert found.runs_on.labels == ()
        return found.runs_on_all

    assert everywhere(hosts) == Hosts(
        include=[("role:web", "zone:a"), ("role:edge",)], exclude=("draining",)
    )
    assert everywhere({"include": ["web"]}) == Hosts(include=[("web",)])
    assert everywhere("web") == Hosts(include=[("web",)])
    assert everywhere(["web", "zone:a"]) == Hosts(include=[("web", "zone:a")])
    found = settings(
        runs_on=None, runs_on_all="web", on_unreachable="skip", include_uninitialized=True, max_parallel=1
    )
    assert (found.on_unreachable, found.include_uninitialized, found.max_parallel) == ("skip", True, 1)


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"runs_on": None}, "E201"),
        ({"runs_on_all": "web"}, "E202"),
        ({"runs_on": None, "runs_on_all": Hosts(include=[])}, "E201"),
        ({"runs_on": None, "runs_on_all": ["web", "!web"]}, "E203"),
        ({"runs_on": None, "runs_on_all": {"include": ["web"], "exclude": "web"}}, "E203"),
        ({"runs_on": None, "runs_on_all": "web", "on_unreachable": "wait"}, "E119"),
        ({"runs_on": None, "runs_on_all": {"includes": ["web"]}}, "E119"),
    ],
)
def test_exactly_one_way_to_choose_runners(options: dict[str, Any], code: str) -> None:
    """AU-11, AU-18, AU-20"""
    assert codes(lambda: settings(**options)) == [code]


# ── values that may be functions ──


def test_dynamic_values_stand_as_written() -> None:
    """AU-41, AU-54"""

    def region(event: Event) -> str:
        return "eu"

    async def variables(event: Event) -> dict[str, str]:
        return {}

    found = settings(environment=["base", region], env=variables, concurrency_group=region)

    assert (found.environments, found.env, found.env_function) == (("base", region), {}, variables)
    assert found.concurrency_group is region
    assert settings(environment="staging").environments == ("staging",)
    assert settings(environment=region).environments == (region,)
    assert settings(concurrency_group="deploy").concurrency_group == "deploy"


def test_a_matrix_may_be_a_function() -> None:
    """AU-40: its dimensions are not known yet, so `exclude` is taken as it is."""

    async def versions(g: GenerateContext) -> list[str]:
        return []

    found = settings(matrix=versions, exclude=[{"value": "3.9"}])

    assert (found.matrix, found.matrix_function, found.exclude) == (None, versions, ({"value": "3.9"},))
    assert settings(matrix=["a"]).matrix == {"value": ("a",)}


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"environment": ""}, "E119"),
        ({"environment": ["a", "a"]}, "E119"),
        ({"environment": [5]}, "E119"),
        ({"concurrency_group": ""}, "E119"),
        ({"concurrency_group": 5}, "E119"),
        ({"env": {"KICI_X": "y"}}, "E310"),
        ({"env": {"1": "y"}}, "E310"),
    ],
)
def test_bad_dynamic_values(options: dict[str, Any], code: str) -> None:
    """AU-54, AU-55"""
    assert codes(lambda: settings(**options)) == [code]


# ── containers, resources, init, caches ──


def test_containers() -> None:
    """AU-55"""
    assert settings(container="python:3.12").container == Container(image="python:3.12")
    assert settings(container={"image": "x", "env": {"A": "b"}}).container == Container(
        image="x", env={"A": "b"}
    )
    assert codes(lambda: settings(container="")) == ["E119"]
    assert codes(lambda: settings(container=Container(image="x", env={"KICI_A": "b"}))) == ["E310"]


def test_resources_mirror_each_other() -> None:
    """AU-56"""
    both = Amount(memory=2 << 30, cpus=1)

    assert settings(resources={"memory": "2g", "cpus": 1}).resources == Resources(
        requests=both, limits=both
    )
    assert settings(resources=Resources(limits=Amount(memory="512m"))).resources == Resources(
        requests=Amount(memory=512 << 20), limits=Amount(memory=512 << 20)
    )
    assert settings(
        resources={"requests": {"memory": "1g"}, "limits": {"memory": "4g", "cpus": 2}}
    ).resources == Resources(requests=Amount(memory=1 << 30, cpus=2), limits=Amount(memory=4 << 30, cpus=2))


@pytest.mark.parametrize(
    "resources",
    [
        {"memory": "2 gigabytes"},
        {"memory": "0m"},
        {"memory": True},
        {"cpus": 0},
        {"cpus": 257},
        {"cpus": float("nan")},
        {"cpus": "2"},
        {"requests": {"memory": "2g"}, "limits": {"memory": "1g"}},
        Resources(requests=Amount(cpus=2), limits=Amount(cpus=1)),
        Resources(),
    ],
)
def test_bad_resources(resources: object) -> None:
    """AU-56: E206"""
    assert codes(lambda: settings(resources=resources)) == ["E206"]


def test_amounts_of_memory() -> None:
    """AU-56"""
    assert [memory_bytes(text) for text in ("512m", "4g", "2048k", "1.5G", "100", 7, "x", -1)] == [
        512 << 20,
        4 << 30,
        2 << 20,
        3 << 29,
        100,
        7,
        None,
        None,
    ]


def test_init_in_every_form() -> None:
    """AU-57"""
    script = Init(run="./x", timeout="1m", env={"A": "b"}, cache=Cache(key="k", paths=["p"]))

    assert settings(init="auto").init == (Preset(name="auto"),)
    assert settings(init=mise(timeout="5m", env={"A": "b"}, shell="sh", cache=False)).init == (
        Preset(name="mise", timeout="5m", env={"A": "b"}, shell="sh", cache=False),
    )
    assert settings(init=[uv(python="3.12", groups=["dev"]), script, {"run": "y"}]).init == (
        Preset(name="uv", python="3.12", groups=("dev",)),
        Init(run="./x", timeout="1m", env={"A": "b"}, cache=Cache(key="k", paths=("p",), restore_keys=())),
        Init(run="y"),
    )
    assert (settings(init=False).init_off, settings().init_off, settings(init=False).init) == (
        True,
        False,
        (),
    )
    assert codes(lambda: settings(init=Init(run=" "))) == ["E308"]
    assert codes(lambda: settings(init="npm")) == ["E119"]
    assert codes(lambda: settings(init=Init(run="x", timeout="soon"))) == ["E309"]
    assert codes(lambda: settings(init=Init(run="x", env={"KICI_A": "b"}))) == ["E310"]
    assert codes(lambda: mise(timeout="soon")) == ["E309"]


def test_caches_in_every_form() -> None:
    """AU-58"""
    key = cache_key("uv", "3.12", files=["uv.lock"])
    cache = Cache(key=key, paths=["~/.cache/uv"], restore_keys=["uv-"])

    assert key == CacheKey(prefix="uv", parts=("3.12",), files=("uv.lock",))
    assert settings(cache=cache).cache == (Cache(key=key, paths=("~/.cache/uv",), restore_keys=("uv-",)),)
    assert settings(cache=[{"key": {"prefix": "a"}, "paths": ["b"]}]).cache == (
        Cache(key=CacheKey(prefix="a"), paths=("b",)),
    )

    @step(cache=cache)
    async def cached(ctx: Context) -> None: ...

    assert len(cached.settings.cache) == 1


@pytest.mark.parametrize(
    "cache",
    [
        Cache(key="", paths=["a"]),
        Cache(key="k", paths=[]),
        Cache(key="k", paths=["/etc"]),
        Cache(key="k", paths=["../x"]),
        Cache(key="k", paths=[""]),
        Cache(key="k", paths=["a"], restore_keys=[""]),
        Cache(key=CacheKey(prefix="a", files=("../x",)), paths=["a"]),
        Cache(key=CacheKey(prefix="a", files=("~/x",)), paths=["a"]),
    ],
)
def test_bad_caches(cache: Cache) -> None:
    """AU-58: E307"""
    assert codes(lambda: settings(cache=cache)) == ["E307"]
    assert codes(lambda: cache_key("")) == ["E307"]


# ── approvals, rules, hooks ──


def test_approvals_in_every_form() -> None:
    """AU-60"""
    clauses = (Approver(team="sre"), Approver(user="ada"))

    assert settings(approval=True).approval == Approval()
    assert settings(approval=[team("sre"), user("ada")]).approval == Approval(approvers=clauses)
    assert settings(approval={"approvers": [{"team": "sre"}], "timeout": "1d"}).approval == Approval(
        approvers=clauses[:1], timeout="1d"
    )
    assert settings(approval=None).approval is None
    assert codes(lambda: settings(approval=Approval(approvers=[Approver()]))) == ["E119"]
    assert codes(lambda: settings(approval=Approval(timeout="soon"))) == ["E309"]
    assert codes(lambda: settings(approval="sre")) == ["E119"]
    assert codes(lambda: team("")) == ["E119"]


async def no_drift(ctx: Context) -> list[str] | None:
    return None


def test_drift_is_approved_on_steps_with_a_check_only() -> None:
    """AU-60: E304, E305"""
    on_drift = Approval(when="drift")

    assert codes(lambda: settings(approval=on_drift)) == ["E304"]
    assert codes(lambda: workflow("w", jobs=[job("j", runs_on="x", steps=[build])], approval=on_drift)) == [
        "E304"
    ]
    assert codes(lambda: step(approval=on_drift)(lambda ctx: None)) == ["E305"]

    @step(check=no_drift, summarize=str, approval=on_drift)
    async def checked(ctx: Context, drift: list[str]) -> None: ...

    assert checked.settings.approval == on_drift


def test_rules_on_every_level() -> None:
    """AU-34"""
    on_main = rule("main", lambda ctx: True)
    no_bots = skip("bots", lambda ctx: False)

    @rule("decorated")
    def decorated(_ctx: object) -> bool:
        return True

    @step(rules=[on_main])
    async def guarded(ctx: Context) -> None: ...

    found = settings(rules=[no_bots, decorated])
    flow = workflow("w", jobs=[job("j", runs_on="x", steps=[guarded])], rules=[on_main])

    assert [(entry.label, entry.negate) for entry in found.rules] == [("bots", True), ("decorated", False)]
    assert (guarded.settings.rules, flow.rules) == ((on_main,), (on_main,))
    assert codes(lambda: settings(rules=[lambda ctx: True])) == ["E119"]
    assert codes(lambda: settings(rules=[rule("pending")])) == ["E119"]
    assert codes(lambda: rule("x", 5)) == ["E119"]  # type: ignore[call-overload]


@pytest.mark.parametrize(("index", "expected"), [(0, [True, False, False]), (2, [False, True, True])])
def test_position_rules(index: int, expected: list[bool]) -> None:
    """AU-34, AU-35"""
    from kici import Fanout

    ctx = FakeRuleContext(fanout=Fanout(index=index, total=3))
    rules = [only_on_first_host(), only_on_last_host(), only_on_fanout_index(2)]

    assert [entry.check(ctx) for entry in rules] == expected
    assert codes(lambda: only_on_fanout_index(-1)) == ["E119"]


def test_workflow_hooks_concurrency_and_registries() -> None:
    """AU-33, AU-59, AU-61"""

    def note(ctx: HookContext) -> None: ...

    made = job("j", runs_on="x", steps=[build])
    flow = workflow(
        "w",
        jobs=[made],
        concurrency={"group": "g", "max": 2, "cancel_in_progress": False},
        registries=[
            Registry(url="https://a/simple", token_secret="e:S"),
            {"url": "http://127.0.0.1:8080/", "token_secret": "e:S", "name": "own"},
        ],
        install_env=["e:A"],
        on_cancel=note,
        cleanup=hook(note, timeout="1s"),
        on_success=note,
        on_failure=note,
    )

    assert flow.concurrency == Concurrency(group="g", max=2, cancel_in_progress=False)
    assert [entry.name for entry in flow.registries] == [None, "own"]
    assert flow.install_env == ("e:A",)
    assert flow.cleanup is not None
    assert flow.cleanup.timeout_ms == 1_000
    assert [entry is None for entry in (flow.on_cancel, flow.on_success, flow.on_failure)] == [False] * 3


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"registries": [Registry(url="http://example.com", token_secret="e:S")]}, "E302"),
        ({"registries": [Registry(url="ftp://example.com", token_secret="e:S")]}, "E302"),
        ({"registries": [Registry(url="http://localhost.example.com", token_secret="e:S")]}, "E302"),
        ({"registries": [Registry(url="https://a", token_secret="S")]}, "E301"),
        ({"registries": [Registry(url="https://a", token_secret="e:S")] * 2}, "E303"),
        ({"registries": [Registry(url="https://a", token_secret="e:S", name="n")] * 2}, "E303"),
        ({"install_env": ["S"]}, "E301"),
        ({"concurrency": {"group": ""}}, "E119"),
        ({"concurrency": Concurrency(group="g", max=0)}, "E205"),
        ({"rules": [5]}, "E119"),
    ],
)
def test_bad_workflow_options(options: dict[str, Any], code: str) -> None:
    """AU-59, AU-61, AU-90"""
    made = job("j", runs_on="x", steps=[build])

    assert codes(lambda: workflow("w", jobs=[made], **options)) == [code]


# ── steps that check and wait ──


def test_checks() -> None:
    """AU-48: E306"""

    @step(check=no_drift, summarize=", ".join, when_in_sync=build)
    async def install(ctx: Context, drift: list[str]) -> int:
        return len(drift)

    facet = install.settings.check
    assert facet is not None
    assert (facet.check, facet.when_in_sync, facet.summarize(["a", "b"])) == (no_drift, build, "a, b")
    assert codes(lambda: step(check=no_drift)(lambda ctx, drift: None)) == ["E306"]  # type: ignore[call-overload]
    assert codes(lambda: step(summarize=str)(lambda ctx: None)) == ["E306"]  # type: ignore[call-overload]
    assert codes(lambda: step(check=no_drift, summarize=str)(lambda ctx: None)) == ["E306"]  # type: ignore[misc, arg-type]


def test_waiting_and_restarting_steps() -> None:
    """AU-50, AU-51"""

    async def ready(ctx: Context) -> bool | None:
        return None

    waits = wait_for_step(
        "up", ready, interval="500ms", timeout="2m", initial_delay=1, swallow_errors=False
    )
    facet = waits.settings.wait
    assert facet is not None
    assert (facet.interval_ms, facet.timeout_ms, facet.initial_delay_ms, facet.swallow_errors) == (
        500,
        120_000,
        1_000,
        False,
    )
    assert (waits.name, waits.fn) == ("up", ready)

    async def probe() -> None: ...

    alive = wait_for_host_alive(probe)
    assert alive.settings.wait is not None
    assert (alive.settings.wait.interval_ms, alive.settings.wait.timeout_ms) == (3_000, 300_000)
    assert restart_host(deadline="10m").settings.restarts_host is True
    assert codes(lambda: restart_host(deadline="soon")) == ["E309"]
    assert codes(lambda: wait_for_step("up", ready, timeout=0)) == ["E309"]


# ── names, groups, generators ──


def test_bound_steps_can_be_named_apart() -> None:
    """AU-10, AU-11, AU-44: `.named` tells bound copies of one step apart."""

    @step
    async def scan(ctx: Context, *, target: str) -> None: ...

    with problems.collect() as found:
        job("j", runs_on="x", steps=[scan.bind(target="a"), scan.bind(target="b")])
    assert [(problem.code, problem.help) for problem in found] == [
        ("E108", "name them apart: scan.bind(…).named('scan-2')")
    ]

    two = job(
        "j",
        runs_on="x",
        steps=[scan.bind(target="a").named("scan-a"), parallel(scan.bind(target="b").named("scan-b"))],
    )
    assert [(flat.step.name, flat.step.params) for flat in flat_steps(two.steps)] == [
        ("scan-a", {"target": "a"}),
        ("scan-b", {"target": "b"}),
    ]
    assert scan.name == "scan"
    assert codes(lambda: scan.named("__x")) == ["E117"]


def test_generators_are_groups() -> None:
    """AU-24, AU-43"""
    static = job("static", runs_on="x", steps=[build])

    @dynamic_jobs("reports", needs=[static, need("other", when="always")])
    def reports(g: GenerateContext) -> list[MultiJob]:
        return []

    @dynamic_jobs()
    def by_its_name(g: GenerateContext) -> list[MultiJob]:
        return []

    after = job(
        "after",
        runs_on="x",
        steps=[build],
        needs=[reports, group("elsewhere", when="on-skip"), need(by_its_name, when="always")],
    )
    flow = workflow("w", jobs=[static, reports, by_its_name, after])

    assert (flow.generators, flow.jobs) == ((reports, by_its_name), (static, after))
    assert [edge.name for edge in reports.needs] == ["static", "other"]
    assert [(edge.name, edge.group, edge.job) for edge in after.options.needs] == [
        ("", "reports", reports),
        ("", "elsewhere", None),
        ("", "by-its-name", by_its_name),
    ]
    assert workflow("only", jobs=[reports]).jobs == ()
    assert codes(lambda: workflow("w", jobs=[after, dynamic_jobs("x")])) == ["E115"]  # type: ignore[list-item]
    assert codes(lambda: job("j", runs_on="x", steps=[build], needs=[reports, reports])) == ["E119"]


def test_a_mistake_in_any_option_names_it() -> None:
    """AU-90: unknown options are answered with the nearest known one."""
    with pytest.raises(DefinitionError) as wrong:
        settings(enviroment="x")

    assert wrong.value.problem.help == "did you mean `environment`?"
    with pytest.raises(DefinitionError) as wrong:
        step(chek=no_drift)  # type: ignore[call-overload]
        step(chek=no_drift)(lambda ctx: None)  # type: ignore[call-overload]
    assert wrong.value.problem.help == "did you mean `check`?"


def test_jobs_and_steps_are_generic_values() -> None:
    assert isinstance(build, Step)
    assert isinstance(job("x", runs_on="x")(build), Job)
