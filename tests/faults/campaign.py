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
from tests.faults.deliveries import Accepted, Deliveries
from tests.faults.invariants import Watch, unsettled
from tests.faults.plan import PUSH, SENT_BY, Fault, Point, Sending, Target, points
from tests.faults.provoke import OF_RUNS, OPENING, Provocations
from tests.faults.proxy import Proxy, Trap
from tests.faults.verdict import Baselines, Judge, Verdict
from tests.faults.workload import workflows
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
    doubtful: int = 0  # starts by hand whose answer was lost
    cached: int = 0  # entries of the cache
    looks: int = 0  # at the tables, meanwhile
    verdict: Verdict = field(default_factory=Verdict)
    seconds: float = 0.0
    logs: Path | None = None

    def lines(self) -> list[str]:
        verdict = self.verdict
        kills = ", ".join(f"{name} {number}" for name, number in sorted(self.kills.items()))
        others = ", ".join(f"{name} {number}" for name, number in sorted(self.others.items()))
        routes = Counter(str(accepted.sending) for accepted in self.accepted)
        ways = ", ".join(f"{number} by {route}" for route, number in sorted(routes.items()))
        kept = sum(accepted.kept for accepted in self.accepted)
        out = [
            f"seed {self.seed}: {self.kills.total()} kills ({kills}); {others or 'nothing else'}; {self.seconds:.0f} s",
            f"{len(self.points)} of {len(_POINTS)} points (message, before or after, who dies) were hit",
            (
                f"{len(self.accepted)} deliveries accepted ({ways}; {kept} kept by the Platform meanwhile,"
                f" {self.doubtful} answers to starts by hand lost)"
            ),
            (
                f"{verdict.runs} runs, {verdict.undisturbed} of them undisturbed: {verdict.retried} jobs retried under a new attempt,"
                f" {verdict.runner_deaths} failed by the death of their runner, {verdict.cancelled} runs cancelled,"
                f" {verdict.superseded} superseded"
            ),
            (
                f"{verdict.followers} runs followed from events of jobs, {verdict.turns} turns taken in"
                f" concurrency groups, {self.cached} cache entries with their objects;"
                f" {self.looks} looks at the tables meanwhile"
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
        workflow = workflows(str(self.marks))
        repository = await asyncio.to_thread(stack.repository, "faults", {"faults.py": workflow})
        for marks in (self.marks, Path(f"{self.marks}.turns")):
            marks.touch()
            marks.chmod(0o666)
        self.deliveries = Deliveries(stack, repository, self.marks)
        await asyncio.to_thread(self.deliveries.add_source)
        sha = await asyncio.to_thread(repository.push)
        first = await asyncio.to_thread(stack.wait_for_run, sha=sha)
        assert first["run"]["status"] == "success", first
        await asyncio.to_thread(self.deliveries.prepare, first["run"]["runId"], self.marks.parent)
        baselines = await asyncio.to_thread(Baselines.taken, stack, self.deliveries, first)
        self.provocations = Provocations(stack, self.deliveries, first)
        async with Watch.over(stack) as watch:
            await self._all(faults, say)
            say(f"waiting for the runs of {len(self.deliveries.accepted)} deliveries to end")
            judge = Judge(stack, baselines, self.marks)
            runner_kills = report.kills["runner"] + report.kills["zygote"]
            report.verdict = await asyncio.to_thread(
                judge.judge, self.deliveries, runner_kills=runner_kills
            )
        report.accepted = self.deliveries.accepted
        report.doubtful = self.deliveries.doubtful
        report.looks = watch.looks
        self.problems += watch.problems
        left, report.cached = await unsettled(stack)
        self.problems += report.verdict.problems + left
        await self._nothing_left("left-over processes", jobs=True)
        report.verdict.problems = self.problems
        report.seconds = time.monotonic() - started
        if report.verdict.problems:
            report.logs = Path(tempfile.mkdtemp(prefix="kici-faults-logs-", dir="/tmp"))
            shutil.copytree(stack.data_dir / "logs", report.logs, dirs_exist_ok=True)
        return report

    async def _all(self, faults: list[Fault], say: Callable[[str], None]) -> None:
        stack = self.stack
        for number, fault in enumerate(faults, start=1):
            assert stack.process is not None
            assert stack.process.poll() is None, f"kici up ended by itself:\n{stack.up_log()[-5000:]}"
            say(f"[{number}/{len(faults)}] {fault}")
            async with asyncio.TaskGroup() as tasks:
                for position, sending in enumerate(fault.sends):
                    cancel = fault.cancel_after if position == 0 else None
                    tasks.create_task(self._noted(self._deliver, sending, cancel))
                tasks.create_task(self._inject(fault))

    async def _noted(self, work: Callable[..., object], *arguments: object) -> None:
        """`work` in a thread; what it misses is a problem of the campaign, not its end."""
        try:
            await asyncio.to_thread(work, *arguments)
        except AssertionError as error:
            self.problems.append(str(error))

    def _deliver(self, sending: Sending, cancel_after: float | None) -> None:
        accepted = self.deliveries.send(sending)
        if cancel_after is not None and (accepted.delivery or accepted.run_id):
            self.deliveries.cancel(accepted, cancel_after)

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
            for sending in fault.then:
                tasks.create_task(self._noted(self.deliveries.send, sending))

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
                await self._noted(self.deliveries.send, PUSH)
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

    def agent_at(self, port: int) -> str | None:
        """Whose end of a connection it is."""
        for name in (f"agent-{number + 1}" for number in range(self.stack.agents)):
            pid = self.stack.pid(name)
            with contextlib.suppress(psutil.Error):
                if pid and any(
                    end.laddr and end.laddr.port == port
                    for end in psutil.Process(pid).net_connections("tcp4")
                ):
                    return name
        return None

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
            for sending in fault.then:
                tasks.create_task(self._noted(self.deliveries.send, sending))
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
            if provoke is not None and fault.kind not in OF_RUNS and fault.kind not in SENT_BY:
                tasks.create_task(self._noted(provoke))
            while not trap.fired.is_set() and time.monotonic() < until:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(4.0 if fault.kind in SENT_BY else 1.5):
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
        "orchestrator:KICI_PUBLIC_URL": f"http://127.0.0.1:{agent_port}",
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
                running = Campaign(stack, links, Path(home) / "marks", seed)
                agent_link.owner = running.agent_at
                yield running
            except BaseException:
                print(stack.logs(60))
                raise
            finally:
                await asyncio.to_thread(manager.__exit__, None, None, None)
