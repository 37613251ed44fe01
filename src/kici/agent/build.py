"""What a job with the purpose `build` does: one synthetic step whose log is the installer's (AG-67, AG-69)."""

import asyncio
from typing import Protocol

from kici.agent.dependencies import BUILD_TIMEOUT_S, Environment, Environments, InstallFailed
from kici.agent.locks import LockBusy
from kici.agent.packs import Packs
from kici.agent.process import ProgramFailed
from kici.protocol.runner_v1 import StepEnded, StepStarted
from kici.runner.host import JobResult
from kici.runtime.clock import Clock
from kici.spec.states import JobStatus, StepStatus

STEP = "build"
_UNINSTALLABLE = "lock_resolution"
_NOT_BUILT = "build_coordination"


class Observer(Protocol):
    """Who reports rows; the same that hears a runner."""

    def step_started(self, m: StepStarted) -> None: ...
    def step_ended(self, m: StepEnded) -> None: ...
    def output(self, step_index: int, data: bytes) -> None: ...


class Build:
    def __init__(self, observer: Observer, environments: Environments, packs: Packs, clock: Clock) -> None:
        self._observer = observer
        self._environments = environments
        self._packs = packs
        self._clock = clock

    async def run(self, repository: str, pinned_by: str, *, timeout_ms: int | None) -> JobResult:
        """`outputs` say what is packed, as the orchestrator's `runs.builds` reads it."""
        started_ms = self._clock.now_ms()
        self._observer.step_started(
            StepStarted(step_index=0, step_name=STEP, step_type=STEP, timestamp_ms=started_ms)
        )
        limit_s = timeout_ms / 1000 if timeout_ms is not None else BUILD_TIMEOUT_S
        error, category = None, None
        outputs: dict[str, object] = {}
        try:
            async with asyncio.timeout(limit_s):
                outputs = await self._build(repository, pinned_by, limit_s)
        except InstallFailed as failure:
            error, category = str(failure), _UNINSTALLABLE
        except (LockBusy, ProgramFailed) as failure:
            error, category = str(failure), _NOT_BUILT
        except TimeoutError:
            error = f"building the dependencies took longer than {limit_s:g} s"
            category = _NOT_BUILT
        if error is not None:
            self._say(error)
        now_ms = self._clock.now_ms()
        self._observer.step_ended(
            StepEnded(
                step_index=0,
                step_name=STEP,
                step_type=STEP,
                status=StepStatus.FAILED if error is not None else StepStatus.SUCCESS,
                timestamp_ms=now_ms,
                duration_ms=max(0, now_ms - started_ms),
                error_message=error,
            )
        )
        return JobResult(
            status=JobStatus.FAILED if error is not None else JobStatus.SUCCESS,
            error_message=error,
            outputs={STEP: outputs} if outputs else {},
            failure_category=category,
        )

    async def _build(self, repository: str, pinned_by: str, limit_s: float) -> dict[str, object]:
        environment = await self._environments.resolve(
            repository, pinned_by, self._say, self._output, self._packs.fetch, timeout_s=limit_s
        )
        if environment.key is None or environment.folder is None:
            self._say("Dependencies: none declared")
            return {}
        return await self._publish(environment, environment.key, environment.folder, pinned_by)

    async def _publish(
        self, environment: Environment, key: str, folder: str, pinned_by: str
    ) -> dict[str, object]:
        held = self._environments.hold(key)
        try:
            kept = await self._packs.publish(key, folder, self._say)
        finally:
            held.release()
        outputs: dict[str, object] = {"environment": key}
        if environment.pinned:
            outputs["commit"] = pinned_by
        if not kept:
            outputs["packed"] = False
        return outputs

    def _say(self, text: str) -> None:
        self._output(text.encode(errors="replace") + b"\n")

    def _output(self, data: bytes) -> None:
        self._observer.output(0, data)
