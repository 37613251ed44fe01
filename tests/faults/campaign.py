"""One campaign: a seeded list of faults, each against live runs, then the verdict."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from kici.cli.up.supervisor import ORCHESTRATOR_PORT, PLATFORM_PORT
from tests.faults.plan import Fault, Point, Route, Target, points
from tests.faults.provoke import OF_RUNS, OPENING, Provocations
from tests.faults.proxy import Proxy, Trap
from tests.faults.verdict import Judge, Verdict, normal_form, unsettled_rows
from tests.faults.workload import SOURCE, WORKFLOW, Accepted, Deliveries
from tests.support.stack import Stack, eventually, free_offset

# Short waits, so that three hundred recoveries fit into minutes; the mechanisms are the same.
SETTINGS = {
    "orchestrator:KICI_AGENT_MAX_RECONNECT_DELAY_MS": "3000",
    "orchestrator:KICI_DISPATCH_ACK_TIMEOUT_MS": "3000",
    "orchestrator:KICI_JOB_HEARTBEAT_INTERVAL_MS": "3000",
    "orchestrator:KICI_STALE_DETECTOR_SCAN_INTERVAL_MS": "1000",
    "orchestrator:KICI_MAX_JOB_ATTEMPTS": "50",
    "agent:KICI_JOB_HEARTBEAT_INTERVAL_MS": "1000",
}
PROVOKE_SECONDS = 12.0  # for a message to pass, before the fault strikes without it
GONE_SECONDS = 15.0  # for what a killed supervisor started
PRESENT_SECONDS = 90.0  # for what is to be killed
_POINTS = frozenset(fault.point for fault in points())


@dataclass
class Report:
    seed: int
    kills: Counter[str] = field(default_factory=Counter[str])
    others: Counter[str] = field(default_factory=Counter[str])
    points: set[Point | None] = field(default_factory=set[Point | None])
    unfired: list[str] = field(default_factory=list[str])
    accepted: list[Accepted] = field(default_factory=list[Accepted])
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0
    logs: Path | None = None

    def lines(self) -> list[str]:
        verdict = self.verdict
        kills = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        others = ", ".join(f"{name} {number}" for name, number in sorted(self.others.items()))
        routes = Counter(accepted.route for accepted in self.accepted)
        ways = ", ".join(f"{number} by {route}" for route, number in sorted(routes.items()))
        kept = sum(accepted.kept for accepted in self.accepted)
        out = [
            f"seed {self.seed}: {self.kills.total()} kills ({kills}); {others or 'nothing else'}; {self.seconds:.0f} s",
            f"{len(self.points)} of {len(_POINTS)} points (message, before or after, who dies) were hit",
            f"{len(self.accepted)} deliveries accepted ({ways}; {kept} kept by the Platform meanwhile)",
            (
                f"{verdict.runs} runs, one of them undisturbed: {verdict.retried} jobs retried under a new attempt,"
                f" {verdict.runner_deaths} failed by the death of their runner, {verdict.cancelled} runs cancelled"
            ),
        ]
        if self.unfired:
            out.append(f"{len(self.unfired)} traps that no message reached (the fault then came at once):")
            out += [f"  - {fault}" for fault in self.unfired]
        out.append(f"{len(verdict.problems)} problems")
        out += [f"  ✗ {problem}" for problem in verdict.problems]
        if self.logs is not None:
            out.append(f"  the processes' logs are in {self.logs}")
        return out


class Campaign:
    def __init__(self, stack: Stack, links: dict[str, Proxy], marks: Path, seed: int) -> None:
        self.stack = stack
        self.links = links
        self.marks = marks
        self.draw = random.Random(seed + 1)
        self.report = Report(seed)
        self.problems: list[str] = []

    async def run(self, faults: list[Fault], say: Callable[[str], None]) -> Report:
        started = time.monotonic()
        stack, report = self.stack, self.report
        workflow = WORKFLOW.format(marks=str(self.marks), source=SOURCE)
        repository = await asyncio.to_thread(stack.repository, "faults", {"faults.py": workflow})
        self.marks.touch()
        self.marks.chmod(0o666)
        self.deliveries = Deliveries(stack, repository)
        await asyncio.to_thread(self.deliveries.add_source)
        sha = await asyncio.to_thread(repository.push)
        first = await asyncio.to_thread(stack.wait_for_run, sha=sha)
        assert first["run"]["status"] == "success", first
        self.provocations = Provocations(stack, self.deliveries, first)
        for number, fault in enumerate(faults, start=1):
            assert stack.process is not None
            assert stack.process.poll() is None, f"kici up ended by itself:\n{stack.up_log()[-5000:]}"
            say(f"[{number}/{len(faults)}] {fault}")
            async with asyncio.TaskGroup() as tasks:
                for position, route in enumerate(fault.sends):
                    cancel = fault.cancel_after if position == 0 else None
                    tasks.create_task(self._noted(self._deliver, route, cancel))
                tasks.create_task(self._inject(fault))
        report.accepted = self.deliveries.accepted
        say(f"waiting for {len(report.accepted) + 1} runs to end")
        judge = Judge(stack, normal_form(first), self.marks)
        runner_kills = report.kills["runner"] + report.kills["zygote"]
        report.verdict = await asyncio.to_thread(judge.judge, self.deliveries, runner_kills=runner_kills)
        self.problems += report.verdict.problems + await unsettled_rows(stack)
        await self._nothing_left("left-over processes", jobs=True)
        report.verdict.problems = self.problems
        report.seconds = time.monotonic() - started
        if report.verdict.problems:
            report.logs = Path(tempfile.mkdtemp(prefix="kici-faults-logs-", dir="/tmp"))
            shutil.copytree(stack.data_dir / "logs", report.logs, dirs_exist_ok=True)
        return report

    async def _noted(self, work: Callable[..., object], *arguments: object) -> None:
        """`work` in a thread; what it misses is a problem of the campaign, not its end."""
        try:
            await asyncio.to_thread(work, *arguments)
        except AssertionError as error:
            self.problems.append(str(error))

    def _deliver(self, route: Route, cancel_after: float | None) -> None:
        delivery = self.deliveries.send(route)
        if cancel_after is not None:
            self.deliveries.cancel(delivery, cancel_after)

    async def _inject(self, fault: Fault) -> None:
        """Make it happen, and wait until what was killed is back."""
        match fault.action:
            case "kill":
                await self._kill(fault)
            case "pause":
                await self._pause(fault)
                self.report.others["pause"] += 1
            case "cut":
                if not await self._trapped(fault, lambda _peer: None, cut=True):
                    await self.links[fault.link].cut_all()
                self.report.others["cut"] += 1
            case "delay":
                link = self.links[fault.link]
                link.delay_seconds = fault.seconds
                await asyncio.sleep(1.0)
                link.delay_seconds = 0.0
                self.report.others["delay"] += 1

    # ── killing ──────────────────────────────────────────────────────────────────────────────────

    async def _kill(self, fault: Fault) -> None:
        killed: list[tuple[str, int]] = []

        def act(peer: str | None) -> None:
            killed.extend(self._strike(fault.target, peer))

        if fault.kind:
            if await self._trapped(fault, act) and killed and (point := fault.point) in _POINTS:
                self.report.points.add(point)
        else:
            await asyncio.sleep(fault.seconds)
        killed = killed or await self._surely_strike(fault.target)
        self.report.kills[fault.target] += len(killed)
        if fault.also:
            more = await self._surely_strike(fault.also)
            self.report.kills[fault.also] += len(more)
            killed += more
        async with asyncio.TaskGroup() as tasks:
            for name, pid in killed:
                tasks.create_task(self._back(name, pid))
            for route in fault.then:
                tasks.create_task(self._noted(self.deliveries.send, route))

    def _strike(self, target: Target, peer: str | None = None) -> list[tuple[str, int]]:
        """Name and id of what was killed, if it was there."""
        name = self._name(target, peer)
        pid = self._pid(name)
        try:
            if pid is not None:
                os.kill(pid, signal.SIGKILL)
                return [(name, pid)]
        except ProcessLookupError:
            pass
        return []

    async def _surely_strike(self, target: Target) -> list[tuple[str, int]]:
        """It may be on its way back from an earlier fault; a runner comes with a job."""
        for tick in range(round(PRESENT_SECONDS / 0.05)):
            if killed := self._strike(target):
                return killed
            await asyncio.sleep(0.05)
            if tick % 100 == 99 and target in {"runner", "zygote"}:
                await self._noted(self.deliveries.send, "push")
        self.problems.append(f"{target} was never there to be killed")
        return []

    def _name(self, target: Target, peer: str | None) -> str:
        """Which of several: the one whose message it was, or any."""
        if target in {"agent", "runner", "zygote"}:
            agent = peer or f"agent-{self.draw.randint(1, self.stack.agents)}"
            return agent if target == "agent" else f"{target} of {agent}"
        return target

    def _pid(self, name: str) -> int | None:
        if name == "supervisor":
            return self.stack.process.pid if self.stack.process is not None else None
        what, _, agent = name.rpartition(" of ")
        if not what:
            return self.stack.pid(name)
        return self._below(agent, what)

    def _below(self, agent: str, what: str) -> int | None:
        """A runner that lives now, of this agent or any, or the process that it was forked from."""
        names = [agent, *(f"agent-{number + 1}" for number in range(self.stack.agents))]
        for pid in (self.stack.pid(name) for name in names):
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(pid).children(recursive=True) if pid else ():
                    if child.name() == "kici-runner":
                        return child.pid if what == "runner" else child.ppid()
        return None

    async def _back(self, name: str, pid: int) -> None:
        if name == "supervisor":
            await self._start_again()
        elif " of " not in name:  # the next job starts a new runner, and a zygote if need be
            await self._noted(lambda: self.stack.wait_back(name, pid, within_seconds=90))

    async def _start_again(self) -> None:
        assert self.stack.process is not None
        await asyncio.to_thread(self.stack.process.wait)
        await self._nothing_left("left by a killed supervisor", jobs=False)
        await asyncio.to_thread(self.stack.start)

    # ── pausing ──────────────────────────────────────────────────────────────────────────────────

    async def _pause(self, fault: Fault) -> None:
        stopped: list[int] = []

        def act(peer: str | None) -> None:
            pid = None if stopped else self._pid(self._name(fault.target, peer))
            if pid is None:
                return
            with contextlib.suppress(psutil.Error):
                # A database is a family; of an agent, what it runs goes on.
                family = psutil.Process(pid).children() if fault.target == "postgres" else []
                for process in [psutil.Process(pid), *family]:
                    process.suspend()
                    stopped.append(process.pid)

        if fault.kind:
            await self._trapped(fault, act)
        act(None)
        async with asyncio.TaskGroup() as tasks:
            for route in fault.then:
                tasks.create_task(self._noted(self.deliveries.send, route))
            await asyncio.sleep(fault.seconds)
            for pid in reversed(stopped):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    # ── traps ────────────────────────────────────────────────────────────────────────────────────

    async def _trapped(self, fault: Fault, act: Callable[[str | None], None], *, cut: bool = False) -> bool:
        """Strike when the message passes, and see that it does; False when it never came."""
        link = self.links[fault.link]
        trap = Trap(fault.kind, fault.when, act, fault.nth, cut=cut)
        link.arm(trap)
        if fault.kind in OPENING:
            await link.cut_all()
        provoke = self.provocations.for_kind(fault.kind)
        until = time.monotonic() + PROVOKE_SECONDS
        async with asyncio.TaskGroup() as tasks:
            if provoke is not None and fault.kind not in OF_RUNS:
                tasks.create_task(self._noted(provoke))
            while not trap.fired.is_set() and time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.5):
                        await trap.fired.wait()
                if provoke is not None and not trap.fired.is_set():
                    tasks.create_task(self._noted(provoke))
            if not trap.fired.is_set():
                link.trap = None
                self.report.unfired.append(str(fault))
        return trap.fired.is_set()

    # ── what is left ─────────────────────────────────────────────────────────────────────────────

    async def _nothing_left(self, what: str, *, jobs: bool) -> None:
        """`jobs`: with the stack up and idle, work directories must be empty of processes, too."""

        def gone() -> bool:
            return not self._strays(jobs)

        try:
            await asyncio.to_thread(eventually, gone, within_seconds=GONE_SECONDS)
        except AssertionError:
            self.problems.append(f"{what}: {self._strays(jobs)}")

    def _strays(self, jobs: bool) -> set[str]:
        """Processes of this stack that the supervisor does not own (any more), or of jobs."""
        assert self.stack.process is not None
        owned: set[int] = set()
        with contextlib.suppress(psutil.Error):
            supervisor = psutil.Process(self.stack.process.pid)
            owned = {supervisor.pid, *(child.pid for child in supervisor.children(recursive=True))}
        strays: set[str] = set()
        for process in psutil.process_iter(["pid", "name", "cmdline", "cwd", "status"]):
            info = process.info
            text = " ".join(info["cmdline"] or []) + " " + (info["cwd"] or "")
            if str(self.stack.data_dir) not in text or info["status"] == "zombie":
                continue
            workspaces = f"{self.stack.data_dir}/agents/"
            in_workspace = (info["cwd"] or "").startswith(workspaces) and "/work/" in info["cwd"]
            working = jobs and (info["name"] == "kici-runner" or in_workspace)
            if info["pid"] not in owned or working:
                strays.add(f"{info['pid']} {info['name']} {text[:120]}")
        return strays


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
                links = {"agent": agent_link, "platform": platform_link}
                yield Campaign(stack, links, Path(home) / "marks", seed)
            except BaseException:
                print(stack.logs(60))
                raise
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)
