"""One row of a job: a step or a hook with its own pipe, environment, time limit and processes.

An activity calls one author function at a time and guarantees an end: whatever the function does, when it
is stopped its process tree dies and control comes back within the grace period and a few seconds.
"""

import asyncio
import contextvars
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from msgspec import Struct

from kici.protocol.runner_v1 import Annotation, Execute, StepEnded, StepStarted
from kici.runner import envfiles, linux, processes
from kici.runner.command import LogSink
from kici.runner.environment import PRIVATE_FOLDER
from kici.runner.invoke import invoke
from kici.runner.link import HostLink, Watch
from kici.runner.memory import OomKills
from kici.runner.requests import Requests
from kici.runner.results import Result, Stop, StoppedError
from kici.runner.stdio import Stdio, Stream, current_scope
from kici.sdk.calls import Forgotten, NotAwaitedError, TrackedCall, settle
from kici.spec.durations import in_words
from kici.spec.ids import PREPARE_STEP

T = TypeVar("T")
_KILL_WITHIN_S = 5.0
_UNWIND_WITHIN_S = 1.0
_WATCH_SLACK_S = 0.2
_LONGEST_POLL_S = 0.05


class OutsideLog:
    """The log outside the steps, for commands that outlived theirs; opened for the first of them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writer_fd: int) -> None:
        self._loop = loop
        self._writer_fd = writer_fd
        self._sink: LogSink | None = None

    def __call__(self) -> LogSink:
        if self._sink is None:
            self._sink = LogSink(self._loop, self._writer_fd)
        return self._sink


class Services(Struct, kw_only=True):
    """What all activities of a runner share."""

    execute: Execute
    loop: asyncio.AbstractEventLoop
    link: HostLink
    stdio: Stdio
    watch: Watch
    requests: Requests
    outside: OutsideLog
    grace_s: float
    oom_kills: OomKills  # when the job began
    background: set[int]  # processes of earlier steps, which the end of this one does not touch
    deadlines: dict[str, float]  # of running activities, monotonic seconds by marker
    abandoned: list["asyncio.Task[Any]"]  # would not end; kept so that they are not collected
    outside_activities: int = 0

    def expect(self, marker: str, deadline: float | None) -> None:
        """Tell the watch until when the activity may hold the event loop; None ends it."""
        if deadline is None:
            self.deadlines.pop(marker, None)
        else:
            self.deadlines[marker] = deadline + _WATCH_SLACK_S
        self.watch.deadline = min(self.deadlines.values(), default=None)


class Notes(Struct, kw_only=True):
    """What author code left in its row beside output; reported when it ends."""

    secrets: dict[str, None]  # names that were read, in order
    summary: list[str]
    annotations: list[Annotation]


class Activity:
    """Use: `open`, then `call` once or (retries) more often, then `close`.

    `open_outside` and `close_outside` instead run author code that has no row, such as a rule: its output
    goes to the log outside the steps.
    """

    def __init__(
        self,
        services: Services,
        *,
        index: int,
        name: str,
        step_type: str,
        env: dict[str, str],
        group_id: str | None = None,
        runs_to_its_end: bool = False,
    ) -> None:
        """`env` is copied. `group_id` set: others run beside it, so it cannot own descriptors 1 and 2.

        `runs_to_its_end` tells the owner of the activity to pass on forced stops only.
        """
        self.services = services
        self.index = index
        self.name = name
        self.runs_to_its_end = runs_to_its_end
        self.env = dict(env)
        self.text: Stream | None = None
        self.writer_fd = -1
        self.told_to_end = False
        self.attempt = 1
        self.exports: dict[str, str] = {}
        self.added_paths: list[str] = []
        self.notes = Notes(secrets={}, summary=[], annotations=[])
        self._step_type = step_type
        self._group_id = group_id
        self._base_env = dict(env)
        self._calls: list[TrackedCall[Any]] = []
        self._sink: LogSink | None = None
        self._started_at = time.monotonic()
        self._tmp: str | None = None
        self._secrets: str | None = None
        self._files = os.path.join(services.execute.tmp, f"step-{index}.1")
        self._stopping: asyncio.Future[Stop] = services.loop.create_future()
        self._forced = False
        self._has_files = False

    # ── the row ─────────────────────────────────────────────────────────────────────────────────

    def open(self) -> None:
        reader, self.writer_fd = linux.output_pipe()
        self.services.stdio.flush()  # what was printed before is in its pipe when the host hears of the row
        self._started_at = time.monotonic()
        try:
            self._announce(1, [reader])
        finally:
            os.close(reader)
        if self._group_id is None:
            self.services.stdio.give_to(self.writer_fd)
        else:
            self.text = self.services.stdio.open_scoped(self.writer_fd)

    def _announce(self, attempt: int, fds: list[int]) -> None:
        self.services.link.send(
            StepStarted(
                step_index=self.index,
                step_name=self.name,
                step_type=self._step_type,
                timestamp_ms=time.time_ns() // 1_000_000,
                attempt=attempt,
                concurrency_kind="sequential" if self._group_id is None else "parallel-child",
                group_id=self._group_id,
            ),
            fds,
        )

    def retry(self, attempt: int) -> None:
        """Begin attempt `attempt`, counted from 1, with a fresh environment."""
        self._remove_files()
        self.env = dict(self._base_env)
        self.exports = {}
        self.added_paths = []
        self.told_to_end = False
        self._files = os.path.join(self.services.execute.tmp, f"step-{self.index}.{attempt}")
        self.attempt = attempt
        self.notes.summary.clear()
        self.notes.annotations.clear()
        self._announce(attempt, [])

    def open_outside(self) -> None:
        """No row, no log of its own."""
        if self.index != PREPARE_STEP:
            raise ValueError("a row must be announced")
        self.services.outside_activities += 1
        self._files = os.path.join(self.services.execute.tmp, f"outside-{self.services.outside_activities}")
        self.writer_fd = os.dup(self.services.stdio.outside_fd)

    def close_outside(self) -> None:
        self._remove_files()
        self.services.stdio.flush()
        if self._sink is not None:
            self._sink.close()
        os.close(self.writer_fd)

    def close(self, result: Result) -> None:
        """Everything written so far is in the pipe before the host hears of the end."""
        self._remove_files()
        if self.text is None:
            self.services.stdio.take_back()
        else:
            self.services.stdio.close_scoped(self.text)
            self.text = None  # code that outlived the step prints outside the steps
        if self._sink is not None:
            self._sink.close()
        os.close(self.writer_fd)
        notes = self.notes
        self.services.link.send(
            StepEnded(
                step_index=self.index,
                step_name=self.name,
                step_type=self._step_type,
                status=result.status,
                timestamp_ms=time.time_ns() // 1_000_000,
                duration_ms=round((time.monotonic() - self._started_at) * 1_000),
                exit_code=result.exit_code,
                error_message=result.error_message,
                timeout_reason=result.timeout_reason,
                output=result.output,
                has_output=result.has_output,
                check_outcome=result.check_outcome,
                drift_summary=result.drift_summary,
                rules=result.rules,
                secrets_accessed=list(notes.secrets),
                summary="\n".join(notes.summary) if notes.summary else None,
                annotations=notes.annotations,
            )
        )

    def print(self, text: str) -> None:
        """Add lines of ours to the step's log."""
        (self.text or self.services.stdio.out).write(text if text.endswith("\n") else text + "\n")

    # ── what author code reaches through ctx ────────────────────────────────────────────────────

    def tracked(self, inner: Coroutine[Any, Any, T], call: str) -> TrackedCall[T]:
        tracked = TrackedCall(inner, call, workspace=self.services.execute.workspace)
        self._calls.append(tracked)
        return tracked

    def set_variable(self, key: str, value: str) -> None:
        """For this activity only."""
        self.env[key] = value
        if self._group_id is None:
            os.environ[key] = value

    def export(self, key: str, value: str) -> None:
        """For this activity and, once it ends, those after it. Names of operator secrets stay (AU-55)."""
        if not self._is_locked(key):
            self.exports[key] = value
            self.set_variable(key, value)

    def put_on_path(self, directory: str) -> None:
        """First on PATH, for this activity and those after it."""
        if not self._is_locked("PATH"):
            self.added_paths.insert(0, directory)
            self.set_variable("PATH", envfiles.with_path(self.env, [directory]))

    def _is_locked(self, key: str) -> bool:
        if key not in self.services.execute.locked_env:
            return False
        self.print(f"warning: {key} was not changed: the operator of this kici set a secret of that name")
        return True

    def log_sink(self) -> LogSink:
        """For commands: after what was printed so far."""
        if self.text is None:
            self.services.stdio.flush()
        else:
            self.text.flush()
        if self._sink is None:
            self._sink = LogSink(self.services.loop, self.writer_fd)
        return self._sink

    def temporary_directory(self) -> str:
        if self._tmp is None:
            self._tmp = self._files + ".tmp"
            os.makedirs(self._tmp, exist_ok=True)
        return self._tmp

    def secret_directory(self) -> str:
        """For files of secrets: nobody else may look, and the host removes it if we cannot."""
        if self._secrets is None:
            parent = os.path.join(self.services.execute.tmp, PRIVATE_FOLDER)
            os.makedirs(parent, mode=0o700, exist_ok=True)
            self._secrets = os.path.join(parent, os.path.basename(self._files))
            os.makedirs(self._secrets, mode=0o700, exist_ok=True)
        return self._secrets

    # ── calling author code ─────────────────────────────────────────────────────────────────────

    def stop(self, stop: Stop) -> None:
        """End the running call, or the next one at its start. A forced stop overtakes a graceful one."""
        self._forced = self._forced or stop.force
        if not self._stopping.done():
            self._stopping.set_result(stop)

    async def stopped_within(self, seconds: float) -> Stop | None:
        """Wait; the reason to stop when there is one before the time is up."""
        done, _ = await asyncio.wait([self._stopping], timeout=seconds)
        return self._stopping.result() if done else None

    async def call(self, fn: Callable[..., Any], *arguments: Any, timeout_ms: int, **named: Any) -> Any:
        """The function's result. Raises what it raised, StoppedError, NotAwaitedError or ExitedError."""
        if self._stopping.done():
            raise StoppedError(self._stopping.result())
        self.env["KICI_ENV"] = self._files + ".env"
        self.env["KICI_PATH"] = self._files + ".path"
        self._has_files = False
        if self._group_id is None:
            adopt_environment(self.env)
        timeout_s = timeout_ms / 1_000
        before = set(processes.own_children())
        self.services.background.clear()
        self.services.background.update(before)
        context = contextvars.copy_context()
        context.run(current_scope.set, self)
        task = self.services.loop.create_task(
            invoke(fn, *arguments, **named), name=self.name, context=context
        )
        deadline = time.monotonic() + timeout_s
        self.services.expect(self._files, deadline)
        try:
            await asyncio.wait(
                [task, self._stopping], timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            stop = self._reason_to_stop(task, deadline, timeout_ms)
            if stop is not None:
                await self._wind_down(task, before, stop)
                raise StoppedError(stop)
            return task.result()
        except asyncio.CancelledError:
            raise RuntimeError("the step cancelled itself") from None
        finally:
            self.services.expect(self._files, None)
            forgotten = await self._settle_calls()
            self._clean_up()
            if forgotten and sys.exc_info()[0] is None:
                raise NotAwaitedError(forgotten, self.services.execute.workspace)

    def _reason_to_stop(self, task: "asyncio.Task[Any]", deadline: float, timeout_ms: int) -> Stop | None:
        if task.done() and not task.cancelled():
            return None
        if self._stopping.done():
            return self._stopping.result()
        if not task.done() or time.monotonic() >= deadline:
            return Stop(kind="step_timeout", reason=f"timed out after {in_words(timeout_ms)}")
        return None

    async def _wind_down(self, task: "asyncio.Task[Any]", before: Collection[int], stop: Stop) -> None:
        """SIGTERM and cancellation, the grace period, SIGKILL (AG-56). Forced: SIGKILL at once."""
        self._forced = self._forced or stop.force
        loop = self.services.loop
        task.cancel()
        self.told_to_end = True
        if not self._forced:
            processes.send_signal(self._tree(before), signal.SIGTERM)
        kill_at = loop.time() + self.services.grace_s
        pause_s = 0.001
        while not self._forced and loop.time() < kill_at:
            if task.done() and not self._tree(before):
                break
            await asyncio.sleep(pause_s) if task.done() else await asyncio.wait([task], timeout=pause_s)
            pause_s = min(pause_s * 2, _LONGEST_POLL_S)
        give_up_at = loop.time() + _KILL_WITHIN_S
        while (tree := self._tree(before)) and loop.time() < give_up_at:
            processes.send_signal(tree, signal.SIGKILL)
            await asyncio.sleep(0.002)
        if not task.done():
            await asyncio.wait([task], timeout=_UNWIND_WITHIN_S)
        if not task.done():
            self.services.abandoned.append(task)
        elif not task.cancelled():
            task.exception()  # seen; the reason to stop is what is told
        if self._group_id is None:
            processes.reap(pid for pid in processes.own_children() if pid not in before)

    def _tree(self, before: Collection[int]) -> list[int]:
        """Living processes of this activity. Background processes of earlier steps are not among them."""
        everything = processes.descendants_of(os.getpid(), without=before)
        if self._group_id is not None:
            mark = os.fsencode(f"KICI_ENV={self.env['KICI_ENV']}")
            everything = [pid for pid in everything if processes.has_in_environment(pid, mark)]
        return [pid for pid in everything if processes.is_running(pid)]

    async def _settle_calls(self) -> list[Forgotten]:
        """End calls that were not awaited and return them."""
        calls, self._calls = self._calls, []
        return await settle(calls, within_s=self.services.grace_s)

    # ── files ───────────────────────────────────────────────────────────────────────────────────

    def before_process(self) -> None:
        """A step that starts no process does not pay for the files that processes write to."""
        if not self._has_files:
            self._has_files = True
            for name in ("KICI_ENV", "KICI_PATH"):
                flags = os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC
                os.close(os.open(self.env[name], flags, 0o600))

    def _clean_up(self) -> None:
        """Take over what was exported through the files. They go with the job's folder."""
        env_file, path_file = self.env["KICI_ENV"], self.env["KICI_PATH"]
        found = envfiles.read_env_file(env_file)
        for key, value in found.items():
            if key.startswith("KICI_"):
                self.print(f"warning: {key} was not exported: names that start with KICI_ belong to kici")
            elif not self._is_locked(key):
                self.exports[key] = value
        paths = envfiles.read_path_file(path_file)
        if paths and not self._is_locked("PATH"):
            self.added_paths = [*paths, *self.added_paths]
        if found or paths:  # a step of several calls takes them over once
            for path in (env_file, path_file):
                if os.path.exists(path):
                    os.truncate(path, 0)

    def _remove_files(self) -> None:
        for folder in (self._tmp, self._secrets):
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        self._tmp = self._secrets = None


def adopt_environment(env: dict[str, str]) -> None:
    """Make `os.environ` what commands of the step get, so that plain subprocesses get it too."""
    for name in os.environ.keys() - env.keys():
        del os.environ[name]
    for name, value in env.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
