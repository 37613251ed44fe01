"""Runs on a server, line by line on this screen, until they end or nobody wants to watch any more (AU-128)."""

import asyncio
import signal
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from kici.cli.client import TERMINAL, Client, Refused, Unreachable
from kici.cli.local.screen import Screen
from kici.cli.runs.order import in_order
from kici.cli.runs.patience import Patience
from kici.cli.runs.steplog import StepLog
from kici.spec.states import JOB_TERMINAL, JobStatus, StepStatus

POLL_S = 0.3
TOO_MANY = 429
_SKIPPED = frozenset({StepStatus.PENDING, StepStatus.SKIPPED})


class Detached(Exception):
    """Ctrl-C for the second time: the runs go on without us."""


class Interruption:
    """The first Ctrl-C asks to cancel, the second to let go."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self.count = 0
        self.first = asyncio.Event()
        self.second = asyncio.Event()

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._heard)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_signal_handler(signal.SIGINT)

    def _heard(self) -> None:
        self.count += 1
        if self.count == 1:
            self._screen.notice("Cancelling; Ctrl-C again lets the run go on without you")
            self.first.set()
        else:
            self.second.set()


class Followed:
    """One run on the screen. `prefix` keeps jobs of several runs apart."""

    def __init__(self, client: Client, org_id: str, run_id: str, screen: Screen, *, prefix: str) -> None:
        self._client = client
        self._path = f"/api/v1/orgs/{org_id}/runs/{run_id}"
        self._cancel_path = f"/api/v1/orgs/{org_id}/test/runs/{run_id}/cancel"
        self._screen = screen
        self._prefix = prefix
        self._logs: dict[tuple[str, int, int], StepLog] = {}
        self._waiting: dict[str, str | None] = {}
        self._told: set[tuple[str, str]] = set()
        self._states: dict[str, str] = {}
        self._all_shown = False
        self.run_id = run_id
        self.detail: dict[str, Any] | None = None

    @property
    def ended(self) -> bool:
        """And every line is on the screen."""
        return self._all_shown and self.detail is not None and self.detail["run"]["status"] in TERMINAL

    async def cancel(self) -> None:
        """Graceful. That it ended meanwhile is no matter."""
        try:
            await self._client.post(self._cancel_path)
        except Refused as refused:
            if refused.status_code not in {404, 409}:
                raise

    async def look(self) -> None:
        """Show what is new. Raises Unreachable; the next look goes on from here."""
        detail = await self._client.get(f"{self._path}/detail")
        if detail["source"] == "projection" and detail["run"]["status"] not in TERMINAL:
            self.detail = self.detail or detail
            raise Unreachable("the orchestrator is away")
        names = [self._who(job) for job in detail["jobs"] if self._who(job) not in self._states]
        if names:
            self._screen.announce(names)
            self._states.update(dict.fromkeys(names, ""))
        shown = [await self._look_at(job) for job in detail["jobs"]]
        self._say_what_waits(detail)
        self.detail = detail
        self._all_shown = all(shown)

    def _say_what_waits(self, detail: dict[str, Any]) -> None:
        """Why a run or a job does not begin, once it has been so at two looks: otherwise nothing would be seen
        for as long as no agent has its labels."""
        waiting = {
            f"{self._prefix}{detail['run']['workflowName']}": detail["run"]["waitingReason"],
            **{self._who(job): job["waitingReason"] for job in detail["jobs"] if job["startedAt"] is None},
        }
        for who, reason in waiting.items():
            if reason and reason == self._waiting.get(who) and (who, reason) not in self._told:
                self._told.add((who, reason))
                self._screen.notice(f"{who} waits: {reason}")
        self._waiting = waiting

    def _who(self, job: dict[str, Any]) -> str:
        return f"{self._prefix}{job['jobName'] if job['kind'] == 'job' else job['displayName']}"

    async def _look_at(self, job: dict[str, Any]) -> bool:
        """Whether all that its steps have written so far is on the screen."""
        who, status = self._who(job), job["status"]
        before = self._states[who]
        if status in JOB_TERMINAL and before == status:
            return True
        if not before and job["startedAt"] is not None:
            self._screen.begin(who)
            self._states[who] = before = JobStatus.RUNNING
        whole = True
        for step in in_order(job["steps"]):
            if step["status"] in _SKIPPED:
                continue
            if step["status"] == StepStatus.RUNNING:
                self._screen.step(who, step["stepName"])
            whole &= await self._show(who, job, step)
        if status in JOB_TERMINAL and whole:
            self._screen.finish(who)
            if before:
                self._screen.end(who, JobStatus(status), job["durationMs"])
            else:
                self._screen.unstarted(who)
            self._states[who] = status
        return whole

    async def _show(self, who: str, job: dict[str, Any], step: Mapping[str, Any]) -> bool:
        key = (job["jobId"], step["attempt"], step["stepIndex"])
        log = self._logs.get(key)
        if log is None:
            log = self._logs[key] = StepLog(self._client, self._path, job["jobId"], step["stepIndex"])
        return await log.show(
            step,
            ended=job["status"] in JOB_TERMINAL,
            write=lambda text: self._screen.output(who, text.encode("utf-8", "replace")),
        )


async def follow(runs: Sequence[Followed], screen: Screen, interruption: Interruption) -> None:
    """Until all have ended. Raises Detached, Unreachable when the server stays away."""
    patience = Patience(screen.notice)
    cancelled = False
    while True:
        try:
            if interruption.first.is_set() and not cancelled:
                for run in runs:
                    if not run.ended:
                        await run.cancel()
                cancelled = True
            for run in runs:
                if not run.ended:
                    await run.look()
            patience.found()
        except Refused as refused:
            if refused.status_code != TOO_MANY:
                raise
        except Unreachable as error:
            patience.lost(error)
        if all(run.ended for run in runs):
            return
        if interruption.second.is_set():
            raise Detached
        waiter = interruption.second if interruption.first.is_set() else interruption.first
        try:
            async with asyncio.timeout(POLL_S):
                await waiter.wait()
        except TimeoutError:
            continue
        if interruption.second.is_set():
            raise Detached
