"""What prepares a job, and the files that it keeps between runs (AU-57, AU-58, AG-45, AG-48, AG-78)."""

import asyncio
import os
from pathlib import Path

import pytest

from kici.runner.environment import step_environment
from kici.runner.host import Zygote
from kici.runner.uvprogram import find_uv
from kici.spec.ids import CACHE_STEPS, INIT_STEPS
from kici.spec.states import JobStatus
from tests.process.runner.builders import Host, Recorder, Repo, run

pytestmark = pytest.mark.process

STEP = """
@step
async def one(ctx: Context) -> None:
    await ctx.sh('echo "$FIRST $SECOND"; command -v tool')
"""


def environment(repo: Repo, *programs: Path) -> dict[str, str]:
    """With a home of its own, and folders of programs first on PATH."""
    home = repo.root.parent / "home"
    home.mkdir(exist_ok=True)
    env = step_environment(os.environ)
    path = ":".join([*map(str, programs), env["PATH"]])
    return {**env, "HOME": str(home), "PATH": path}


async def test_inits_run_in_order_and_export(repo: Repo) -> None:
    """AU-57, AG-45: exports of one are seen by the next and by the steps; other shells work."""
    repo.write(
        STEP
        + """
async def last(ctx: HookContext) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[one], cleanup=last, init=[
    Init(run='echo "FIRST=$START" >> "$KICI_ENV"; mkdir bin; echo "$PWD/bin" >> "$KICI_PATH"', env={"START": "1"}),
    Init(run='echo "SECOND=$FIRST+1" >> "$KICI_ENV"; printf "#!/bin/sh" > bin/tool; chmod +x bin/tool', shell="sh"),
    Init(run='import os; print("from python", os.environ["SECOND"])', shell="python3"),
])]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert [(row.step_index, row.step_name, row.step_type) for row in seen.starts[:3]] == [
        (INIT_STEPS, "init:0", "init"),
        (INIT_STEPS + 1, "init:1", "init"),
        (INIT_STEPS + 2, "init:2", "init"),
    ]
    assert seen.text(INIT_STEPS + 2) == "from python 1+1\n"
    assert seen.text(0) == f"1 1+1\n{repo.root}/bin/tool\n"


@pytest.mark.parametrize(
    ("script", "timeout", "why"),
    [
        ("echo no >&2; exit 4", "10m", "exited with code 4"),
        ("sleep 1000", "200ms", "timed out after 200ms"),
    ],
)
async def test_an_init_that_fails_fails_the_job_before_any_step(
    repo: Repo, script: str, timeout: str, why: str
) -> None:
    """AU-57: what comes after it does not begin; hooks of the failure run."""
    repo.write(
        STEP
        + f"""
async def tell(ctx: HookContext) -> None: print(ctx.outcome.status)
jobs = [job("j", runs_on=LINUX, steps=[one], on_failure=tell, init=[
    Init(run={script!r}, timeout={timeout!r}), Init(run="echo never")])]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("init:0 failed: ")
    assert why in str(result.error_message)
    assert seen.statuses() == {"init:0": "failed", "one": "skipped", "on_failure": "success"}


@pytest.mark.parametrize("force", [False, True])
async def test_an_init_can_be_cancelled(repo: Repo, force: bool) -> None:
    """AG-56, AG-57: the script's tree dies; hooks follow unless it is forced."""
    repo.write(
        STEP
        + """
async def tidy(ctx: HookContext) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[one], cleanup=tidy, grace_period="2s",
            init=Init(run='trap "" TERM; echo ready; sleep 1000 & wait; sleep 1000'))]
"""
    )
    seen = Recorder()
    async with asyncio.timeout(30), Zygote.start() as zygote, asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(zygote.run(repo.execute("j"), seen))
        await seen.printed("ready", INIT_STEPS)
        zygote.abort("j", "by ada", force=force)
        result = await ended
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "by ada")
    assert seen.statuses()["init:0"] == "cancelled"
    assert ("cleanup" in seen.statuses()) is not force


async def test_auto_finds_nothing_and_says_so(repo: Repo) -> None:
    """AU-57."""
    repo.write(
        "@step\nasync def one(ctx: Context): ...\njobs = [job('j', runs_on=LINUX, steps=[one], init='auto')]"
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS
    assert "nothing to do" in seen.text(INIT_STEPS)


async def test_uv_prepares_the_environment(repo: Repo) -> None:
    """AU-57: `uv sync` of the real program; its environment is on PATH; auto finds uv.lock."""
    (repo.root / "pyproject.toml").write_text(
        '[project]\nname = "sample"\nversion = "1"\nrequires-python = ">=3.11"\n[tool.uv]\npackage = false\n'
    )
    (repo.root / "uv.lock").write_text(
        'version = 1\nrevision = 3\nrequires-python = ">=3.11"\n\n[[package]]\nname = "sample"\n'
        'version = "1"\nsource = { virtual = "." }\n'
    )
    repo.write(
        """
@step
async def which(ctx: Context) -> list:
    python = await ctx.sh("command -v python")
    return [python.text, ctx.env["VIRTUAL_ENV"]]
jobs = [job("j", runs_on=LINUX, steps=[which], init="auto"), job("k", runs_on=LINUX, steps=[which], init=uv(cache=False))]
"""
    )
    env = {**environment(repo), "UV_OFFLINE": "1", "UV_PYTHON_DOWNLOADS": "never"}
    for name in ("j", "k"):
        result, seen = await run(repo, name, env=env, services=Host(repo.root.parent), uv=find_uv(env))
        assert result.status == JobStatus.SUCCESS, (result.error_message, seen.text(INIT_STEPS))
        assert result.outputs["which"] == [f"{repo.root}/.venv/bin/python", f"{repo.root}/.venv"]


async def test_mise_tools_come_on_path(repo: Repo, tmp_path: Path) -> None:
    """AU-57: the program named mise is asked to install and where its tools are; the key is of its files."""
    programs = tmp_path / "programs"
    programs.mkdir()
    mise = programs / "mise"
    mise.write_text(
        "#!/bin/bash\ncase $1 in\n"
        f"bin-paths) echo {tmp_path}/tools ;;\n"
        "env) printf 'PATH=/nowhere\\nNODE_ENV=ci\\n' ;;\n"
        '*) echo "mise $*"; mkdir -p ~/.local/share/mise; echo x > ~/.local/share/mise/installed ;;\nesac\n'
    )
    mise.chmod(0o755)
    (repo.root / "mise.toml").write_text('[tools]\nnode = "22"\n')
    repo.write(
        """
@step
async def sees(ctx: Context) -> list:
    return [ctx.env["PATH"].split(":")[0], ctx.env["NODE_ENV"]]
jobs = [job("j", runs_on=LINUX, steps=[sees], init=mise())]
"""
    )
    host = Host(repo.root.parent)
    result, seen = await run(repo, "j", env=environment(repo, programs), services=host)
    assert result.outputs == {"sees": [f"{tmp_path}/tools", "ci"]}, seen.text(INIT_STEPS)
    assert "mise install --yes" in seen.text(INIT_STEPS)
    assert [row.step_type for row in seen.starts] == ["cache:restore", "init", "cache:save", "step"]
    (stored,) = host.caches.iterdir()
    assert stored.name.startswith("mise-linux-")
    result, seen = await run(repo, "j", env=environment(repo), services=host)
    assert "mise is not installed on this agent" in str(result.error_message)


CACHED = """
CACHE = Cache(key=cache_key("deps", "v1", files=["deps.lock"]), paths=["deps", "~/.deps"], restore_keys=["deps-v1-"])

@step
async def install(ctx: Context) -> str:
    found = Path("deps/lib.txt")
    what = found.read_text() if found.exists() else "nothing"
    Path("deps").mkdir(exist_ok=True)
    found.write_text(Path("deps.lock").read_text())
    home = Path(ctx.env["HOME"]) / ".deps"
    home.mkdir(exist_ok=True)
    (home / "tool").write_text("#!/bin/sh\\n")
    (home / "tool").chmod(0o755)
    return what
"""


def clean(repo: Repo) -> None:
    for path in [*repo.root.glob("deps/*"), *(repo.root.parent / "home").glob(".deps/*")]:
        path.unlink()


@pytest.mark.parametrize("where", ["job", "step"])
async def test_a_cache_is_restored_and_saved_once(repo: Repo, where: str) -> None:
    """AU-58, AG-78: miss and save, exact hit and nothing to save, hit by prefix and save of the new key."""
    option = "cache=CACHE" if where == "job" else ""
    source = CACHED if where == "job" else CACHED.replace("@step\n", "@step(cache=CACHE)\n")
    repo.write(f"{source}\njobs = [job('j', runs_on=LINUX, steps=[install], {option})]")
    host = Host(repo.root.parent)
    env = environment(repo)
    (repo.root / "deps.lock").write_text("one")

    async def once() -> tuple[str, list[tuple[str, str | None]]]:
        result, seen = await run(repo, "j", env=env, services=host)
        assert result.status == JobStatus.SUCCESS, result.error_message
        ends = [seen.ends[row.step_index] for row in seen.starts]
        clean_rows = [(end.step_type, end.check_outcome) for end in ends if end.step_type != "step"]
        clean(repo)
        return result.outputs["install"], clean_rows

    assert await once() == ("nothing", [("cache:restore", "miss"), ("cache:save", "saved")])
    assert await once() == ("one", [("cache:restore", "hit")])
    (repo.root / "deps.lock").write_text("two")
    assert await once() == ("one", [("cache:restore", "hit"), ("cache:save", "saved")])
    assert await once() == ("two", [("cache:restore", "hit")])
    assert len(list(host.caches.iterdir())) == 2


async def test_a_cache_by_hand_may_be_a_mapping_and_hold_globs(repo: Repo) -> None:
    """AU-58: as everywhere, a mapping with the same keys does."""
    repo.write(
        """
@step
async def keep(ctx: Context) -> list:
    spec = {"key": "k", "paths": ["st/**"]}
    Path("st/in").mkdir(parents=True)
    Path("st/in/f").write_text("kept")
    saved = await ctx.cache.save(spec)
    Path("st/in/f").write_text("lost")
    hit = await ctx.cache.restore(spec)
    return [saved, hit.hit, Path("st/in/f").read_text()]
jobs = [job("j", runs_on=LINUX, steps=[keep])]
"""
    )
    result, _seen = await run(repo, "j", services=Host(repo.root.parent))
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs["keep"] == [True, True, "kept"]


async def test_a_cache_of_a_failed_job_is_not_saved(repo: Repo) -> None:
    """AU-58: only after success."""
    repo.write(
        """
@step
async def fails(ctx: Context) -> None:
    Path("deps").write_text("half")
    raise RuntimeError
jobs = [job("j", runs_on=LINUX, steps=[fails], cache=Cache(key="k", paths=["deps"]))]
"""
    )
    host = Host(repo.root.parent)
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.FAILED
    assert host.methods() == ["cache.restore"]
    assert seen.starts[0].step_index == CACHE_STEPS


async def test_cache_errors_only_warn(repo: Repo) -> None:
    """AU-58: neither a host without caches, nor a broken archive, nor a bad answer fails anything."""
    repo.write(
        """
CACHE = Cache(key="k", paths=["deps"])
@step
async def hands(ctx: Context) -> list:
    found = await ctx.cache.restore(CACHE)
    try:
        await ctx.cache.restore(Cache(key="k", paths=["../up"]))
    except KiciError as error:
        print(error.code)
    return [found.hit, found.matched_key, await ctx.cache.save(CACHE)]
jobs = [job("j", runs_on=LINUX, steps=[hands], cache=CACHE)]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS
    assert result.outputs["hands"] == [False, None, False]
    end = seen.ends[CACHE_STEPS]
    assert (end.status, end.check_outcome) == ("skipped", "error")
    assert "cache.restore is not available" in str(end.error_message)
    assert seen.text(0).count("warning: cache 'k' was not") == 2
    assert "cache_path" in seen.text(0)
    host = Host(repo.root.parent)
    (host.caches / "k.tgz").write_bytes(b"no archive")
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.SUCCESS
    assert seen.ends[CACHE_STEPS].check_outcome == "error"


async def test_caches_by_hand(repo: Repo) -> None:
    """AG-78: the second save of a key is refused, a restore tells the matched key."""
    repo.write(
        """
CACHE = Cache(key="k1", paths=["deps"], restore_keys=["k"])
@step
async def hands(ctx: Context) -> list:
    Path("deps").write_text("x")
    first, second = await ctx.cache.save(CACHE), await ctx.cache.save(CACHE)
    Path("deps").unlink()
    found = await ctx.cache.restore(Cache(key="k2", paths=["deps"], restore_keys=["k"]))
    return [first, second, found.hit, found.matched_key, Path("deps").read_text()]
jobs = [job("j", runs_on=LINUX, steps=[hands])]
"""
    )
    result, _seen = await run(repo, "j", services=Host(repo.root.parent))
    assert result.outputs["hands"] == [True, False, True, "k1", "x"]


async def test_a_hanging_cache_does_not_outlive_a_cancel(repo: Repo) -> None:
    """AG-56."""
    repo.write(
        STEP + "\njobs = [job('j', runs_on=LINUX, steps=[one], cache=Cache(key='k', paths=['deps']))]"
    )
    asked = asyncio.Event()

    class Hangs:
        async def request(self, job_id: str, method: str, params: object) -> object:
            asked.set()
            return await asyncio.get_running_loop().create_future()

    seen = Recorder()
    async with asyncio.timeout(30), Zygote.start() as zygote, asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(zygote.run(repo.execute("j"), seen, services=Hangs()))
        await asked.wait()
        zygote.abort("j", "by ada", force=False)
        result = await ended
    assert result.status == JobStatus.CANCELLED
    assert seen.ends[CACHE_STEPS].status == "cancelled"
    assert seen.statuses()["one"] == "skipped"


async def test_hooks_follow_when_the_runner_dies_in_an_init(repo: Repo) -> None:
    """AG-46, AG-56: a fresh runner runs them; no step begins."""
    repo.write(
        STEP
        + """
async def told(ctx: HookContext) -> None:
    print(ctx.outcome.status)
jobs = [job("j", runs_on=LINUX, steps=[one], on_failure=told, cleanup=told,
            init=Init(run="kill -9 $PPID; sleep 5"))]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert "killed by signal 9" in str(result.error_message)
    assert seen.statuses() == {
        "init:0": "failed",
        "one": "skipped",
        "on_failure": "success",
        "cleanup": "success",
    }


async def test_steps_side_by_side_keep_caches_and_secrets_apart(repo: Repo) -> None:
    """AG-50, AG-64, AG-78: rows of the group carry its name; what one exposes the other does not see."""
    repo.write(
        """
async def work(ctx: Context, *, name: str) -> str | None:
    await ctx.secrets.expose(name.upper())
    Path(name).write_text("x")
    await ctx.sh("sleep 0.1")
    return (await ctx.sh('echo "${A-} ${B-}"')).text
a = step("a", cache=Cache(key="a", paths=["a"]))(work)
b = step("b", cache=Cache(key="b", paths=["b"]), check=lambda ctx: "old", summarize=str)(
    lambda ctx, drift, *, name: work(ctx, name=name))
jobs = [job("j", runs_on=LINUX, steps=[parallel(a.bind(name="a"), b.bind(name="b"), name="both")])]
"""
    )
    host = Host(repo.root.parent, secrets={"A": "left-value", "B": "right-value"})
    result, seen = await run(repo, "j", services=host)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs == {"a": "*** ", "b": " ***"}
    assert {row.group_id for row in seen.starts} == {"both"}
    assert sorted(path.stem for path in host.caches.iterdir()) == ["a", "b"]
    assert "Changing:\nold\n" in seen.text(1)
    assert (seen.end("a").secrets_accessed, seen.end("b").secrets_accessed) == (["A"], ["B"])


async def test_the_jobs_limit_covers_its_init(repo: Repo) -> None:
    """AU-31."""
    repo.write(
        STEP
        + """
jobs = [job("j", runs_on=LINUX, steps=[one], timeout="300ms", grace_period="1s", init=Init(run="sleep 1000"))]
"""
    )
    result, seen = await run(repo, "j")
    assert (result.status, result.timeout_reason) == (JobStatus.FAILED, "job_timeout")
    assert seen.statuses() == {"init:0": "failed", "one": "skipped"}


async def test_fail_fast_reaches_a_sibling_that_has_not_begun(repo: Repo) -> None:
    """AU-32: one that is still busy with its rules does not start after the other failed."""
    repo.write(
        """
async def slow(ctx: RuleContext) -> bool:
    for _ in range(200):
        if Path("failed").exists():
            await asyncio.sleep(0.2)  # the note comes before the group hears of the failure
            return True
        await asyncio.sleep(0.02)
    return False
@step(rules=[rule("slow", slow)])
async def late(ctx: Context) -> None: raise AssertionError("started")
async def note(ctx: HookContext) -> None: Path("failed").touch()
@step
async def fails(ctx: Context) -> None: raise RuntimeError
jobs = [job("j", runs_on=LINUX, steps=[parallel(late, fails)], after_step=note)]
"""
    )
    _result, seen = await run(repo, "j")
    assert seen.statuses()["late"] == "cancelled"
    assert "start late" not in seen.events
