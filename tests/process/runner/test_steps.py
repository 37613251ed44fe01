"""What a job's steps may do and how each way of ending is told."""

import pytest

from kici.spec.events import Event
from kici.spec.states import JobStatus, StepStatus
from tests.process.runner.builders import Repo, run

pytestmark = pytest.mark.process


async def test_a_green_job_prints_and_leaves_outputs(repo: Repo) -> None:
    """AU-13, AU-25."""
    repo.write("""
    print("module level")

    @dataclass
    class Built:
        version: str

    @step
    async def build(ctx: Context) -> Built:
        print("building")
        await ctx.sh('echo "in bash: $v"; echo oops >&2', v="a'b $(c)")
        return Built(version="1.4.0")

    @step
    def plain(ctx: Context) -> list[int]:
        print("from", threading.current_thread().name)
        assert ctx.outputs_of(build).version == "1.4.0"
        return [1, 2]

    jobs = [job("j", runs_on=LINUX, steps=[build, plain])]
    """)
    result, seen = await run(repo, "j")
    assert (result.status, result.error_message) == (JobStatus.SUCCESS, None)
    assert result.outputs == {"build": {"version": "1.4.0"}, "plain": [1, 2]}
    assert seen.text(-1) == "module level\n"
    assert seen.text(0) == "building\nin bash: a'b $(c)\noops\n"
    assert seen.text(1) == "from kici-step\n"
    assert seen.events == ["start build", "end build success", "start plain", "end plain success"]
    assert seen.end("build").exit_code == 0


async def test_a_failing_command_names_itself_and_gives_its_exit_code(repo: Repo) -> None:
    """AU-67, AG-42, AG-44."""
    repo.write("""
    @step
    async def test(ctx: Context) -> None:
        await ctx.sh("echo running; echo first >&2; echo second >&2; exit 7")

    @step
    async def later(ctx: Context) -> None:
        print("never")

    jobs = [job("j", runs_on=LINUX, steps=[test, later])]
    """)
    result, seen = await run(repo, "j")
    end = seen.end("test")
    assert (result.status, end.status, end.exit_code) == (JobStatus.FAILED, StepStatus.FAILED, 7)
    assert end.error_message is not None
    assert "exited with code 7" in end.error_message
    assert end.error_message.endswith("\n  first\n  second")
    assert ".kici/workflows/ci.py:" in end.error_message
    assert result.error_message is not None
    assert result.error_message.startswith("step 'test' failed: CommandError")
    assert seen.end("later").status == StepStatus.SKIPPED
    assert "end later skipped" in seen.events
    assert "start later" not in seen.events


async def test_a_traceback_shows_the_authors_frames_only(repo: Repo) -> None:
    """AU-70."""
    repo.write("""
    def inner():
        raise ValueError("the wrong thing")

    @step
    async def boom(ctx: Context) -> None:
        inner()

    @step
    async def boom2(ctx: Context) -> None:
        await ctx.sh("exit 1")

    jobs = [job("j", runs_on=LINUX, steps=[boom]), job("k", runs_on=LINUX, steps=[boom2])]
    """)
    result, seen = await run(repo, "j")
    log = seen.text(0)
    assert log.count("File ") == 2
    assert log.count('File ".kici/workflows/') == 2  # as in the repository, wherever the checkout lies
    assert "in boom" in log
    assert "in inner" in log
    assert "ValueError: the wrong thing" in log
    assert seen.end("boom").exit_code == 1
    assert result.error_message is not None
    assert "ValueError: the wrong thing (.kici/workflows/ci.py:" in result.error_message
    _result, seen = await run(repo, "k")
    assert seen.text(0).count("File ") == 1
    assert 'await ctx.sh("exit 1")' in seen.text(0)


async def test_sys_exit_ends_the_step_not_the_runner(repo: Repo) -> None:
    repo.write("""
    @step
    async def zero(ctx: Context) -> None:
        sys.exit(0)

    @step(continue_on_error=True)
    async def three(ctx: Context) -> None:
        sys.exit(3)

    @step(continue_on_error=True)
    def four(ctx: Context) -> None:
        sys.exit(4)

    @step
    async def last(ctx: Context) -> None:
        print("still here")

    jobs = [job("j", runs_on=LINUX, steps=[zero, three, four, last])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS
    assert [seen.end(name).exit_code for name in ("zero", "three", "four", "last")] == [0, 3, 4, 0]


async def test_a_call_that_nobody_awaits_fails_the_step(repo: Repo) -> None:
    """AU-14."""
    repo.write("""
    @step
    async def forgot(ctx: Context) -> None:
        ctx.sh("pytest -q")

    @step
    def sync(ctx: Context) -> None:
        ctx.run("pytest", "-q")

    @step
    async def task(ctx: Context) -> None:
        asyncio.get_running_loop().create_task(ctx.sh("sleep 100"))
        await asyncio.sleep(0)

    @step
    async def fine(ctx: Context) -> None:
        one = asyncio.create_task(ctx.sh("echo one"))
        await asyncio.gather(one, ctx.sh("echo two"))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ctx.sh("echo three"))
        try:
            await asyncio.wait_for(ctx.sh("sleep 100"), 0.05)
        except TimeoutError:
            print("four")

    @step
    async def has(ctx: Context) -> None:
        if ctx.secrets.has("absent"):
            print("always true")

    @step
    async def listed(ctx: Context) -> None:
        try:
            "absent" in ctx.secrets.list()
        except Exception as error:
            print("said", error)

    jobs = [job(s.name, runs_on=LINUX, steps=[s]) for s in (forgot, sync, task, fine, has, listed)]
    """)
    result, seen = await run(repo, "forgot")
    assert result.status == JobStatus.FAILED
    assert seen.end("forgot").error_message is not None
    assert "ctx.sh('pytest -q') at .kici/workflows/ci.py:" in str(seen.end("forgot").error_message)
    assert "was never awaited" in seen.text(0)
    result, seen = await run(repo, "sync")
    assert "ctx.run('pytest', '-q') at" in str(result.error_message)
    result, seen = await run(repo, "task")
    assert "was still running when the step ended" in str(result.error_message)
    result, seen = await run(repo, "fine")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert sorted(seen.text(0).split()) == ["four", "one", "three", "two"]
    result, seen = await run(repo, "has")
    assert "ctx.secrets.has('absent') at .kici/workflows/ci.py:" in str(result.error_message)
    assert "always true" not in seen.text(0)
    result, seen = await run(repo, "listed")
    assert "said ctx.secrets.list() at .kici/workflows/ci.py:" in seen.text(0)
    assert "was never awaited" in str(result.error_message)


async def test_outputs_are_checked_against_the_return_type(repo: Repo) -> None:
    """AU-25, AG-51."""
    repo.write("""
    @dataclass
    class Built:
        version: str

    @step
    async def wrong(ctx: Context) -> Built:
        return Built(version=14)

    @step
    async def missing(ctx: Context) -> Built:
        pass

    @step
    async def opaque(ctx: Context):
        return object()

    @step
    async def large(ctx: Context) -> str:
        return "x" * 1_048_577

    @step
    async def optional(ctx: Context) -> Built | None:
        return None

    @step
    async def reads(ctx: Context) -> None:
        assert ctx.outputs_of(optional) is None
        try:
            ctx.outputs_of(wrong)
        except OutputError as error:
            print(error)

    jobs = [job(s.name, runs_on=LINUX, steps=[s]) for s in (wrong, missing, opaque, large)]
    jobs.append(job("fine", runs_on=LINUX, steps=[optional, reads]))
    """)
    result, _ = await run(repo, "wrong")
    assert "the output of step 'wrong' is not a Built: field 'version': Expected `str`, got `int`" in str(
        result.error_message
    )
    result, _ = await run(repo, "missing")
    assert "the output of step 'missing' is not a Built" in str(result.error_message)
    result, _ = await run(repo, "opaque")
    assert "cannot be written as JSON" in str(result.error_message)
    result, _ = await run(repo, "large")
    assert "is 1048579 bytes" in str(result.error_message)
    assert result.outputs == {}
    result, seen = await run(repo, "fine")
    assert result.status == JobStatus.SUCCESS
    assert "step 'wrong' is not part of this job" in seen.text(1)


async def test_outputs_of_other_jobs_come_typed(repo: Repo) -> None:
    """AU-26."""
    repo.write("""
    @dataclass
    class Built:
        version: str

    @step
    async def build(ctx: Context) -> Built:
        return Built(version="1")

    package = job("package", runs_on=LINUX, steps=[build])

    @job(runs_on=LINUX)
    async def notes(ctx: Context) -> dict[str, int]:
        return {}

    @job(runs_on=LINUX, matrix={"os": ["a", "b"]})
    async def test(ctx: Context) -> dict[str, int]:
        return {}

    @job(runs_on=LINUX, needs=[package, notes, test])
    async def deploy(ctx: Context) -> None:
        print(ctx.job_outputs(package).of(build).version, ctx.job_outputs(notes)["a"])
        print(ctx.matrix_outputs(test).by_matrix, ctx.matrix_outputs(test).merged)
        print(ctx.need(notes).status, [n.name for n in ctx.needs["test"]])
        for wrong in (lambda: ctx.job_outputs(test), lambda: ctx.matrix_outputs(notes), lambda: ctx.need("x")):
            try:
                wrong()
            except OutputError as error:
                print(error)

    jobs = [package, notes, test, deploy]
    """)
    result, seen = await run(
        repo,
        "deploy",
        upstream_outputs={
            "package": {"build": {"version": "1.4"}},
            "notes": {"notes": {"a": 1}},
            "test (a)": {"test": {"x": 1, "y": 1}},
            "test (b)": {"test": {"x": 2}},
        },
        upstream_statuses={
            "package": JobStatus.SUCCESS,
            "notes": JobStatus.SUCCESS,
            "test (a)": JobStatus.SUCCESS,
            "test (b)": JobStatus.SUCCESS,
        },
    )
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0).splitlines() == [
        "1.4 1",
        "{'a': {'x': 1, 'y': 1}, 'b': {'x': 2}} {'x': 2, 'y': 1}",
        "success ['test (a)', 'test (b)']",
        "job 'test' is a fan-out: use ctx.matrix_outputs(job)",
        "job 'notes' is not a fan-out: use ctx.job_outputs(job)",
        "job 'x' is not declared in `needs` of this job (declared: package, notes, test); add needs=[x]",
    ]


async def test_variables_reach_later_steps(repo: Repo) -> None:
    """AU-69, AG-49, AG-50."""
    repo.write("""
    @step
    async def one(ctx: Context) -> None:
        ctx.set_env("A", "by ctx")
        ctx.add_path("tools")
        await ctx.sh('''
            echo "B=x=y" >> "$KICI_ENV"
            printf 'C<<END\\nl1\\nl2\\nEND\\n' >> "$KICI_ENV"
            echo "KICI_RUN_ID=fake" >> "$KICI_ENV"
            printf '/first\\n/second\\n' >> "$KICI_PATH"
            echo "$A ${B-unset} ${PATH%%:*}"
        ''')
        os.environ["LEAK"] = "1"

    @step
    async def two(ctx: Context) -> None:
        await ctx.sh('echo "$A|$B|$C|${LEAK-none}|${KICI_RUN_ID-none}"; echo "$PATH" | cut -d: -f1-3')
        subprocess.run(["sh", "-c", 'echo "plain $A"'], check=True)
        print(ctx.env["B"], os.environ["C"].splitlines())
        await ctx.sh('echo "$ONLY$A"', env={"ONLY": "here "})

    jobs = [job("j", runs_on=LINUX, steps=[one, two])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    first, warning = seen.text(0).splitlines()
    assert first == f"by ctx unset {repo.root}/tools"
    assert warning.startswith("warning: KICI_RUN_ID was not exported")
    assert seen.text(1).splitlines() == [
        "by ctx|x=y|l1",
        "l2|none|none",
        f"/first:/second:{repo.root}/tools",
        "plain by ctx",
        "x=y ['l1', 'l2']",
        "here by ctx",
    ]


async def test_retries_are_numbered_and_share_one_log(repo: Repo) -> None:
    """AU-30."""
    repo.write("""
    tries = []

    @step(retry=Retry(attempts=3, delay="10ms", backoff="fixed"))
    async def flaky(ctx: Context) -> str:
        tries.append(1)
        ctx.set_env("N", str(len(tries)))
        if len(tries) < 3:
            await ctx.sh(f"echo FAILED_ONCE=1 >> $KICI_ENV; exit {len(tries)}")
        return "done"

    @step(retry=Retry(attempts=3, delay="10ms", retry_if=OSError), continue_on_error=True)
    async def picky(ctx: Context) -> None:
        raise ValueError("not that")

    @step
    async def after(ctx: Context) -> None:
        print(ctx.env["N"], ctx.env.get("FAILED_ONCE"))

    jobs = [job("j", runs_on=LINUX, steps=[flaky, picky, after])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs == {"flaky": "done"}
    assert [(m.step_name, m.attempt) for m in seen.starts] == [
        ("flaky", 1), ("flaky", 2), ("flaky", 3), ("picky", 1), ("after", 1),
    ]  # fmt: skip
    assert "Attempt 2 of 3 failed: CommandError" in seen.text(0)
    assert seen.end("picky").status == StepStatus.FAILED
    assert seen.text(2) == "3 None\n"


async def test_matrix_values_and_bound_parameters(repo: Repo) -> None:
    """AU-15."""
    repo.write("""
    @step
    async def test(ctx: Context, *, python: str, extra: int = 0) -> None:
        print(python, extra, dict(ctx.matrix))

    jobs = [job("j", runs_on=LINUX, matrix={"python": ["3.12"]}, steps=[test.bind(extra=2)])]
    """)
    result, seen = await run(repo, "j", matrix={"python": "3.12"}, job_name="j (3.12)")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0) == "3.12 2 {'python': '3.12'}\n"


async def test_a_workflow_that_cannot_be_loaded_fails_before_any_step(repo: Repo) -> None:
    repo.write("""
    print("so far so good")
    import no_such_module
    jobs = []
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert "the workflow cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'" in str(
        result.error_message
    )
    assert seen.text(-1).startswith("so far so good\n")
    assert "import no_such_module" in seen.text(-1)
    assert seen.events == []
    result, _ = await run(repo, "j", workflow_file=".kici/workflows/other.py")
    assert "other.py" in str(result.error_message)


async def test_a_job_unknown_to_the_file_points_to_the_lock(repo: Repo) -> None:
    repo.write("""
    @job(runs_on=LINUX)
    async def there(ctx: Context) -> None: ...
    jobs = [there]
    """)
    result, _ = await run(repo, "gone")
    assert "has no job 'gone'; run 'kici compile'" in str(result.error_message)


async def test_modules_of_kici_and_workflows_can_be_imported(repo: Repo) -> None:
    (repo.root / ".kici" / "helpers.py").write_text("WORD = 'helped'\n")
    (repo.root / ".kici" / "workflows" / "shared.py").write_text(
        "from kici import Context, step\n@step\nasync def common(ctx: Context) -> str:\n    return 'shared'\n"
    )
    repo.write("""
    from helpers import WORD
    from workflows.shared import common

    @step
    async def own(ctx: Context) -> None:
        print(WORD, ctx.outputs_of(common))

    jobs = [job("j", runs_on=LINUX, steps=[common, own])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(1) == "helped shared\n"
    assert not list(repo.root.rglob("__pycache__"))


async def test_the_environment_holds_what_the_host_gave_and_nothing_else(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AG-63."""
    monkeypatch.setenv("KICI_AGENT_TOKEN", "kat_secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    repo.write("""
    @step
    async def look(ctx: Context) -> None:
        await ctx.sh("env | cut -d= -f1 | sort | tr '\\\\n' ' '; echo")
        for pid in (os.getpid(), os.getppid()):
            print(b"kat_secret" in Path(f"/proc/{pid}/environ").read_bytes())
        print(sorted(os.environ) == sorted(ctx.env))

    jobs = [job("j", runs_on=LINUX, steps=[look])]
    """)
    result, seen = await run(repo, "j", env={"PATH": "/usr/bin:/bin", "HOME": "/nowhere", "KICI": "1"})
    assert result.status == JobStatus.SUCCESS, result.error_message
    names, runner, zygote, same = seen.text(0).splitlines()
    assert set(names.split()) - {"PWD", "SHLVL", "_"} == {"PATH", "HOME", "KICI", "KICI_ENV", "KICI_PATH"}
    assert (runner, zygote, same) == ("False", "False", "True")


async def test_commands_capture_stream_and_take_input(repo: Repo) -> None:
    """AU-65, AU-67."""
    repo.write("""
    @step
    async def work(ctx: Context) -> None:
        done = await ctx.sh("cat; echo err >&2", input="fed\\n", quiet=True)
        print(repr(done.stdout), repr(done.stderr), done.ok, done.text)
        print((await ctx.run("sh", "-c", "exit 3", check=False)).returncode)
        print((await ctx.run("pwd", cwd="sub", quiet=True)).text == str(ctx.workspace / "sub"))
        print((await ctx.sh('printf "%s,%s" "${#dirs[@]}" "${dirs[1]}"', dirs=["a b", "c d"], quiet=True)).text)
        try:
            await ctx.sh("sleep 100", timeout=0.05)
        except TimeoutError as error:
            print(error)
        try:
            await ctx.run("no-such-program")
        except FileNotFoundError as error:
            print("missing", error.filename)
        try:
            ctx.sh("true", PATH="x")
        except ValueError as error:
            print(error)

    jobs = [job("j", runs_on=LINUX, steps=[work])]
    """)
    (repo.root / "sub").mkdir()
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0).splitlines() == [
        "'fed\\n' 'err\\n' True fed",
        "3",
        "True",
        "2,c d",
        "sleep 100 did not end within 50ms",
        "missing no-such-program",
        "'PATH' cannot be a shell variable here: use lower case letters, digits and '_'",
    ]


async def test_temporary_files_go_with_the_step(repo: Repo) -> None:
    repo.write("""
    @step
    async def one(ctx: Context) -> str:
        (ctx.tmp / "file").write_text("x")
        return str(ctx.tmp)

    @step
    async def two(ctx: Context) -> None:
        print(Path(ctx.outputs_of(one)).exists(), ctx.workspace == Path.cwd())

    jobs = [job("j", runs_on=LINUX, steps=[one, two])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(1) == "False True\n"


async def test_large_events_and_outputs_travel(repo: Repo) -> None:
    repo.write("""
    @step
    async def measure(ctx: Context) -> str:
        return "y" * (len(ctx.event.payload["text"]) // 16)

    jobs = [job("j", runs_on=LINUX, steps=[measure])]
    """)
    event = Event(type="push", payload={"text": "x" * 8_000_000})
    result, seen = await run(repo, "j", event=event)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs == {"measure": "y" * 500_000}
    assert seen.end("measure").output == "y" * 500_000


async def test_background_processes_of_earlier_steps_outlive_a_stuck_one(repo: Repo) -> None:
    """AG-43."""
    repo.write("""
    @step
    async def serve(ctx: Context) -> int:
        return int((await ctx.sh("sleep 1000 >/dev/null 2>&1 & echo $!")).text)

    @step(timeout="300ms", continue_on_error=True)
    async def stuck(ctx: Context) -> None:
        time.sleep(1000)

    @step
    async def use(ctx: Context) -> None:
        os.kill(ctx.outputs_of(serve), 0)

    jobs = [job("j", runs_on=LINUX, steps=[serve, stuck, use], grace_period=1)]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.end("stuck").timeout_reason == "step_timeout"
