"""What the lock file says about every option of jobs, steps and workflows, and what generators hand on."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kici.compiler.reading import AWAITED
from kici.sdk import job, problems, refs, services, step
from kici.sdk.context import Context
from kici.sdk.definitions import Job, MultiJob, flat_steps
from kici.sdk.loader import load_workflow_file
from kici.sdk.refs import UnknownReference, hook_of, hook_reference, reference, step_of
from kici.sdk.shaping import relative, shape_generated
from kici.spec import lock
from tests.support.repository import Repository


@step
async def scan(ctx: Context) -> None: ...


EVERYTHING = """
    import platform

    def note(ctx): ...

    async def look(ctx: Context) -> str | None:
        return None

    @step(
        check=look, summarize=str, when_in_sync=look, approval=Approval(when="drift", timeout="1h"),
        cache=Cache(key=cache_key("uv", "3.12", files=["uv.lock"]), paths=["~/.cache/uv"], restore_keys=["uv-"]),
        rules=[rule("first", lambda ctx: ctx.fanout.first)], on_cancel=note, cleanup=note,
    )
    async def install(ctx: Context, drift: str) -> str:
        return drift

    big = job(
        "big", runs_on="kici:os:linux",
        steps=[install, parallel(build, scan.bind(target="x"), fail_fast=False, max_parallel=1, name="both")],
        environment=["staging", lambda event: f"pr-{event.payload.number}", lambda event: platform.node()],
        env=lambda event: {"BRANCH": event.target_branch or ""},
        concurrency_group=lambda event: event.target_branch,
        rules=[
            rule("main only", lambda ctx: ctx.event.target_branch == "main"),
            skip("bots", lambda ctx: ctx.event.sender_username == "bot"),
            only_on_fanout_index(1),
        ],
        container=Container(image="python:3.12", env={"A": "1"}),
        resources={"memory": "2g", "cpus": 1.5},
        init=[uv(python="3.12", groups=["dev"], cache=False), Init(run="true", timeout="5s", env={"B": "2"}), "auto"],
        cache={"key": "k", "paths": ["out"]},
        approval=[team("sre"), user("ada")],
        matrix=lambda g: ["a", "b"],
        max_parallel=2, fail_fast=True,
    )
    fleet = job(
        "fleet", runs_on_all=Hosts(include=[["role:web", "!old"], "edge-*"], exclude="draining"),
        on_unreachable="skip", steps=[build], init=False,
        env=lambda event: {"HOST": platform.node()}, concurrency_group=lambda event: platform.node(),
    )

    @dynamic_jobs("reports", needs=[big])
    async def reports(g: GenerateContext) -> list[MultiJob]:
        return []

    @dynamic_jobs(needs=[reports])
    async def more(g: GenerateContext) -> list[MultiJob]:
        return []

    after = job("after", runs_on="linux", steps=[build], needs=[need(reports, when="always"), more, group("reports")][:2])

    ci = workflow(
        "ci", on=push(), jobs=[big, fleet, reports, more, after],
        rules=[rule("not forks", lambda ctx: not ctx.event.is_fork_pr)],
        registries=[Registry(url="https://pypi.example.com/simple", token_secret="build:TOKEN", name="inner")],
        install_env=["build:EXTRA"],
        concurrency=Concurrency(group=lambda c: f"{c.workflow}-{c.ref}", cancel_in_progress=False, max=2),
        approval=True, on_cancel=note, cleanup=note, on_success=note, on_failure=note, timeout="1h",
    )
"""


def tree(*expression: Any) -> lock.Inline:
    return lock.Inline(expression=list(expression))


def test_every_option_stands_in_the_lock_file(tmp_path: Path) -> None:
    """AU-97 (keys), AU-41, AU-54, AU-56, AU-57, AU-58, AU-59, AU-60, AU-61: nothing an author writes is lost."""
    (workflow,) = Repository(tmp_path).workflow(EVERYTHING).lock().workflows
    jobs = {job.name: job for job in workflow.jobs}
    event = ["arg"]
    branch = ["attr", event, "target_branch"]
    big = jobs["big"]
    assert big.environments == [
        lock.DynamicValue(value="staging"),
        lock.DynamicValue(
            inline=tree("text", "pr-", ["format", ["attr", ["attr", event, "payload"], "number"], "", ""])
        ),
        lock.DynamicValue(dynamic=True),
    ]
    assert big.inline_env == tree("dict", ["BRANCH", ["or", branch, ""]])
    assert (big.dynamic_env, big.env) == (False, {})
    assert big.concurrency_group == tree(*branch)
    assert [(rule.label, rule.negate) for rule in big.rules] == [
        ("main only", False),
        ("bots", True),
        ("only on fan-out index 1", False),
    ]
    assert all(rule.inline is not None for rule in big.rules)
    index = ["attr", ["attr", ["arg"], "fanout"], "index"]
    assert big.rules[2].inline == tree("call", "bool", ["compare", index, "==", 1])
    assert big.container == lock.Container(image="python:3.12", env={"A": "1"})
    amount = lock.Amount(memory_bytes=2 << 30, cpus=1.5)
    assert big.resources == lock.Resources(requests=amount, limits=amount)
    assert big.init == [
        lock.Init(preset="uv", use_cache=False, options={"python": "3.12", "groups": ["dev"]}),
        lock.Init(run="true", timeout=5_000, env={"B": "2"}),
        lock.Init(preset="auto"),
    ]
    assert big.cache == [lock.Cache(key="k", paths=["out"])]
    assert big.approval == lock.Approval(clauses=[lock.Approver(team="sre"), lock.Approver(user="ada")])
    assert big.matrix == lock.Matrix(type="dynamic")
    install, first, second = big.steps
    assert install.approval == lock.Approval(when="drift", timeout_seconds=3_600)
    assert install.cache == [
        lock.Cache(
            paths=["~/.cache/uv"], prefix="uv", parts=["3.12"], files=["uv.lock"], restore_keys=["uv-"]
        )
    ]
    assert [rule.label for rule in install.rules] == ["first"]
    assert (install.has_check, install.has_when_in_sync) == (True, True)
    assert (install.has_on_cancel, install.has_cleanup) == (True, True)
    assert [
        (step.parallel_group, step.parallel_fail_fast, step.parallel_max) for step in (first, second)
    ] == [("both", False, 1)] * 2
    fleet = jobs["fleet"]
    assert fleet.runs_on_all == lock.HostSelection(
        include=[
            [lock.LabelMatcher(kind="exact", value="role:web")],
            [lock.LabelMatcher(kind="regex", source="^edge-[^/]*$")],
        ],
        exclude=[
            lock.LabelMatcher(kind="exact", value="draining"),
            lock.LabelMatcher(kind="exact", value="old"),
        ],
    )
    assert (fleet.on_unreachable, fleet.init_off, fleet.init) == ("skip", True, [])
    assert (fleet.dynamic_env, fleet.dynamic_concurrency_group) == (True, True)
    assert [(job.name, job.type, job.source.index, job.group) for job in workflow.jobs[-2:]] == [
        ("reports", "dynamic", 0, "reports"),
        ("more", "dynamic", 1, "more"),
    ]
    assert [(need.name, need.group) for need in jobs["reports"].needs] == [("big", "")]
    assert [(need.name, need.group) for need in jobs["more"].needs] == [("", "reports")]
    assert [(need.group, len(need.run_on)) for need in jobs["after"].needs] == [
        ("reports", 6),
        ("more", 1),
    ]
    assert workflow.concurrency == lock.Concurrency(
        group=tree(
            "text",
            ["format", ["attr", ["arg"], "workflow"], "", ""],
            "-",
            ["format", ["attr", ["arg"], "ref"], "", ""],
        ),
        cancel_in_progress=False,
        max=2,
    )
    assert workflow.registries == [
        lock.Registry(url="https://pypi.example.com/simple", token_secret="build:TOKEN", name="inner")
    ]
    assert workflow.install_env == ["build:EXTRA"]
    assert workflow.approval == lock.Approval()
    assert [rule.label for rule in workflow.rules] == ["not forks"]
    hooks = ("has_on_cancel", "has_cleanup", "has_on_success", "has_on_failure")
    assert all(getattr(workflow, name) for name in hooks)


def test_impure_functions_are_told_with_their_reason(tmp_path: Path) -> None:
    """AU-42: W301 at the function, saying what stands in the way."""
    told = [
        problem.text().partition("\n")[0]
        for problem in Repository(tmp_path).workflow(EVERYTHING).compile().problems
        if problem.code == "W301"
    ]
    where = ".kici/workflows/ci.py"
    assert [line.removeprefix(where).partition(": warning[W301]: ")[2] for line in told] == [
        "`environment` of job 'big' is evaluated on an agent: it calls platform.node",
        "`concurrency_group` of job 'fleet' is evaluated on an agent: it calls platform.node",
        "`env` of job 'fleet' is evaluated on an agent: it calls platform.node",
    ]


def test_every_awaitable_member_of_a_context_is_known() -> None:
    """AU-14 (W602): a call whose result is a coroutine has to be awaited, whatever it is called."""

    def members(kind: type[Any], path: str) -> set[str]:
        found: set[str] = set()
        for base in kind.__mro__:
            for name, value in vars(base).items():
                if name.startswith("_"):
                    continue
                if isinstance(value, property):
                    part = getattr(services, str(value.fget.__annotations__.get("return")), None) or (
                        value.fget.__annotations__.get("return") if value.fget else None
                    )
                    if isinstance(part, type) and part.__module__ == services.__name__:
                        found |= members(part, f"{path}{name}.")
                elif "Coroutine" in str(getattr(value, "__annotations__", {}).get("return", "")):
                    found.add(path + name)
        return found

    awaited = members(Context, "") | {"emit"}  # overloads keep no annotation
    assert awaited == AWAITED


GENERATED = """
from kici import *

def note(ctx): ...
def outer():
    def inner(ctx): ...
    return inner
hidden = outer()
class Tools:
    @staticmethod
    def tidy(ctx): ...

@step(retry=2)
async def scan(ctx: Context, *, target: str, deep: bool = False) -> int:
    return len(target)

scan_api = scan.bind(target="api")
wait = wait_for_step("up", lambda ctx: True)

def bare(ctx): ...

good = job("good", runs_on="linux", steps=[scan.bind(target="x", deep=True), scan_api.named("api"), wait, bare],
           on_success=note, cleanup=hook(Tools.tidy, timeout="9s"), env={"A": "1"},
           rules=[rule("main", lambda ctx: ctx.event.target_branch == "main")])

@step
def made(ctx): ...
lone = made
del made

def bad():
    @step
    def closure(ctx): ...
    return job(
        "bad", runs_on="linux",
        steps=[closure, lambda ctx: None, scan.bind(target={"x": object()}), scan.bind(target="y", speed=2).named("s")],
        on_failure=lambda ctx: None, matrix=lambda g: [1], env=lambda event: {"A": open("x").read()},
    )

ci = workflow("ci", on=push(), jobs=[good])
"""


@pytest.fixture
def module(tmp_path: Path) -> dict[str, Any]:
    name = f"generated_{tmp_path.name.replace('-', '_')}"
    repository = Repository(tmp_path).write({f"workflows/{name}.py": GENERATED})
    path = repository.kici_dir / "workflows" / f"{name}.py"
    return vars(load_workflow_file(str(repository.kici_dir), str(path)))


def test_generated_jobs_are_data(module: dict[str, Any], tmp_path: Path) -> None:
    """AU-44: module, name and JSON parameters, through JSON and back to the very same steps and hooks."""
    good: Job[Any] | MultiJob = module["good"]
    with problems.collect() as found:
        shaped = shape_generated(good, str(tmp_path), group="reports")
    assert found == []
    assert (shaped.generated, shaped.group, shaped.env) == (True, "reports", {"A": "1"})
    back = msgspec.json.decode(msgspec.json.encode(shaped), type=lock.LockJob)
    assert back == shaped
    steps = [step.ref for step in back.steps if step.ref]
    assert [(ref.name, ref.params) for ref in steps] == [
        ("scan", {"target": "x", "deep": True}),
        ("scan", {"target": "api"}),
        ("wait", {}),
        ("bare", {}),
    ]
    rebuilt = [step_of(ref, name=step.name) for ref, step in zip(steps, back.steps, strict=True)]
    originals = [flat.step for flat in flat_steps(good.steps)]
    for made, original in zip(rebuilt, originals, strict=True):
        assert (made.name, made.fn, made.params) == (original.name, original.fn, original.params)
        assert made.settings.retry == original.settings.retry
    assert {kind: (hook_of(ref).fn, hook_of(ref).timeout_ms) for kind, ref in back.hooks.items()} == {
        "onSuccess": (module["note"], 300_000),
        "cleanup": (module["Tools"].tidy, 9_000),
    }


def test_an_installed_package_is_no_file_of_the_repository(tmp_path: Path) -> None:
    """AU-12: its folder is in no commit, and differs with the Python that compiles."""
    files = {
        ".kici/workflows/ci.py": ".kici/workflows/ci.py",
        ".kici/.venv/lib/python3.12/site-packages/acme/steps.py": "steps.py",
        "../elsewhere/steps.py": "steps.py",
        "..notes/steps.py": "..notes/steps.py",
    }
    assert {file: relative(str(tmp_path), str(tmp_path / file)) for file in files} == files


def test_closures_are_refused_with_a_reason(module: dict[str, Any], tmp_path: Path) -> None:
    """AU-44: E603 for all that cannot travel, all at once."""
    with problems.collect() as found:
        shape_generated(module["bad"](), str(tmp_path), group="reports")
    assert [(problem.code, problem.message) for problem in found] == [
        (
            "E603",
            "generated job 'bad': `env` of job 'bad' cannot travel: its function is not pure (it calls open('x').read)",
        ),
        (
            "E603",
            "generated job 'bad': its matrix cannot travel: it is a function; pass the values themselves",
        ),
        (
            "E603",
            "generated job 'bad': step 'closure' cannot travel: it is a function made inside another one, a closure",
        ),
        ("E603", "generated job 'bad': step 'step-1' cannot travel: it is a lambda"),
        ("E603", "generated job 'bad': step 'scan' cannot travel: its parameter target.x is not JSON"),
        ("E118", "job 'bad': step 's' has no parameter 'speed', which .bind() sets"),
        ("E603", "generated job 'bad': hook `on_failure` cannot travel: it is a lambda"),
    ]


@pytest.mark.parametrize("label", [r"(?=x)y", r"(?<!a)b", r"(a)\1", r"(?P<n>a)(?P=n)"])
def test_regexes_of_generated_jobs_are_those_of_re2(label: str, tmp_path: Path) -> None:
    """AU-18, AU-44: generators run where RE2 is not; what it lacks is refused all the same."""
    made = job("made", runs_on=["linux", re.compile(label)], steps=[scan])
    with problems.collect() as found:
        shape_generated(made, str(tmp_path), group="g")
    assert [problem.code for problem in found] == ["E204"]
    fine = job("fine", runs_on=["linux", re.compile(r"^gpu-(?:a|b)\d+$")], steps=[scan])
    with problems.collect() as found:
        shape_generated(fine, str(tmp_path), group="g")
    assert found == []


def test_references_that_lead_nowhere(module: dict[str, Any]) -> None:
    """AU-44: a name that is gone is an error with its name."""
    ref = reference(module["lone"])
    assert isinstance(ref, lock.StepRef)
    assert ref.name == "lone"  # found under the name that holds it
    for wrong, text in (
        (lock.StepRef(module="not_there_at_all", name="x"), "module not_there_at_all cannot be imported"),
        (lock.StepRef(module=ref.module, name="absent"), "has no absent"),
        (lock.StepRef(module=ref.module, name="__doc__"), "has no __doc__"),
        (lock.StepRef(module=ref.module, name="__name__"), "is a str, not a step"),
    ):
        with pytest.raises(UnknownReference, match=text):
            step_of(wrong)
    with pytest.raises(UnknownReference, match="is a str, not a function"):
        hook_of(lock.StepRef(module=ref.module, name="__name__"))
    hook = refs.make_hook(module["hidden"], 1_000, module["lone"].source)
    assert hook is not None
    assert isinstance(hook_reference(hook), str)
