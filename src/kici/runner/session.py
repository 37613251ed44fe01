"""The host's view of one runner: its messages checked, its output masked, everything in order.

What the observer sees: `ready`; then per row `step_started`, all of its `output`, `step_ended`; rows of a
parallel group may overlap. A row is a step (0…), `init:<n>` (INIT_STEPS…), a hook (HOOK_STEPS…), or a
`cache:restore` or `cache:save` (CACHE_STEPS…). A skipped step has `step_ended` only.
A runner is hostile until proven otherwise: a message out of place ends it.
"""

import asyncio
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec
from msgspec import Struct, structs

from kici.protocol.runner_v1 import (
    PROTOCOL_VERSION,
    Abort,
    AddMask,
    Execute,
    FromRunner,
    InitResult,
    Interrupted,
    JobEnded,
    Ready,
    Reply,
    Request,
    RuleResult,
    StepEnded,
    StepStarted,
    decode_from_runner,
)
from kici.runner import scrubbing
from kici.runner.desk import RequestDesk
from kici.runner.masking import Masker
from kici.runner.memory import oom_kills
from kici.runner.pipes import OutputPipe, OutputPipes, own_description
from kici.runner.values import LIMIT_BYTES
from kici.runner.wire import Inbox, Outbox, WireError
from kici.spec.ids import CACHE_STEPS, HOOK_STEPS, INIT_STEPS, PREPARE_STEP
from kici.spec.lock import LockJob
from kici.spec.nesting import too_deep
from kici.spec.states import JOB_TERMINAL, STEP_TERMINAL, JobStatus, StepStatus

_LEFT_OPEN_S = 0.1  # how long output is awaited after a step's end when a stray process holds its pipe
_MOST_QUEUED = 10_000
_MOST_STEPS = 100_000
_TAIL_LINES = 20
_FORCE_WITHIN_S = 1.0
_STOP_SLACK_S = 10.0
_GONE_WITHIN_S = 10.0


class Observer(Protocol):
    """Called on the event loop, in order; must not block."""

    def ready(self, m: Ready) -> None: ...
    def step_started(self, m: StepStarted) -> None: ...
    def output(self, step_index: int, data: bytes) -> None:
        """Masked bytes, at most 1 MiB; `step_index` -1 is what no step owns."""
        ...

    def step_ended(self, m: StepEnded) -> None:
        """After all output of that step. Every text in `m` is masked and shortened: rules, drift summary
        (64 KiB), summary (1 MiB), annotations (the first 100), names of secrets that were read."""
        ...


class JobResult(Struct, frozen=True, kw_only=True):
    """How a job ended. `outputs` maps step names to JSON values. `rules`, `init`, `generated`,
    `failure_category` and `drifted` are as in `JobEnded`, masked."""

    status: JobStatus
    error_message: str | None = None
    timeout_reason: str | None = None  # job_timeout | step_timeout
    outputs: dict[str, Any] = {}
    rules: list[RuleResult] = []
    init: InitResult | None = None
    generated: list[LockJob] | None = None
    failure_category: str | None = None
    drifted: bool = False


class _Row(Struct):
    """A step or hook that runs."""

    started: StepStarted
    pipe: OutputPipe
    ended_at: float | None = None  # when StepEnded was first seen while the pipe was open


class Session:
    """One job on one runner. `result` is set once nothing of it is left."""

    def __init__(
        self,
        execute: Execute,
        observer: Observer,
        masker: Masker,
        sock: socket.socket,
        outside_fd: int,
        desk: RequestDesk,
    ) -> None:
        """Takes over the socket and the read end of the pipe for output outside of steps."""
        self.result: asyncio.Future[JobResult] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        self._execute = execute
        self._observer = observer
        self._masker = masker
        self._desk = desk
        self._sock = sock
        self._inbox = Inbox()
        self._outbox = Outbox(self._loop, sock)
        self._queue: deque[tuple[FromRunner, int]] = deque()  # with the descriptor it brought, or -1
        self._running: dict[int, _Row] = {}
        before = execute.interrupted
        self._seen: set[int] = set(before.steps) if before else set()
        self._statuses: dict[int, StepStatus] = {}
        self._died_in: list[int] = []  # rows that ran when the runner died
        self._values: dict[str, Any] = {}
        self._value_bytes = 0
        self._ended: JobEnded | None = None
        self._abort: Abort | None = None
        self._broken: str | None = None
        self._pid: int | None = None
        self._kill_wanted = False
        self._exit_status: int | None = None
        self._exited_at = 0.0
        self._connected = True
        self._listening = True
        self._ready = False
        self._oom_kills = oom_kills()
        self._timers: list[asyncio.TimerHandle] = []
        self._pipes = OutputPipes(
            masker, show=observer.output, catch_up=self._receive, guarded=self._guarded
        )
        self._outside = self._pipes.add(outside_fd, PREPARE_STEP)
        sock.setblocking(False)
        self._loop.add_reader(sock, self._messages_readable)
        self._outbox.send(execute)

    @property
    def completed(self) -> bool:
        """Whether the runner itself said how its job ended."""
        return self._ended is not None and self._broken is None

    def interrupted(self) -> Interrupted | None:
        """What a fresh runner needs to run the hooks of a job whose runner died in a step.

        None when it did not, or was killed on request. Hooks that had begun do not run twice.
        """
        steps = [index for index in self._died_in if not _is_hook(index)]
        forced = self._abort is not None and self._abort.force
        again = self._execute.interrupted is not None or self._execute.purpose != "job"
        if not steps or forced or again:
            return None
        return Interrupted(
            reason=self.result.result().error_message or "",
            cancelled=self._abort is not None,
            steps={index: status for index, status in self._statuses.items() if not _is_hook(index)},
            running=steps,
            outputs=self._values,
            next_hook=max((index + 1 for index in self._seen if _is_hook(index)), default=HOOK_STEPS),
        )

    # ── what the owner says ─────────────────────────────────────────────────────────────────────

    def spawned(self, pid: int) -> None:
        self._pid = pid
        if self._kill_wanted:
            self._kill()

    def exited(self, status: int) -> None:
        """The runner and all its descendants are gone; `status` as `Exited` has it."""
        self._exit_status = status
        self._pid = None
        self._exited_at = self._loop.time()
        self._guarded(self._receive)

    def lost(self, reason: str) -> None:
        """Nobody can tell any more how the runner exits; it is dead or dying."""
        if self._exit_status is None:
            self._guarded(self._receive)
            if self._ended is None and self._broken is None:
                self._broken = reason
            self.exited(-signal.SIGKILL)

    def abort(self, reason: str, force: bool) -> None:
        """Graceful: the runner has its grace period to end the step. Forced: a second for everything."""
        if self._abort is not None and (self._abort.force or not force):
            return
        self._abort = Abort(reason=reason, force=force)
        if self._connected:
            self._outbox.send(self._abort)
        wait_s = _FORCE_WITHIN_S if force else self._execute.max_grace_period_ms / 1_000 + _STOP_SLACK_S
        self._timers.append(
            self._loop.call_later(wait_s, self._abort_overdue, force, frozenset(self._running))
        )

    def pause(self) -> None:
        """Read no output until `resume`; whoever writes blocks once its pipe is full."""
        self._pipes.pause()

    def resume(self) -> None:
        self._pipes.resume()
        self._guarded(lambda: None)

    def _abort_overdue(self, force: bool, was_running: frozenset[int]) -> None:
        """A runner that still runs what it ran at the abort does not listen: it is killed."""
        if force or not self._seen or was_running & self._running.keys():
            self._kill()

    def _kill(self) -> None:
        self._kill_wanted = True
        if self._pid is not None:
            os.kill(self._pid, signal.SIGKILL)

    # ── messages ────────────────────────────────────────────────────────────────────────────────

    def _messages_readable(self) -> None:
        self._guarded(self._receive)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Do it, then everything that became possible; a broken rule ends the runner."""
        try:
            action()
            self._advance()
        except (WireError, msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
            self._break(f"the runner broke its protocol: {error}")
            self._advance()

    def _break(self, reason: str) -> None:
        if self._broken is None:
            self._broken = reason
        for _message, fd in self._queue:
            if fd >= 0:
                os.close(fd)
        self._queue.clear()
        self._disconnect()
        self._kill()

    def _receive(self) -> None:
        """Take in what has arrived. Masks act from here on, all else waits for its turn."""
        while self._connected:
            if len(self._queue) >= _MOST_QUEUED:
                self._loop.remove_reader(self._sock)
                self._listening = False
                return
            try:
                if not self._inbox.receive(self._sock):
                    self._disconnect()
                    return
            except BlockingIOError:
                return
            except ConnectionResetError:
                self._disconnect()
                return
            while (raw := self._inbox.next_message()) is not None:
                message = decode_from_runner(raw)
                if isinstance(message, AddMask):
                    self._masker.add(message.value)
                elif isinstance(message, Request):
                    self._desk.take(message, self._reply)
                elif isinstance(message, StepStarted) and message.attempt == 1:
                    self._queue.append((message, self._inbox.next_fd()))
                else:
                    self._queue.append((message, -1))

    def _reply(self, reply: Reply) -> None:
        if self._connected:
            self._outbox.send(reply)

    def _disconnect(self) -> None:
        if self._connected:
            self._connected = False
            self._loop.remove_reader(self._sock)
            self._outbox.close()
            self._inbox.close()
            self._sock.close()

    def _advance(self) -> None:
        """Handle messages in order; the end of a step waits for the end of its output."""
        while self._queue:
            message, fd = self._queue[0]
            if isinstance(message, StepEnded) and not self._all_shown(message):
                return
            self._queue.popleft()
            self._handle(message, fd)
        if self._connected and not self._listening:
            self._listening = True
            self._loop.add_reader(self._sock, self._messages_readable)
        if self._exit_status is not None and not self.result.done():
            self._receive()
            if self._queue:
                self._advance()
            elif self._all_read():
                self._finish()

    def _handle(self, message: FromRunner, fd: int) -> None:
        match message:
            case Ready():
                self._is_ready(message)
            case StepStarted():
                self._step_started(message, fd)
            case StepEnded():
                self._step_ended(message)
            case JobEnded():
                if self._ended is not None or message.status not in JOB_TERMINAL or self._running:
                    raise WireError("job.end out of place")
                if too_deep(msgspec.to_builtins(message)):
                    raise WireError("job.end is nested too deeply")
                self._ended = message
            case AddMask() | Request():
                raise AssertionError("acted on when they arrive, never queued")

    def _is_ready(self, message: Ready) -> None:
        if self._ready:
            raise WireError("ready was sent twice")
        if message.protocol_version != PROTOCOL_VERSION:
            self._break(
                f"kici {message.sdk_version} of the workflow's environment speaks runner protocol "
                f"{message.protocol_version}, this host {PROTOCOL_VERSION}: update the older one"
            )
            return
        self._ready = True
        if self._execute.interrupted is None:
            self._observer.ready(message)

    def _step_started(self, message: StepStarted, fd: int) -> None:
        index = message.step_index
        if message.attempt != 1:
            row = self._running.get(index)
            if row is None or message.attempt != row.started.attempt + 1:
                raise WireError(f"attempt {message.attempt} of step {index} is out of order")
            row.started = message
        else:
            if index in self._seen or not _is_step_index(index) or not self._ready or self._ended:
                os.close(fd)
                raise WireError(f"step {index} cannot start now")
            if not self._seen and not self._pipes.paused:
                self._pipes.drain(
                    self._outside
                )  # what was printed while the workflow was loaded comes first
            self._seen.add(index)
            self._running[index] = _Row(message, self._pipes.add(own_description(fd), index))
        self._observer.step_started(scrubbing.shortened(message))

    def _step_ended(self, message: StepEnded) -> None:
        index = message.step_index
        if self._running.pop(index, None) is None:
            if index in self._seen or not _is_step_index(index):
                raise WireError(f"step {index} ended without a start")
            self._seen.add(index)
        if message.status not in STEP_TERMINAL:
            raise WireError(f"step {index} cannot end as {message.status}")
        self._statuses[index] = message.status
        if message.has_output:
            if too_deep(message.output):
                raise WireError(f"the output of step {index} is nested too deeply")
            self._value_bytes += len(msgspec.json.encode(message.output))
            if self._value_bytes > LIMIT_BYTES:
                raise WireError(f"the outputs are larger than {LIMIT_BYTES} bytes")
            message = structs.replace(message, output=self._masker.mask_json(message.output))
            self._values[message.step_name] = message.output
        self._observer.step_ended(scrubbing.step_ended(message, self._masker))

    def _all_shown(self, message: StepEnded) -> bool:
        """Whether the output of the step is complete, or has had its time."""
        row = self._running.get(message.step_index)
        if row is None or row.pipe.at_end:
            return True
        if self._pipes.paused:
            return False
        if self._pipes.drain(row.pipe):
            return True
        if row.ended_at is None:
            row.ended_at = self._loop.time()
            self._timers.append(self._loop.call_later(_LEFT_OPEN_S, self._guarded, lambda: None))
            return False
        if self._loop.time() < row.ended_at + _LEFT_OPEN_S * 0.9:
            return False
        self._pipes.flush(row.pipe)
        row.pipe.index = PREPARE_STEP
        return True

    # ── the end ─────────────────────────────────────────────────────────────────────────────────

    def _all_read(self) -> bool:
        """After the exit: everything at its end, or held open by something beyond our reach for too long."""
        if self._pipes.paused:
            return False
        complete = self._pipes.drain_all()
        if self._loop.time() > self._exited_at + _GONE_WITHIN_S:
            self._pipes.close_all()
            self._disconnect()
            return True
        if complete and not self._connected:
            return True
        self._timers.append(self._loop.call_later(_LEFT_OPEN_S, self._guarded, lambda: None))
        return False

    def _finish(self) -> None:
        for timer in self._timers:
            timer.cancel()
        ended = self._ended if self._broken is None else None
        if ended is None:
            ended = self._lost()
            self._end_running(ended)
        ended = scrubbing.job_ended(ended, self._masker)
        self.result.set_result(JobResult(outputs=self._values, **structs.asdict(ended)))

    def _lost(self) -> JobEnded:
        """The runner did not say how its job ended."""
        if self._abort is not None and self._broken is None:
            return JobEnded(status=JobStatus.CANCELLED, error_message=self._abort.reason)
        if self._broken is not None:
            return JobEnded(status=JobStatus.FAILED, error_message=self._broken)
        status = self._exit_status or 0
        if status == -signal.SIGKILL and (want := self._oom_kills.since()) is not None:
            how = f"was killed by the kernel: {want}"
        elif status < 0:
            how = f"was killed by signal {-status} ({_signal_name(-status)})"
        else:
            how = f"exited with code {status} in the middle of the job"
        tail = self._pipes.tail.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        return JobEnded(
            status=JobStatus.FAILED,
            error_message="\n".join([f"the runner {how}", *(f"  {line}" for line in tail)]),
        )

    def _end_running(self, ended: JobEnded) -> None:
        """Say for every started row that it ended, since the runner cannot any more."""
        cancelled = ended.status == JobStatus.CANCELLED
        if self._broken is None:
            self._died_in = sorted(self._running)
        for index, row in sorted(self._running.items()):
            now_ms = time.time_ns() // 1_000_000
            self._statuses[index] = StepStatus.CANCELLED if cancelled else StepStatus.FAILED
            left = StepEnded(
                step_index=index,
                step_name=row.started.step_name,
                step_type=row.started.step_type,
                status=self._statuses[index],
                timestamp_ms=now_ms,
                duration_ms=max(0, now_ms - row.started.timestamp_ms),
                error_message=ended.error_message,
            )
            self._observer.step_ended(scrubbing.step_ended(left, self._masker))
        self._running.clear()


def _is_hook(index: int) -> bool:
    return HOOK_STEPS <= index < CACHE_STEPS


def _is_step_index(index: int) -> bool:
    return any(first <= index < first + _MOST_STEPS for first in (0, INIT_STEPS, HOOK_STEPS, CACHE_STEPS))


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"
