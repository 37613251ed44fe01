"""One campaign: a seeded list of faults, each against live runs, then the verdict.

A fault is one of: `kill -9` of a process just before or just after a given message passes, or at a random
moment; SIGSTOP for a while; a cut connection; delayed messages. The plan is a pure function of the seed,
so a failing campaign is replayed by its number (timing inside processes is the machine's).
"""

import asyncio
import contextlib
import os
import random
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import asyncpg
import psutil

from kici.cli.up.supervisor import ORCHESTRATOR_PORT, PLATFORM_PORT
from tests.faults.proxy import Proxy, Trap
from tests.faults.workload import (
    WORKFLOW,
    Deliveries,
    Verdict,
    check_run,
    executions,
    normal_form,
)
from tests.support.stack import Stack, eventually, free_offset

AGENT_LINK = (
    "auth.request",
    "auth.success",
    "agent.register",
    "register.ack",
    "config.ack",
    "job.dispatch",
    "job.ack",
    "job.status",
    "job.context",
    "step.status",
    "run.event",
    "LOG_BLOCK",
    "ack",
)
PLATFORM_LINK = (
    "auth.request",
    "auth.success",
    "source.register",
    "source.register.ack",
    "projection.batch",
    "projection.ack",
    "rpc.request",
    "rpc.response",
)
TARGETS = ("orchestrator", "platform", "agent", "postgres")

# Short waits, so that three hundred recoveries fit into minutes; the mechanisms are the same.
SETTINGS = {
    "orchestrator:KICI_AGENT_MAX_RECONNECT_DELAY_MS": "3000",
    "orchestrator:KICI_DISPATCH_ACK_TIMEOUT_MS": "3000",
    "orchestrator:KICI_JOB_HEARTBEAT_INTERVAL_MS": "3000",
    "orchestrator:KICI_STALE_DETECTOR_SCAN_INTERVAL_MS": "1000",
    "orchestrator:KICI_MAX_JOB_ATTEMPTS": "50",
    "agent:KICI_JOB_HEARTBEAT_INTERVAL_MS": "1000",
}


@dataclass(frozen=True, slots=True)
class Fault:
    action: Literal["kill", "pause", "cut", "delay"]
    target: str
    link: Literal["agent", "platform"] = "agent"
    kind: str = ""  # message that triggers it; empty: at a random moment
    when: Literal["before", "after"] = "before"
    nth: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        point = f"{self.when} {self.kind}#{self.nth}" if self.kind else f"{self.seconds:.2f} s in"
        if self.action == "kill":
            return f"kill -9 {self.target} {point}"
        if self.action == "pause":
            return f"SIGSTOP {self.target} for {self.seconds:.1f} s"
        if self.action == "cut":
            return f"cut the {self.link} link {point}"
        return f"delay the {self.link} link by {self.seconds * 1000:.0f} ms a message"


def plan(seed: int, count: int) -> list[Fault]:
    """`count` kills with pauses, cuts and delays between them. The first pass takes every message kind
    before and after, for each process that sends or receives it; the rest is drawn."""
    draw = random.Random(seed)
    pointed = [
        Fault("kill", target, "agent", kind, when)
        for kind in AGENT_LINK
        for when in ("before", "after")
        for target in ("orchestrator", "agent")
    ] + [
        Fault("kill", target, "platform", kind, when)
        for kind in PLATFORM_LINK
        for when in ("before", "after")
        for target in ("orchestrator", "platform")
    ]
    draw.shuffle(pointed)
    faults: list[Fault] = []
    kills = 0
    while kills < count:
        roll = draw.random()
        if roll < 0.12:
            faults.append(Fault("pause", draw.choice(TARGETS[:3]), seconds=draw.uniform(0.3, 2.0)))
        elif roll < 0.22:
            link = draw.choice(("agent", "platform"))
            kinds = AGENT_LINK if link == "agent" else PLATFORM_LINK
            faults.append(Fault("cut", "", link, draw.choice(kinds), draw.choice(("before", "after"))))
        elif roll < 0.27:
            faults.append(
                Fault("delay", "", draw.choice(("agent", "platform")), seconds=draw.uniform(0.005, 0.05))
            )
        elif pointed and roll < 0.75:
            faults.append(pointed.pop())
            kills += 1
        else:
            faults.append(Fault("kill", draw.choice(TARGETS), seconds=draw.uniform(0.0, 1.2)))
            kills += 1
    return faults


@dataclass
class Report:
    seed: int
    kills: Counter[str] = field(default_factory=Counter[str])
    others: Counter[str] = field(default_factory=Counter[str])
    unfired: list[str] = field(default_factory=list[str])
    deliveries: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0

    def lines(self) -> list[str]:
        kills = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        others = ", ".join(f"{name} {number}" for name, number in sorted(self.others.items()))
        out = [
            f"seed {self.seed}: {self.kills.total()} kills ({kills}); {others or 'nothing else'}; {self.seconds:.0f} s",
            (
                f"{self.deliveries} deliveries accepted, {self.verdict.runs} runs, {self.verdict.retried} jobs retried under a"
                f" new attempt, {len(self.verdict.problems)} problems"
            ),
        ]
        if self.unfired:
            out.append(f"traps that no message reached (the kill then came at once): {len(self.unfired)}")
        return out + [f"  ✗ {problem}" for problem in self.verdict.problems]


class Campaign:
    def __init__(
        self, stack: Stack, agent_link: Proxy, platform_link: Proxy, marks: Path, seed: int
    ) -> None:
        self.stack = stack
        self.links = {"agent": agent_link, "platform": platform_link}
        self.marks = marks
        self.draw = random.Random(seed + 1)
        self.report = Report(seed)
        self.sent_pids: set[int] = set()

    def _target(self, fault: Fault) -> str:
        if fault.target == "agent":
            return f"agent-{self.draw.randint(1, self.stack.agents)}"
        return fault.target

    def _signal(self, name: str, number: int) -> int | None:
        pid = self.stack.pid(name)
        if pid is None:
            return None
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            return pid
        return None

    async def inject(self, fault: Fault) -> None:
        """Make it happen, and wait until the killed process is back."""
        name = self._target(fault)
        link = self.links[fault.link]
        if fault.action == "delay":
            link.delay_seconds = fault.seconds
            await asyncio.sleep(1.0)
            link.delay_seconds = 0.0
            self.report.others["delay"] += 1
        elif fault.action == "pause":
            pid = self._signal(name, signal.SIGSTOP)
            await asyncio.sleep(fault.seconds)
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            self.report.others["pause"] += 1
        elif fault.action == "cut":
            trap = Trap(fault.kind, fault.when, lambda: None, fault.nth, cut=True)
            link.arm(trap)
            await self._provoke(fault, trap)
            if not trap.fired.is_set():
                link.trap = None
                await link.cut_all()
            self.report.others["cut"] += 1
        else:
            await self._kill(fault, name, link)

    async def _kill(self, fault: Fault, name: str, link: Proxy) -> None:
        killed: list[int] = []

        def act() -> None:
            pid = self._signal(name, signal.SIGKILL)
            if pid is not None:
                killed.append(pid)

        if fault.kind:
            trap = Trap(fault.kind, fault.when, act, fault.nth)
            link.arm(trap)
            await self._provoke(fault, trap)
            if not trap.fired.is_set():
                link.trap = None
                self.report.unfired.append(str(fault))
                act()
        else:
            await asyncio.sleep(fault.seconds)
            act()
        if not killed:
            return
        self.report.kills[fault.target] += 1
        await asyncio.to_thread(self.stack.wait_back, name, killed[0], within_seconds=90)

    async def _provoke(self, fault: Fault, trap: Trap) -> None:
        """Messages of a handshake only pass on a new connection; RPC only when somebody asks."""
        if fault.kind in {
            "auth.request",
            "auth.success",
            "agent.register",
            "register.ack",
            "config.ack",
            "source.register",
            "source.register.ack",
        }:
            await self.links[fault.link].cut_all()
        deadline = asyncio.get_running_loop().time() + 6
        while not trap.fired.is_set() and asyncio.get_running_loop().time() < deadline:
            if fault.kind.startswith("rpc."):
                with contextlib.suppress(Exception):
                    await asyncio.to_thread(self.stack.api, "GET", "/diagnostics")
            try:
                async with asyncio.timeout(0.2):
                    await trap.fired.wait()
            except TimeoutError:
                continue

    async def run(self, faults: list[Fault], say: Callable[[str], None]) -> Report:
        started = time.monotonic()
        stack = self.stack
        repository = await asyncio.to_thread(
            stack.repository, "faults", {"faults.py": WORKFLOW.format(marks=str(self.marks))}
        )
        self.marks.touch()
        self.marks.chmod(0o666)
        sha = await asyncio.to_thread(repository.push)
        first = await asyncio.to_thread(stack.wait_for_run, sha=sha)
        assert first["run"]["status"] == "success", first
        baseline = normal_form(first)
        deliveries = Deliveries(stack, repository)
        orphans_before = await asyncio.to_thread(self._strays)
        for number, fault in enumerate(faults, start=1):
            say(f"[{number}/{len(faults)}] {fault}")
            sending = asyncio.to_thread(deliveries.send)
            await asyncio.gather(sending, self.inject(fault))
        self.report.deliveries = len(deliveries.accepted) + 1
        await self._settle(deliveries, baseline, say)
        strays = await asyncio.to_thread(self._strays)
        if strays - orphans_before:
            self.report.verdict.problems.append(f"left-over processes: {strays - orphans_before}")
        self.report.seconds = time.monotonic() - started
        return self.report

    async def _settle(
        self, deliveries: Deliveries, baseline: dict[str, Any], say: Callable[[str], None]
    ) -> None:
        stack, verdict = self.stack, self.report.verdict
        wanted = self.report.deliveries
        say(f"waiting for {wanted} runs to end")

        def ended() -> bool:
            with contextlib.suppress(Exception):
                open_states = ["pending", "queued", "running", "cancelling", "held"]
                listing = stack.api("GET", "/runs", params={"pageSize": 1})
                unfinished = stack.api("GET", "/runs", params={"pageSize": 1, "status": open_states})
                return listing["total"] >= wanted and unfinished["total"] == 0
            return False

        try:
            await asyncio.to_thread(eventually, ended, within_seconds=180, what="all runs ended")
        except AssertionError as error:
            verdict.problems.append(str(error))
        listed: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = await asyncio.to_thread(
                stack.api, "GET", "/runs", params={"pageSize": 100, "page": page}
            )
            listed += answer["runs"]
            if not answer["hasMore"]:
                break
            page += 1
        verdict.runs = len(listed)
        if len(listed) != wanted:
            verdict.problems.append(f"{wanted} accepted deliveries but {len(listed)} runs")
        seen = Counter(run["deliveryId"] for run in listed)
        for delivery in deliveries.accepted:
            if seen[delivery] != 1:
                verdict.problems.append(f"delivery {delivery}: {seen[delivery]} runs")
        counted = executions(self.marks)
        for run in listed:
            detail = await asyncio.to_thread(stack.detail, run["runId"])
            retried, problems = await asyncio.to_thread(check_run, stack, detail, baseline, counted)
            verdict.retried += retried
            verdict.problems += problems
            projected = run["status"], run["jobCount"], run["failureReason"]
            truth = detail["run"]["status"], detail["run"]["jobCount"], detail["run"]["failureReason"]
            if projected != truth:
                verdict.problems.append(
                    f"run {run['runId']}: the list says {projected}, the orchestrator {truth}"
                )
        verdict.problems += await self._stuck_rows()

    async def _stuck_rows(self) -> list[str]:
        state = self.stack.state()
        assert state is not None
        url = state["databaseUrl"].replace("/postgres?", "/kici_orchestrator?")
        connection = await asyncpg.connect(url)
        try:
            problems: list[str] = []
            for what, statement in {
                "unprocessed deliveries": "SELECT count(*) FROM inbox WHERE processed_at IS NULL",
                "dead-lettered deliveries": "SELECT count(*) FROM inbox WHERE dlq_at IS NOT NULL",
                "open jobs": "SELECT count(*) FROM execution_jobs WHERE completed_at IS NULL",
                "open runs": "SELECT count(*) FROM execution_runs WHERE completed_at IS NULL",
                "open steps of ended jobs": "SELECT count(*) FROM execution_steps WHERE completed_at IS NULL",
            }.items():
                number = await connection.fetchval(statement)
                if number:
                    problems.append(f"{number} {what}")
            give_up = time.monotonic() + 20
            while (
                left := await connection.fetchval("SELECT count(*) FROM outbox")
            ) and time.monotonic() < give_up:
                await asyncio.sleep(0.1)
            if left:
                problems.append(f"{left} outbox rows never acknowledged")
            return problems
        finally:
            await connection.close()

    def _strays(self) -> set[str]:
        """Processes below this stack's data directory that the supervisor does not own any more."""
        assert self.stack.process is not None
        supervisor = psutil.Process(self.stack.process.pid)
        owned = {supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))}
        strays: set[str] = set()
        for process in psutil.process_iter(["pid", "cmdline", "cwd", "status"]):
            info = process.info
            text = " ".join(info["cmdline"] or []) + " " + (info["cwd"] or "")
            if str(self.stack.data_dir) in text and info["pid"] not in owned and info["status"] != "zombie":
                strays.add(f"{info['pid']} {text[:120]}")
        return {stray for stray in strays if "postgres:" not in stray and "pytest" not in stray}


@contextlib.asynccontextmanager
async def campaign(seed: int, *, agents: int = 2) -> AsyncGenerator[Campaign]:
    """A stack whose links run through proxies."""
    offset = free_offset(agents)
    proxies = free_offset(0)
    agent_port, platform_port = ORCHESTRATOR_PORT + proxies, PLATFORM_PORT + proxies
    settings = SETTINGS | {
        "agent:KICI_ORCHESTRATOR_URL": f"ws://127.0.0.1:{agent_port}/ws",
        "orchestrator:KICI_PLATFORM_URL": f"http://127.0.0.1:{platform_port}",
    }
    folder = tempfile.TemporaryDirectory(prefix="kici-faults-", dir="/tmp")
    with folder as home:
        Path(home).chmod(0o755)
        async with (
            Proxy.started(f"ws://127.0.0.1:{ORCHESTRATOR_PORT + offset}", agent_port) as agent_link,
            Proxy.started(f"ws://127.0.0.1:{PLATFORM_PORT + offset}", platform_port) as platform_link,
        ):
            manager = Stack.started(agents=agents, settings=settings, offset=offset)
            stack = await asyncio.to_thread(manager.__enter__)
            try:
                yield Campaign(stack, agent_link, platform_link, Path(home) / "marks", seed)
            except BaseException:
                print(stack.logs(60))
                raise
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)
