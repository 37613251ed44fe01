"""Each function measures one path of the budget table and gives its row."""

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.client import Client, Pushes
from benchmarks.load import Request, post_all, signed_webhooks
from benchmarks.processes import cpu_ms, peak_mb, reset_peaks, rss_mb
from benchmarks.report import Row, percentile, spread
from tests.support.stack import Repository, Stack, eventually

_WARM_UP = 5
_COUNT_CAP = 10_000

TRIVIAL = """
import os
import time

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def trivial(ctx: Context) -> None:
    now = time.time_ns()
    with open(os.path.join({marks!r}, ctx.run_info.run_id), "w") as file:
        file.write(str(now))


bench = workflow("bench", on=push(branches="main"), jobs=[trivial])
"""

LINES = """
import os
import time

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux", checkout=True, timeout="10m")
async def lines(ctx: Context) -> None:
    with open(os.path.join({marks!r}, ctx.run_info.run_id), "w") as file:
        file.write(str(time.time_ns()))
    await ctx.sh({script!r})


bench = workflow("lines", on=push(branches="main"), jobs=[lines])
"""


def pids(stack: Stack) -> dict[str, int]:
    state = stack.state()
    assert state is not None
    return {process["name"]: process["pid"] for process in state["processes"]}


def _mark(marks: Path, run_id: str) -> int:
    text = eventually(
        lambda: (marks / run_id).read_text() if (marks / run_id).exists() else "",
        what=f"run {run_id} started",
    )
    return int(text)


def webhook_to_first_step(stack: Stack, repository: Repository, marks: Path, *, count: int) -> Row:
    """Accepted (the answer is here) → the first instruction of the first step, warm agent."""
    delays: list[float] = []
    pushes = Pushes(stack, repository)
    with Client(stack.orchestrator_url) as orchestrator:
        for number in range(count + _WARM_UP):
            before = set(os.listdir(marks))
            pushes.announce(orchestrator, f"first-{number}-{time.time_ns()}")
            accepted = time.time_ns()
            fresh = eventually(lambda: set(os.listdir(marks)) - before, what="the first instruction")
            run_id = fresh.pop()
            if number >= _WARM_UP:
                delays.append((_mark(marks, run_id) - accepted) / 1e6)
            stack.wait_for_end(run_id)
    p50, p95 = percentile(delays, 0.5), percentile(delays, 0.95)
    return Row(
        "webhook accepted → first instruction of the first step",
        "p50 ≤ 60 ms, p95 ≤ 150 ms",
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (n={len(delays)})",
        p50 <= 60 and p95 <= 150,
        {"ms": delays},
    )


def trivial_runs_per_second(stack: Stack, repository: Repository, *, count: int, rounds: int) -> list[Row]:
    """Runs completed per second with all agents busy, and where the CPU time went.

    From the first webhook until the Platform shows the last run as done.
    """
    rates: list[float] = []
    cost: dict[str, list[float]] = {}
    pushes = Pushes(stack, repository)
    with Client(stack.platform_url, stack.token) as platform:

        def done() -> int:
            return platform.get(f"/api/v1/orgs/{stack.org_id}/runs", pageSize=1, status="success")["total"]

        for round_number in range(rounds):
            names = pids(stack)
            requests = [
                Request(pushes.headers(f"rate-{round_number}-{number}-{time.time_ns()}"), pushes.body)
                for number in range(count)
            ]
            before = {name: cpu_ms(pid) for name, pid in names.items()}
            wanted = done() + count
            assert wanted <= _COUNT_CAP, "the list does not count further"
            started = time.perf_counter()
            result = post_all(stack.orchestrator_url + pushes.path, requests, connections=8)
            assert result.refused == 0, result
            give_up = time.monotonic() + 180
            while done() < wanted:
                assert time.monotonic() < give_up, f"{count} runs did not end in 180 s"
                time.sleep(0.05)  # often enough to be exact, seldom enough not to be a load
            rates.append(count / (time.perf_counter() - started))
            for name, pid in names.items():
                group = "agents" if name.startswith("agent-") else name
                cost.setdefault(group, [0.0] * rounds)[round_number] += (cpu_ms(pid) - before[name]) / count
    by_process = ", ".join(f"{name} {statistics.median(values):.1f}" for name, values in cost.items())
    whole = [sum(values[n] for values in cost.values()) for n in range(rounds)]
    return [
        Row(
            f"trivial runs completed, {stack.agents} agents",
            "≥ 40 /s",
            spread(rates, "/s"),
            statistics.median(rates) >= 40,
            {"perSecond": rates},
        ),
        Row(
            "  CPU per trivial run, all our processes and PostgreSQL",
            "≤ 50 ms",
            f"{statistics.median(whole):.1f} ms: {by_process}",
            statistics.median(whole) <= 50,
            {"cpuMs": cost},
        ),
    ]


def webhooks_accepted(stack: Stack, *, count: int, rounds: int) -> list[Row]:
    """Deliveries that match no workflow, so that what is measured is ingress and the decision about it."""
    secret = "bench-secret"
    stack.admin(
        "POST",
        "/sources",
        json={
            "kind": "generic",
            "name": "bench-hook",
            "verificationMethod": "hmac_sha256",
            "secret": secret,
            "rateLimitRpm": 10_000_000,
        },
    )
    rows: list[Row] = []
    with Client(stack.orchestrator_url, stack.admin_token) as admin:
        for label, base, budget in (
            ("directly at the orchestrator", stack.orchestrator_url, 1500),
            ("through the Platform's relay", stack.platform_url, 800),
        ):
            rates: list[float] = []
            cost: dict[str, list[float]] = {}
            refused = 0
            url = f"{base}/webhook/{stack.org_id}/generic/bench-hook"
            for number in range(-1, rounds):
                tag = f"{base[-5:]}-{number}-{time.time_ns()}"
                requests = signed_webhooks(secret, count if number >= 0 else 500, tag=tag)
                names = {name: pid for name, pid in pids(stack).items() if not name.startswith("agent-")}
                before = {name: cpu_ms(pid) for name, pid in names.items()}
                result = post_all(url, requests)
                eventually(
                    lambda: admin.get("/api/v1/admin/deliveries/pending")["pending"] == 0,
                    within_seconds=120,
                    what="inbox empty",
                )
                refused += result.refused
                if number < 0:  # warm-up
                    continue
                rates.append(result.per_second)
                for name, pid in names.items():
                    cost.setdefault(name, []).append((cpu_ms(pid) - before[name]) / count)
                cost.setdefault("load generator", []).append(result.cpu_ms / count)
            by_process = ", ".join(
                f"{name} {statistics.median(values):.2f}" for name, values in cost.items()
            )
            rows.append(
                Row(
                    f"webhooks accepted durably (8 KB), {label}",
                    f"≥ {budget:,} /s",
                    spread(rates, "/s", 0) + (f", {refused} refused" if refused else ""),
                    statistics.median(rates) >= budget and refused == 0,
                    {"perSecond": rates, "refused": refused, "cpuMs": cost},
                )
            )
            rows.append(Row("  CPU ms each, decided and done", "", by_process, None))
    return rows


def million_lines(stack: Stack, repository: Repository, marks: Path, *, rounds: int) -> list[Row]:
    """From the step's first instruction until the last line can be read at the Platform."""
    seconds: list[float] = []
    peaks: dict[str, list[float]] = {}
    pushes = Pushes(stack, repository)
    with (
        Client(stack.orchestrator_url) as orchestrator,
        Client(stack.platform_url, stack.token) as platform,
    ):
        for number in range(rounds):
            names = pids(stack)
            reset_peaks(names)
            before = set(os.listdir(marks))
            pushes.announce(orchestrator, f"lines-{number}-{time.time_ns()}")
            run_id = eventually(lambda: set(os.listdir(marks)) - before, what="the step").pop()
            started = _mark(marks, run_id)
            job = eventually(lambda: stack.detail(run_id)["jobs"], what="the job")[0]
            path = f"/api/v1/orgs/{stack.org_id}/runs/{run_id}/jobs/{job['jobId']}/steps/0/logs?tail=1"

            def lines(path: str = path) -> int:
                status, body = platform.request("GET", path)
                return json.loads(body)["totalLines"] if status == 200 else 0

            eventually(lambda: lines() >= 1_000_000, within_seconds=120, what="a million lines")
            seconds.append((time.time_ns() - started) / 1e9)
            stack.wait_for_end(run_id)
            for name, pid in names.items():
                group = "agent" if name.startswith("agent-") else name
                values = peaks.setdefault(group, [0.0] * rounds)
                values[number] = max(values[number], peak_mb(pid))
    shown = ", ".join(f"{name} {max(values):.0f} MB" for name, values in peaks.items())
    return [
        Row(
            "1,000,000 lines from step to retrievable",
            "≤ 2 s",
            spread(seconds, "s", 2),
            statistics.median(seconds) <= 2,
            {"seconds": seconds},
        ),
        Row("  peak RSS of one process meanwhile", "flat", shown, None, {"mb": peaks}),
    ]


def any_line(stack: Stack, run_id: str, job_id: str, *, lines: int, reads: int, size_mb: int) -> Row:
    generator = random.Random(7)
    ms: list[float] = []
    path = f"/api/v1/orgs/{stack.org_id}/runs/{run_id}/jobs/{job_id}/steps/0/logs"
    with Client(stack.platform_url, stack.token) as platform:
        for _ in range(reads):
            offset = generator.randrange(lines - 1)
            started = time.perf_counter()
            page = platform.get(path, offset=offset, limit=1)
            ms.append((time.perf_counter() - started) * 1000)
            assert page["firstLine"] == offset, page
            assert int(page["lines"][0]) == offset + 1, page  # `seq` counts from 1
    worst = max(ms)
    return Row(
        f"any line of a {size_mb:,} MB log, through the Platform",
        "≤ 300 ms",
        f"median {statistics.median(ms):.0f} ms, worst {worst:.0f} ms (n={reads})",
        worst <= 300,
        {"ms": ms},
    )


def up_times(rounds: int) -> list[Row]:
    cold: list[float] = []
    warm: list[float] = []
    idle: list[float] = []
    shares: dict[str, float] = {}
    for _ in range(rounds):
        started = time.perf_counter()
        with Stack.started(agents=1) as stack:
            cold.append(time.perf_counter() - started)
            time.sleep(5)  # let start-up garbage settle before reading memory
            names = pids(stack)
            shares = {name: rss_mb(pid) for name, pid in names.items()}
            assert stack.process is not None
            supervisor = rss_mb(stack.process.pid)
            idle.append(supervisor)  # the supervisor's family holds them all
            shares["supervisor"] = supervisor - sum(shares.values())
            stack.stop()
            started = time.perf_counter()
            stack.start()
            warm.append(time.perf_counter() - started)
    detail = ", ".join(f"{name} {value:.0f}" for name, value in shares.items())
    return [
        Row(
            "cold `kici up` to ready",
            "≤ 8 s",
            spread(cold, "s"),
            statistics.median(cold) <= 8,
            {"seconds": cold},
        ),
        Row("warm `kici up` to ready", "", spread(warm, "s"), None, {"seconds": warm}),
        Row(
            "idle memory of all our processes (PSS)",
            "≤ 350 MB",
            f"{statistics.median(idle):.0f} MB: {detail}",
            statistics.median(idle) <= 350,
            {"mb": idle, "shares": shares},
        ),
    ]


def timed(
    argv: list[str], cwd: str | None = None, env: Mapping[str, str] | None = None
) -> tuple[float, float]:
    """Seconds until it ended, and the CPU seconds it took with its children."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(argv, check=True, capture_output=True, cwd=cwd, env=env)
    took = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return took, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


_IMPORT = """
import time
wall, cpu = time.perf_counter(), time.process_time()
from kici import Context, job, push, workflow
print((time.perf_counter() - wall) * 1000, (time.process_time() - cpu) * 1000)
"""


def _import_ms() -> tuple[float, float]:
    """What the first line of a workflow file costs in a fresh interpreter: time, CPU time."""
    done = subprocess.run([sys.executable, "-c", _IMPORT], check=True, capture_output=True, text=True)
    wall, cpu = done.stdout.split()
    return float(wall), float(cpu)


def author_tools(rounds: int) -> list[Row]:
    _import_ms()  # byte code and page cache
    imports = [_import_ms() for _ in range(rounds)]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / ".kici" / "workflows").mkdir(parents=True)
        (root / ".kici" / "workflows" / "ci.py").write_text(TRIVIAL.format(marks="/tmp"))
        kici = str(Path(sys.executable).with_name("kici"))
        timed([kici, "compile"], cwd=folder)
        compiles = [timed([kici, "compile"], cwd=folder) for _ in range(rounds)]
    import_ms, compile_s = [wall for wall, _ in imports], [wall for wall, _ in compiles]
    return [
        Row(
            "import of the SDK",
            "≤ 60 ms",
            f"{spread(import_ms, 'ms', 0)}; CPU {statistics.median(cpu for _, cpu in imports):.0f} ms",
            statistics.median(import_ms) <= 60,
            {"ms": import_ms, "cpuMs": [cpu for _, cpu in imports]},
        ),
        Row(
            "`kici compile` of a small repository",
            "≤ 0.4 s",
            f"{spread(compile_s, 's', 2)}; CPU {statistics.median(cpu for _, cpu in compiles):.2f} s",
            statistics.median(compile_s) <= 0.4,
            {"seconds": compile_s, "cpuSeconds": [cpu for _, cpu in compiles]},
        ),
    ]


TYPICAL = """
from kici import Context, job, pr, push, rule, step, workflow

@step
async def build(ctx: Context) -> str:
    await ctx.sh("make build")
    return "x"

@step(retry=2, timeout="5m")
async def test(ctx: Context, *, python: str) -> None:
    await ctx.sh('pytest --with "$python"', python=python)

package = job("package", runs_on="kici:os:linux", steps=[build])
tests = job(
    "tests", runs_on="kici:os:linux", steps=[build, test], needs=[package], matrix={{"python": ["3.11", "3.12"]}}
)

@job(runs_on="kici:os:linux", needs=[tests], rules=[rule("main", lambda ctx: ctx.event.target_branch == "main")])
async def deploy(ctx: Context) -> None:
    await ctx.sh('./deploy.sh "$version"', version=ctx.job_outputs(package).of(build))

ci = workflow("ci-{number}", on=[push(branches="main"), pr(paths=["src/**"])], jobs=[package, tests, deploy])
"""


def compile_of_many(count: int, rounds: int) -> Row:
    """As many files, each with one workflow of three jobs, a matrix, a rule and typed outputs."""
    with tempfile.TemporaryDirectory() as folder:
        workflows = Path(folder) / ".kici" / "workflows"
        workflows.mkdir(parents=True)
        for number in range(count):
            (workflows / f"w{number:03}.py").write_text(TYPICAL.format(number=number))
        kici = str(Path(sys.executable).with_name("kici"))
        timed([kici, "compile"], cwd=folder)
        compiles = [timed([kici, "compile"], cwd=folder) for _ in range(rounds)]
        size = (workflows.parent / "kici.lock.json").stat().st_size
    seconds = [wall for wall, _ in compiles]
    return Row(
        f"`kici compile` of {count} workflows",
        "",
        f"{spread(seconds, 's', 2)}; CPU {statistics.median(cpu for _, cpu in compiles):.2f} s; "
        f"lock file {size / 1e6:.2f} MB",
        None,
        {"seconds": seconds, "cpuSeconds": [cpu for _, cpu in compiles], "bytes": size},
    )


def machine() -> Mapping[str, Any]:
    return {
        "cores": os.cpu_count(),
        "python": sys.version.split()[0],
        "load": os.getloadavg(),
        "cpu": next(
            (
                line.split(":")[1].strip()
                for line in Path("/proc/cpuinfo").read_text().splitlines()
                if "model name" in line
            ),
            "unknown",
        ),
    }
