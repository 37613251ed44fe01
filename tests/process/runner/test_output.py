"""Every byte that a step writes arrives once, in order, in the step's own log, before the step's end."""

import asyncio
import hashlib
import os
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from kici.runner.host import Zygote
from kici.spec.states import JobStatus
from tests.process.runner.builders import Recorder, Repo, run

pytestmark = pytest.mark.process

LINES = "".join(f"line {number}\n" for number in range(1_000_000)).encode()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_million_lines_byte_for_byte(repo: Repo) -> None:
    """AG-80."""
    repo.write("""
    @step
    async def printed(ctx: Context) -> None:
        for number in range(1_000_000):
            print(f"line {number}")

    @step
    def in_a_thread(ctx: Context) -> None:
        for number in range(1_000_000):
            print(f"line {number}")

    @step
    async def by_bash(ctx: Context) -> int:
        done = await ctx.sh("seq -f 'line %.0f' 0 999999")
        return len(done.stdout)

    @step
    async def by_subprocess(ctx: Context) -> None:
        subprocess.run(["seq", "-f", "line %.0f", "0", "999999"], check=True)

    jobs = [job("j", runs_on=LINUX, steps=[printed, in_a_thread, by_bash, by_subprocess])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert [seen.sha256(index) for index in range(4)] == [sha256(LINES)] * 4
    assert result.outputs["by-bash"] == len(LINES)


async def test_one_line_of_a_hundred_megabytes(repo: Repo) -> None:
    """AG-80, AU-67."""
    repo.write("""
    @step
    async def one_line(ctx: Context) -> None:
        done = await ctx.sh("head -c 100000000 /dev/zero | tr '\\\\0' x")
        print(len(done.stdout), done.truncated)

    jobs = [job("j", runs_on=LINUX, steps=[one_line])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.sha256(0) == sha256(b"x" * 100_000_000 + b"16777216 True\n")


async def test_output_of_a_runner_that_vanishes(repo: Repo) -> None:
    """AG-46."""
    repo.write("""
    @step
    async def vanish(ctx: Context) -> None:
        for number in range(100_000):
            print(f"line {number}")
        sys.stdout.flush()
        os._exit(9)

    jobs = [job("j", runs_on=LINUX, steps=[vanish])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert seen.bytes[0] == LINES[: LINES.index(b"line 100000\n")]
    assert str(result.error_message).startswith("the runner exited with code 9 in the middle of the job\n")
    assert str(result.error_message).endswith("\n  line 99999")
    assert seen.end("vanish").status == "failed"


async def test_unterminated_and_binary_output(repo: Repo) -> None:
    """AG-80."""
    repo.write("""
    @step
    async def odd(ctx: Context) -> None:
        print("no newline", end="")
        os.write(1, b"")
        sys.stdout.buffer.write(bytes(range(256)))
        print("\\n\\n\\udcff", end="")
        await ctx.sh(r"printf '\\377end'")

    jobs = [job("j", runs_on=LINUX, steps=[odd])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.bytes[0] == b"no newline" + bytes(range(256)) + b"\n\n\\udcff\xffend"


async def test_order_between_prints_streams_and_subprocesses(repo: Repo) -> None:
    """AG-80."""
    repo.write("""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.INFO)

    @step
    async def mixed(ctx: Context) -> None:
        for number in range(20):
            print(f"{number} out")
            print(f"{number} err", file=sys.stderr)
            subprocess.run(["echo", f"{number} sub"], check=True)
            logging.getLogger("x").info("%d log", number)
            await ctx.sh('echo "$n sh"', n=number)
            os.system(f"echo {number} system")
            ctx.log.info("%d ctx", number)

    jobs = [job("j", runs_on=LINUX, steps=[mixed])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    kinds = ("out", "err", "sub", "log", "sh", "system", "ctx")
    assert seen.text(0).splitlines() == [f"{number} {kind}" for number in range(20) for kind in kinds]


async def test_steps_side_by_side_keep_their_own_logs(repo: Repo) -> None:
    """AU-32, AG-50, AG-80."""
    repo.write("""
    import logging

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    barrier = threading.Barrier(2)

    def talk(word):
        for number in range(2_000):
            print(word, number)
        logging.getLogger().info("log %s", word)
        subprocess.run(["echo", "sub", word], check=True)
        subprocess.run(["sh", "-c", "echo env $WORD"], check=True)
        sys.stdout.buffer.write(f"raw {word}\\n".encode())
        os.write(1, b"bare\\n")

    def body(word):
        def fn(ctx: Context) -> str:
            ctx.set_env("WORD", word)
            barrier.wait(10)
            talk(word)
            return word
        return fn

    @step
    async def c(ctx: Context) -> None:
        ctx.set_env("WORD", "c")
        await ctx.sh("for i in 1 2 3; do echo $WORD $i; sleep 0.01; done")
        await asyncio.gather(*(asyncio.to_thread(print, "thread", n) for n in range(3)))
        print("after")

    a, b = step("a")(body("a")), step("b")(body("b"))

    @step
    async def then(ctx: Context) -> None:
        print(ctx.outputs_of(a), ctx.outputs_of(b), os.getcwd() == str(ctx.workspace))

    jobs = [job("j", runs_on=LINUX, steps=[parallel(a, b, c, name="both"), then])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    for index, word in ((0, "a"), (1, "b")):
        numbers = [f"{word} {number}" for number in range(2_000)]
        assert seen.text(index).splitlines() == [
            *numbers, f"log {word}", f"sub {word}", f"env {word}", f"raw {word}",
        ]  # fmt: skip
    lines = seen.text(2).splitlines()
    assert lines[:3] == ["c 1", "c 2", "c 3"]
    assert sorted(lines[3:6]) == ["thread 0", "thread 1", "thread 2"]
    assert lines[6] == "after"
    assert seen.text(-1) == "bare\n" * 2
    assert seen.text(3) == "a b True\n"
    assert {(m.concurrency_kind, m.group_id) for m in seen.starts[:3]} == {("parallel-child", "both")}


async def test_output_shows_while_the_step_runs(repo: Repo) -> None:
    repo.write("""
    @step
    async def dots(ctx: Context) -> None:
        print(".", end="")
        while not (ctx.workspace / "go").exists():
            time.sleep(0.01)
        print("done")

    jobs = [job("j", runs_on=LINUX, steps=[dots])]
    """)
    seen = Recorder()
    async with asyncio.timeout(30), Zygote.start() as zygote:
        running = asyncio.ensure_future(zygote.run(repo.execute("j"), seen))  # noqa: TID251 - the test waits in between
        await seen.printed(".")
        (repo.root / "go").touch()
        assert (await running).status == JobStatus.SUCCESS
    assert seen.text(0) == ".done\n"


async def test_a_background_process_does_not_hold_the_step_and_is_not_lost(repo: Repo) -> None:
    """AG-84."""
    repo.write("""
    @step
    async def serve(ctx: Context) -> None:
        await ctx.sh("(while [ ! -e go ]; do sleep 0.01; done; echo served; touch gone; sleep 1000) & echo started")
        subprocess.Popen(["sh", "-c", "while [ ! -e go ]; do sleep 0.01; done; echo plain; sleep 1000"])

    @step
    async def use(ctx: Context) -> None:
        print("using")
        await ctx.sh("touch go; while [ ! -e gone ]; do sleep 0.01; done")

    jobs = [job("j", runs_on=LINUX, steps=[serve, use])]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert seen.text(0) in {"started\n", "started\nplain\n"}  # it may speak within the step's last moment
    assert seen.text(1) == "using\n"
    assert "served" in seen.text(-1)


async def test_a_paused_job_blocks_and_loses_nothing(repo: Repo) -> None:
    """AG-83."""
    repo.write("""
    @step
    async def flood(ctx: Context) -> None:
        print("begin", flush=True)
        await ctx.sh("seq 3000000; touch finished")

    jobs = [job("j", runs_on=LINUX, steps=[flood])]
    """)
    seen = Recorder()
    async with asyncio.timeout(60), Zygote.start() as zygote:
        running = asyncio.ensure_future(zygote.run(repo.execute("j"), seen))  # noqa: TID251 - the test waits in between
        await seen.printed("begin")
        zygote.pause_output("j")
        size = len(seen.bytes[0])
        await asyncio.sleep(0.3)  # time in which nothing must happen
        assert len(seen.bytes[0]) == size
        assert not (repo.root / "finished").exists()
        zygote.resume_output("j")
        assert (await running).status == JobStatus.SUCCESS
    assert seen.bytes[0] == b"begin\n" + "".join(f"{n}\n" for n in range(1, 3_000_001)).encode()


async def test_secrets_never_show(repo: Repo) -> None:
    """AG-65."""
    repo.write("""
    SECRET = "s3cr3t-" + "va/lu+e"

    @step(continue_on_error=True)
    async def leaks(ctx: Context) -> dict[str, str]:
        for cut in range(len(SECRET) + 1):
            os.write(1, f"[{SECRET[:cut]}".encode())
            time.sleep(0.003)
            os.write(1, f"{SECRET[cut:]}]".encode())
        import base64, json, urllib.parse
        print(base64.b64encode(b"user:" + SECRET.encode()).decode(), urllib.parse.quote(SECRET, safe=""))
        await ctx.sh("echo $v; echo $v >&2; printf %s s3cr3t-; sleep 0.02; echo va/lu+e", v=SECRET)
        ctx.log.add_mask("later-" + "value")
        os.write(1, b"later-value\\n")
        return {"leak": "x" + SECRET, SECRET: "later-value"}

    @step
    async def fails(ctx: Context) -> None:
        raise ValueError("bad " + SECRET)

    jobs = [job("j", runs_on=LINUX, steps=[leaks, fails])]
    """)
    result, seen = await run(repo, "j", secrets=["s3cr3t-va/lu+e"])
    shown = b"".join(seen.bytes.values()) + repr((result, seen.ends)).encode()
    for form in (b"s3cr3t-va/lu+e", b"czNjcjN0LXZhL2x1K2", b"s3cr3t-va%2Flu%2Be", b"later-value"):
        assert form not in shown
    assert seen.text(0).startswith("[***]" * 15)
    assert result.outputs == {"leaks": {"leak": "x***", "***": "***"}}
    assert "bad ***" in str(result.error_message)


MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


@pytest.fixture
def small_memory_group() -> Generator[Path]:
    """A control group with room for less than a runner that grows."""
    group = MEMORY_GROUPS / f"kici-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        pytest.skip("needs a writable memory control group (version 1)")
    (group / "memory.limit_in_bytes").write_text(str(48 << 20))
    yield group
    give_up_at = time.monotonic() + 10
    while (group / "cgroup.procs").read_text() and time.monotonic() < give_up_at:
        time.sleep(0.01)
    group.rmdir()


async def test_out_of_memory_is_named(repo: Repo, small_memory_group: Path) -> None:
    """AG-46."""
    repo.write(f"""
    GROUP = {str(small_memory_group / "cgroup.procs")!r}

    @step
    async def command(ctx: Context) -> None:
        await ctx.sh('echo $$ > "$g"; head -c 1000000000 /dev/zero | tail', g=GROUP)

    @step
    async def runner(ctx: Context) -> None:
        Path(GROUP).write_text(str(os.getpid()))
        await asyncio.sleep(0)
        x = b"x" * 1_000_000_000

    jobs = [job("command", runs_on=LINUX, steps=[command]), job("runner", runs_on=LINUX, steps=[runner])]
    """)
    result, _seen = await run(repo, "command")
    assert "the kernel killed a command: probably out of memory. CommandError" in str(result.error_message)
    result, _seen = await run(repo, "runner")
    assert result.status == JobStatus.FAILED
    assert "the runner was killed by the kernel: probably out of memory" in str(result.error_message)
