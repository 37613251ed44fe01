"""Starts zygotes and runs jobs on them: the one door to this package for agents and `kici run local`.

    async with Zygote.start(python=venv_python) as zygote:
        result = await zygote.run(execute, observer, services=services)

`services` answers what author code asks for, see `RunnerServices`; without it every such call fails.
One zygote serves one interpreter. It may run several jobs at once, each in a process of its own.
"""

import asyncio
import logging
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import msgspec
from msgspec import Struct, structs

from kici.protocol.runner_v1 import (
    PROTOCOL_VERSION,
    Execute,
    Exited,
    Spawn,
    Spawned,
    Warm,
    decode_from_zygote,
)
from kici.runner import linux
from kici.runner.desk import NoServices, RequestDesk, RunnerServices, UnknownMethodError
from kici.runner.environment import PRIVATE_FOLDER, inherited
from kici.runner.masking import Masker
from kici.runner.session import JobResult, Observer, Session
from kici.runner.wire import Inbox, Outbox, WireError
from kici.spec.durations import in_words
from kici.spec.errors import KiciError
from kici.spec.states import JobStatus

__all__ = [
    "JobResult",
    "Observer",
    "RunAs",
    "RunnerServices",
    "UnknownMethodError",
    "Zygote",
    "ZygoteError",
]

_BOOT = (
    "import sys; sys.path += sys.argv[3:]\n"
    "from kici.runner.guardian import main; main(int(sys.argv[1]), int(sys.argv[2]))"
)
_WARM_WITHIN_S = 60.0
_CLOSE_WITHIN_S = 10.0
_STDERR_BYTES = 16_384
log = logging.getLogger(__name__)


class RunAs(Struct, frozen=True, kw_only=True):
    """Another user for everything below the host, which must be root. `env` is added to what is inherited."""

    uid: int
    gid: int
    groups: list[int]
    env: dict[str, str]


class ZygoteError(KiciError):
    """The interpreter could not be made ready; no job can run on it."""

    code = "zygote_failed"


def own_paths() -> list[str]:
    """Where this kici and its one dependency are imported from, for interpreters that have neither."""
    import kici

    roots = [
        os.path.dirname(os.path.dirname(os.path.abspath(str(module.__file__))))
        for module in (kici, msgspec)
    ]
    return list(dict.fromkeys(roots))


class Zygote:
    """A warm interpreter. Dead, it is started anew by the next `run`."""

    def __init__(
        self,
        python: str,
        extra_path: Sequence[str],
        run_as: RunAs | None = None,
        launcher: Sequence[str] = (),
    ) -> None:
        self._python = python
        self._launcher = list(launcher)
        self._extra_path = list(extra_path)
        self._run_as = run_as
        self._process: _Process | None = None
        self._starting = asyncio.Lock()
        self._jobs: dict[str, Session | None] = {}  # None while the interpreter is being made ready
        self._early_aborts: dict[str, tuple[str, bool]] = {}

    @classmethod
    def start(
        cls,
        *,
        python: str | None = None,
        extra_path: Sequence[str] | None = None,
        run_as: RunAs | None = None,
        launcher: Sequence[str] = (),
    ) -> Self:
        """For `async with`. Defaults: this interpreter; this kici, after whatever `python` has itself; the
        host's own user. `launcher` starts the interpreter elsewhere, in a container: a command that gets the
        numbers of two descriptors, of the control socket and of the lifeline, and brings them to
        `kici.runner.guardian`."""
        paths = own_paths() if extra_path is None else extra_path
        return cls(python or sys.executable, paths, run_as, launcher)

    async def __aenter__(self) -> Self:
        await self._ready_process()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def run(
        self,
        execute: Execute,
        observer: Observer,
        *,
        secrets: Sequence[str] = (),
        services: RunnerServices | None = None,
    ) -> JobResult:
        """Run one job to its end; nothing that it started lives on afterwards.

        `secrets` are values to mask from the start. Those that `services` hands out are masked anyway.
        Whatever author code does ends in the result. ZygoteError: it never began. Cancelling this call
        kills the job without hooks; to be gentle, `abort` it and wait.
        """
        job_id = execute.job_id
        if job_id in self._jobs:
            raise ZygoteError(f"job {job_id} runs on this zygote already")
        self._jobs[job_id] = None
        masker = Masker(secrets)
        services = services or NoServices()
        try:
            session = await self._run_once(execute, observer, masker, services)
            result, interrupted = session.result.result(), session.interrupted()
            if interrupted is not None:
                log.warning("the runner of job %s died in a step; a fresh one runs its hooks", job_id)
                last = structs.replace(execute, interrupted=interrupted)
                session = await self._run_once(last, observer, masker, services)
                after = session.result.result()
                if session.completed and (after.status is not JobStatus.CANCELLED or interrupted.cancelled):
                    result = structs.replace(after, outputs=result.outputs)
            return result
        finally:
            _remove_private_files(execute.tmp)
            del self._jobs[job_id]
            self._early_aborts.pop(job_id, None)

    async def _run_once(
        self, execute: Execute, observer: Observer, masker: Masker, services: RunnerServices
    ) -> Session:
        """One runner, until nothing of it is left."""
        job_id = execute.job_id
        self._jobs[job_id] = None
        process = await self._ready_process()
        async with RequestDesk(services, job_id, masker) as desk:
            session = self._jobs[job_id] = process.spawn(execute, observer, masker, desk)
            if job_id in self._early_aborts:
                session.abort(*self._early_aborts.pop(job_id))
            try:
                await asyncio.shield(session.result)
            except asyncio.CancelledError:
                session.resume()
                session.abort("the host stopped waiting", True)
                await asyncio.wait([session.result], timeout=_CLOSE_WITHIN_S)
                raise
            return session

    def abort(self, job_id: str, reason: str, *, force: bool) -> None:
        """End a job: the step's processes, then hooks (AG-56); forced, everything at once. Unknown ids pass."""
        session = self._jobs.get(job_id)
        if session is not None:
            session.abort(reason, force)
        elif job_id in self._jobs:
            self._early_aborts[job_id] = (reason, force)

    def pause_output(self, job_id: str) -> None:
        """Stop reading what the job prints, so that it blocks. A paused job cannot end."""
        session = self._jobs.get(job_id)
        if session is not None:
            session.pause()

    def resume_output(self, job_id: str) -> None:
        session = self._jobs.get(job_id)
        if session is not None:
            session.resume()

    async def close(self) -> None:
        """Kill all jobs and the zygote; returns when they are gone."""
        if self._process is not None:
            await self._process.close()
            self._process = None

    async def _ready_process(self) -> "_Process":
        async with self._starting:
            if self._process is None or self._process.dead:
                if self._process is not None:
                    await self._process.close()
                self._process = _Process(self._python, self._extra_path, self._run_as, self._launcher)
                await self._process.warm_up()
            return self._process


def _remove_private_files(tmp: str) -> None:
    """Files of secrets that a runner left because it was killed (AG-64)."""
    path = os.path.join(tmp, PRIVATE_FOLDER)
    if os.path.lexists(path):
        shutil.rmtree(path, ignore_errors=True)


class _Process:
    """One guardian with its zygote, and the sessions of the runners forked from it."""

    def __init__(
        self, python: str, extra_path: Sequence[str], run_as: RunAs | None, launcher: Sequence[str]
    ) -> None:
        self.dead = False
        self._python = python
        self._run_as = run_as
        self._loop = asyncio.get_running_loop()
        self._inbox = Inbox()
        self._sessions: dict[int, Session] = {}
        self._next_spawn = 1
        self._stderr = b""
        self._warm: asyncio.Future[Warm] = self._loop.create_future()
        self._control, zygote_end = socket.socketpair()
        lifeline_end, self._lifeline = os.pipe2(os.O_CLOEXEC)
        stderr, stderr_end = os.pipe2(os.O_CLOEXEC)
        try:
            self._popen = subprocess.Popen(
                [*launcher, str(zygote_end.fileno()), str(lifeline_end)]
                if launcher
                else [
                    python,
                    "-I",
                    "-X",
                    "utf8",
                    "-c",
                    _BOOT,
                    str(zygote_end.fileno()),
                    str(lifeline_end),
                    *extra_path,
                ],
                stdin=subprocess.DEVNULL,
                stdout=stderr_end,
                stderr=stderr_end,
                env=inherited(os.environ) | (run_as.env if run_as is not None else {}),
                pass_fds=(zygote_end.fileno(), lifeline_end),
                start_new_session=True,
                user=run_as.uid if run_as is not None else None,
                group=run_as.gid if run_as is not None else None,
                extra_groups=run_as.groups if run_as is not None else None,
                cwd="/" if run_as is not None else None,  # it may not enter the host's own
            )
        except OSError as error:
            for fd in (self._lifeline, stderr):
                os.close(fd)
            self._control.close()
            raise ZygoteError(f"{python} cannot be started: {error}") from None
        finally:
            zygote_end.close()
            os.close(lifeline_end)
            os.close(stderr_end)
        self._stderr_fd = stderr
        os.set_blocking(stderr, False)
        self._control.setblocking(False)
        self._outbox = Outbox(self._loop, self._control)
        self._loop.add_reader(stderr, self._stderr_readable)
        self._loop.add_reader(self._control, self._control_readable)

    async def warm_up(self) -> Warm:
        """Wait for the imports. Raises ZygoteError with what the interpreter said."""
        try:
            warm = await asyncio.wait_for(asyncio.shield(self._warm), _WARM_WITHIN_S)
        except TimeoutError:
            await self.close()
            raise ZygoteError(
                f"{self._python} was not ready within {in_words(_WARM_WITHIN_S * 1000)}"
            ) from None
        except ZygoteError:
            await self.close()
            raise
        if warm.protocol_version != PROTOCOL_VERSION:
            await self.close()
            raise ZygoteError(
                f"kici {warm.sdk_version} of {self._python} speaks runner protocol {warm.protocol_version}, "
                f"this host {PROTOCOL_VERSION}: update the older one"
            )
        return warm

    def spawn(self, execute: Execute, observer: Observer, masker: Masker, desk: RequestDesk) -> Session:
        ours, theirs = socket.socketpair()
        outside, outside_end = linux.output_pipe()
        os.set_blocking(outside, False)
        if self._run_as is not None:  # the runner opens it anew
            os.fchown(outside_end, self._run_as.uid, self._run_as.gid)
        with theirs:
            try:
                spawn_id = self._next_spawn
                self._next_spawn += 1
                session = self._sessions[spawn_id] = Session(execute, observer, masker, ours, outside, desk)
                self._outbox.send(
                    Spawn(spawn_id=spawn_id, cwd=execute.workspace, env=execute.env),
                    [theirs.fileno(), outside_end],
                )
            finally:
                os.close(outside_end)
        return session

    def _control_readable(self) -> None:
        try:
            while self._inbox.receive(self._control):
                while (message := self._inbox.next_message()) is not None:
                    self._handle(decode_from_zygote(message))
        except BlockingIOError:
            return
        except (WireError, msgspec.DecodeError, ConnectionError) as error:
            log.warning("the zygote of %s broke its protocol: %s", self._python, error)
        self._died()

    def _handle(self, message: Warm | Spawned | Exited) -> None:
        match message:
            case Warm():
                if not self._warm.done():
                    self._warm.set_result(message)
            case Spawned():
                self._sessions[message.spawn_id].spawned(message.pid)
            case Exited():
                self._sessions.pop(message.spawn_id).exited(message.status)

    def _stderr_readable(self) -> None:
        try:
            data = os.read(self._stderr_fd, 65_536)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._stderr_fd)
            return
        self._stderr = (self._stderr + data)[-_STDERR_BYTES:]

    def _died(self) -> None:
        if self.dead:
            return
        self.dead = True
        self._stderr_readable()
        self._loop.remove_reader(self._control)
        said = self._stderr.decode("utf-8", "replace").strip()
        if not self._warm.done():
            self._warm.set_exception(
                ZygoteError(f"{self._python} could not load kici.runner: {said or 'it exited'}")
            )
            self._warm.exception()
        elif said:
            log.error("the zygote of %s died: %s", self._python, said)
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            session.lost("the process that started the runner died")

    async def close(self) -> None:
        self._died()
        os.close(self._lifeline)
        self._outbox.close()
        self._control.close()
        try:
            await asyncio.wait_for(self._gone(), _CLOSE_WITHIN_S)
        except TimeoutError:
            log.error("processes of %s outlive SIGKILL", self._python)
        self._loop.remove_reader(self._stderr_fd)
        os.close(self._stderr_fd)
        self._inbox.close()

    async def _gone(self) -> None:
        """The guardian leaves last."""
        ended: asyncio.Future[None] = self._loop.create_future()
        pidfd = os.pidfd_open(self._popen.pid)
        self._loop.add_reader(pidfd, lambda: ended.done() or ended.set_result(None))
        try:
            await ended
        finally:
            self._loop.remove_reader(pidfd)
            os.close(pidfd)
        self._popen.wait()
