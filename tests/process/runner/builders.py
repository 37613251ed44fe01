"""Workflow repositories in a folder, and an observer that remembers everything."""

import asyncio
import hashlib
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kici.protocol.runner_v1 import Execute, Ready, StepEnded, StepStarted
from kici.runner.environment import step_environment
from kici.runner.host import JobResult, RunnerServices, UnknownMethodError, Zygote
from kici.sdk.errors import CapabilityMissingError, LimitExceededError
from kici.spec.errors import KiciError
from kici.spec.events import Event
from kici.spec.states import StepStatus

HEADER = """
import asyncio, os, subprocess, sys, threading, time
from dataclasses import dataclass
from pathlib import Path
from kici import *
from kici import Context, HookContext, Retry, hook, job, need, parallel, push, step, workflow
from kici import CommandError, OutputError, LimitExceededError

LINUX = "kici:os:linux"
"""


class Repo:
    """A repository root with one workflow file whose jobs are the module's `jobs`."""

    def __init__(self, root: Path) -> None:
        self.root = root / "repo"
        self._tmp = root / "tmp"
        (self.root / ".kici" / "workflows").mkdir(parents=True)

    def write(self, source: str, *, header: str = HEADER, options: str = "") -> None:
        """`source` binds `jobs`, a list; the workflow `ci` around it is added, with `options`."""
        body = (
            header + textwrap.dedent(source) + f"\nci = workflow('ci', on=push(), jobs=jobs, {options})\n"
        )
        (self.root / ".kici" / "workflows" / "ci.py").write_text(body)

    def execute(self, job: str, **changes: Any) -> Execute:
        tmp = self._tmp / str(changes.get("job_id", job))
        tmp.mkdir(parents=True, exist_ok=True)
        fields: dict[str, Any] = {
            "run_id": "run-1",
            "job_id": job,
            "attempt": 1,
            "workflow_name": "ci",
            "workflow_file": ".kici/workflows/ci.py",
            "export": "ci",
            "job_name": job,
            "base_job_name": job,
            "workspace": str(self.root),
            "tmp": str(tmp),
            "matrix": {},
            "event": Event(type="push", target_branch="main"),
            "upstream_outputs": {},
            "upstream_statuses": {},
            "run_info": {},
            "env": step_environment(os.environ),
            "default_step_timeout_ms": 60_000,
            "max_grace_period_ms": 300_000,
        }
        if "generated" in changes:  # `job` is the name here
            fields["job"] = changes.pop("generated")
        return Execute(**{**fields, **changes})


class Recorder:
    """`rows` in order of their start; output by step index; `reached` waits for what a step prints."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.starts: list[StepStarted] = []
        self.ends: dict[int, StepEnded] = {}
        self.bytes: dict[int, bytearray] = {}
        self.runner: Ready | None = None
        self._changed = asyncio.Condition()
        self._wakes: set[asyncio.Task[None]] = set()

    def ready(self, m: Ready) -> None:
        self.runner = m
        self._wake()

    def step_started(self, m: StepStarted) -> None:
        self.events.append(f"start {m.step_name}")
        self.starts.append(m)
        self._wake()

    def output(self, step_index: int, data: bytes) -> None:
        assert step_index not in self.ends, f"output of step {step_index} after its end"
        assert 0 < len(data) <= 1 << 20
        self.bytes.setdefault(step_index, bytearray()).extend(data)
        self._wake()

    def step_ended(self, m: StepEnded) -> None:
        assert m.step_index not in self.ends
        self.events.append(f"end {m.step_name} {m.status}")
        self.ends[m.step_index] = m
        self._wake()

    def _wake(self) -> None:
        async def notify() -> None:
            async with self._changed:
                self._changed.notify_all()

        task = asyncio.get_running_loop().create_task(notify())
        self._wakes.add(task)
        task.add_done_callback(self._wakes.discard)

    async def printed(self, text: str, step_index: int | None = None) -> str:
        """Wait until the text was printed; the whole output of that step so far."""
        async with asyncio.timeout(30), self._changed:
            while True:
                for index in [step_index] if step_index is not None else list(self.bytes):
                    if text in self.text(index):
                        return self.text(index)
                await self._changed.wait()

    def text(self, step_index: int = 0) -> str:
        return bytes(self.bytes.get(step_index, b"")).decode()

    def sha256(self, step_index: int = 0) -> str:
        return hashlib.sha256(self.bytes.get(step_index, b"")).hexdigest()

    def end(self, name: str) -> StepEnded:
        return next(end for end in self.ends.values() if end.step_name == name)

    def statuses(self) -> dict[str, StepStatus]:
        return {end.step_name: end.status for end in self.ends.values()}

    def index(self, name: str) -> int:
        return self.end(name).step_index


class Host:
    """Answers requests: secrets and answers as given, caches in a folder, everything asked in `asked`."""

    def __init__(
        self, folder: Path, *, secrets: Mapping[str, str] | None = None, **answers: Mapping[str, Any]
    ) -> None:
        """`answers` by method, with `_` for the dot."""
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.kept: dict[str, str] = {}
        self.caches = folder / "caches"
        self.caches.mkdir(parents=True, exist_ok=True)
        self._secrets = dict(secrets or {})
        self._answers = {name.replace("_", ".", 1): answer for name, answer in answers.items()}

    def methods(self) -> list[str]:
        return [method for method, _params in self.asked]

    async def request(self, job_id: str, method: str, params: dict[str, Any]) -> Any:
        self.asked.append((method, params))
        if method in self._answers:
            return self._answers[method]
        key = str(params.get("key"))
        match method:
            case "secrets.get":
                if key not in self._secrets:
                    raise _Refused("secret_not_found")
                return {"value": self._secrets[key], "backend": "test", "scope": "staging"}
            case "secrets.list":
                return {"names": sorted(self._secrets)}
            case "secrets.output":
                if len(self.kept) >= 20:
                    raise LimitExceededError("a job may have 20 secret outputs")
                self.kept[key] = params["value"]
                return {}
            case "cache.restore":
                names = sorted(path.stem for path in self.caches.glob("*.tgz"))
                wanted = [
                    key,
                    *(
                        name
                        for prefix in params["restoreKeys"]
                        for name in names
                        if name.startswith(prefix)
                    ),
                ]
                found = next((name for name in wanted if name in names), None)
                path = str(self.caches / f"{found}.tgz")
                return {"hit": found is not None, "matchedKey": found, "path": path}
            case "cache.save":
                path = self.caches / f"{key}.tgz"
                return {"skip": path.exists(), "path": f"{path}.new"}
            case "cache.commit":
                Path(params["path"]).rename(self.caches / f"{key}.tgz")
                return {}
            case "host.reboot" | "oidc.token" | "provenance.attest":
                raise CapabilityMissingError(f"{method} is not there yet")
            case _:
                raise UnknownMethodError(method)


class _Refused(KiciError):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code  # type: ignore[misc]


async def run(
    repo: Repo,
    job: str,
    *,
    secrets: Sequence[str] = (),
    services: RunnerServices | None = None,
    **changes: Any,
) -> tuple[JobResult, Recorder]:
    """One job on a zygote of its own."""
    seen = Recorder()
    async with asyncio.timeout(60), Zygote.start() as zygote:
        result = await zygote.run(repo.execute(job, **changes), seen, secrets=secrets, services=services)
    return result, seen
