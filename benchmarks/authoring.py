"""What graphs, run-time jobs, events and concurrency groups cost on a server: whole runs, end to end."""

import itertools
import statistics
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from benchmarks.client import Client, Pushes
from benchmarks.processes import cpu_ms
from benchmarks.report import Row, percentile, spread
from benchmarks.scenarios import pids
from tests.support.stack import Repository, Stack, eventually

GRAPH_JOBS = 200
CHILDREN = 100

# Ten layers of twenty jobs, each with a chain and a fan of needs to the layer below.
GRAPH = """
from kici import Context, MultiJob, job, push, step, workflow


@step
async def note(ctx: Context) -> str:
    return "done"


jobs: list[MultiJob] = []
for layer in range(10):
    below = jobs[-20:]
    jobs += [
        job(f"l{layer}-{n}", runs_on="kici:os:linux", steps=[note], needs=below[n % 5 :: 5]) for n in range(20)
    ]

graph = workflow("graph", on=push(branches="main"), jobs=jobs)
"""

MATRIX = """
from kici import Context, GenerateContext, job, push, workflow


@job(runs_on="kici:os:linux")
async def count(ctx: Context) -> int:
    return 100


def numbers(g: GenerateContext) -> list[int]:
    return list(range(g.job_outputs(count)))


@job(runs_on="kici:os:linux", needs=[count], matrix=numbers)
async def child(ctx: Context) -> None:
    pass


matrix = workflow("matrix", on=push(branches="main"), jobs=[count, child])
"""

EVENTS = """
from kici import Context, job, kici_event, push, workflow


@job(runs_on="kici:os:linux")
async def sends(ctx: Context) -> None:
    await ctx.emit("bench-event", {})


@job(runs_on="kici:os:linux")
async def hears(ctx: Context) -> None:
    pass


sender = workflow("sender", on=push(branches="main"), jobs=[sends])
hearer = workflow("hearer", on=kici_event(name="bench-event"), jobs=[hears])
"""

TURNS = """
from kici import Concurrency, Context, job, push, workflow


@job(runs_on="kici:os:linux")
async def turn(ctx: Context) -> None:
    pass


turns = workflow(
    "turns", on=push(branches="main"), jobs=[turn], concurrency=Concurrency(group="turns", cancel_in_progress=False)
)
"""

WORKFLOWS: Mapping[str, str] = {"graph": GRAPH, "matrix": MATRIX, "events": EVENTS, "turns": TURNS}


def authoring(stack: Stack, *, rounds: int, count: int) -> list[Row]:
    """`rounds` large runs of each kind, `count` small ones."""
    repositories: dict[str, Repository] = {}
    for name, source in WORKFLOWS.items():
        repositories[name] = stack.repository(name, {f"{name}.py": source})
        sha = repositories[name].push()
        stack.wait_for_run(repository=name, sha=sha, within_seconds=180)
    eventually(lambda: not _open(stack), within_seconds=60, what="the warm-up's end")
    return [
        *_graph(stack, repositories["graph"], rounds),
        _matrix(stack, repositories["matrix"], rounds),
        _events(stack, repositories["events"], count),
        _turns(stack, repositories["turns"], count),
    ]


def _graph(stack: Stack, repository: Repository, rounds: int) -> list[Row]:
    seconds: list[float] = []
    cost: list[float] = []
    for _ in range(rounds):
        names = pids(stack)
        before = sum(cpu_ms(pid) for pid in names.values())
        detail = _runs(stack, repository, 1)[0]
        assert len(detail["jobs"]) == GRAPH_JOBS
        seconds.append(detail["run"]["durationMs"] / 1000)
        cost.append((sum(cpu_ms(pid) for pid in names.values()) - before) / GRAPH_JOBS)
    return [
        Row(
            f"a run of {GRAPH_JOBS} jobs in ten layers, {stack.agents} agents",
            "",
            f"{spread(seconds, 's')}; CPU {statistics.median(cost):.1f} ms a job",
            None,
            {"seconds": seconds, "cpuMsPerJob": cost},
        )
    ]


def _matrix(stack: Stack, repository: Repository, rounds: int) -> Row:
    """From the end of the function's evaluation on the agent to the first child's start, all children there."""
    expansion: list[float] = []
    whole: list[float] = []
    for _ in range(rounds):
        detail = _runs(stack, repository, 1)[0]
        children = [job for job in detail["jobs"] if job["baseJobName"] == "child" and job["kind"] == "job"]
        assert len(children) == CHILDREN
        (init,) = (job for job in detail["jobs"] if job["kind"] == "init")
        expansion.append(min(map(_started, children)) - _ended(init))
        whole.append(detail["run"]["durationMs"] / 1000)
    return Row(
        f"a matrix made at run time: evaluated → first of {CHILDREN} children started",
        "",
        f"{spread(expansion, 'ms', 0)}; the whole run {statistics.median(whole):.1f} s",
        None,
        {"ms": expansion, "seconds": whole},
    )


def _events(stack: Stack, repository: Repository, count: int) -> Row:
    """One after the other; the sending job's end is after its `emit` was answered."""
    ms: list[float] = []
    for _ in range(count):
        sent = _runs(stack, repository, 1, workflow="sender")[0]
        heard = eventually(
            lambda: [
                run
                for run in stack.runs(repository=repository.name, workflow="hearer", pageSize=1)
                if _at(run["createdAt"]) >= _at(sent["run"]["createdAt"]) and run["status"] == "success"
            ],
            what="the run that the event starts",
        )[0]
        emitted = next(job for job in sent["jobs"])
        (started,) = stack.detail(heard["runId"])["jobs"]
        ms.append(_started(started) - _started(emitted))
    p50, p95 = percentile(ms, 0.5), percentile(ms, 0.95)
    return Row(
        "a job that emits started → first job of the run that hears it started",
        "",
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (n={len(ms)})",
        None,
        {"ms": ms},
    )


def _turns(stack: Stack, repository: Repository, count: int) -> Row:
    """All wait for one place: from the end of a run to the start of the next one's job."""
    details = _runs(stack, repository, count)
    spans = sorted((_started(detail["jobs"][0]), _ended(detail["run"])) for detail in details)
    ms = [begun - ended for (_, ended), (begun, _) in itertools.pairwise(spans)]
    p50, p95 = percentile(ms, 0.5), percentile(ms, 0.95)
    return Row(
        f"a concurrency group handed on, {count - 1} waiting",
        "",
        f"p50 {p50:.0f} ms, p95 {p95:.0f} ms (n={len(ms)})",
        None,
        {"ms": ms},
    )


def _runs(stack: Stack, repository: Repository, count: int, **filters: Any) -> list[dict[str, Any]]:
    """So many deliveries of its head, and the details of their runs, once they have ended."""
    pushes = Pushes(stack, repository)
    deliveries = [f"{repository.name}-{number}-{time.time_ns()}" for number in range(count)]
    with Client(stack.orchestrator_url) as orchestrator:
        for delivery in deliveries:
            pushes.announce(orchestrator, delivery)

    def mine() -> list[dict[str, Any]]:
        listed = stack.runs(repository=repository.name, pageSize=min(100, count + 5), **filters)
        found = [run for run in listed if run["deliveryId"] in deliveries and run["status"] == "success"]
        return found if len(found) == count else []

    return [stack.detail(run["runId"]) for run in eventually(mine, within_seconds=180, what="their end")]


def _open(stack: Stack) -> bool:
    return bool(
        stack.api("GET", "/runs", params={"pageSize": 1, "status": ["pending", "queued", "running"]})[
            "total"
        ]
    )


def _at(text: str) -> float:
    """Milliseconds."""
    return datetime.fromisoformat(text).timestamp() * 1000


def _started(row: dict[str, Any]) -> float:
    return _at(row["startedAt"])


def _ended(row: dict[str, Any]) -> float:
    return _at(row["completedAt"])
