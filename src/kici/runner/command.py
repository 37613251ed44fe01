"""One subprocess: started, streamed to the step's log and captured, and ended with its whole tree.

Bytes move in chunks of up to 1 MiB; nothing here looks at lines.
"""

import asyncio
import errno
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from kici.runner import linux, processes
from kici.sdk.context import Completed
from kici.sdk.errors import CommandError, LimitExceededError
from kici.spec.durations import in_words

CAPTURE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10
_TAIL_LINES = 20
_LINE_OPEN_S = 0.1
_LEFT_OPEN_S = 0.2  # how long output is awaited after the end when a background process holds the pipe
_KILL_WITHIN_S = 5.0
_SHOWN_CHARACTERS = 200


class LogSink:
    """The step's log pipe for writers on the event loop: never blocks, keeps chunks whole and in order.

    A writer in the middle of a line is not interrupted by another for `_LINE_OPEN_S`, so that stdout and
    stderr of a command mix by lines.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, writer_fd: int) -> None:
        self._loop = loop
        self._fd = linux.reopen_nonblocking(writer_fd)
        self._current: tuple[_Pump, memoryview, bool] | None = None  # partly written
        self._waiting: deque[tuple[_Pump, bytes]] = deque()
        self._in_line: _Pump | None = None
        self._line_timer: asyncio.TimerHandle | None = None

    def write(self, pump: "_Pump", data: bytes) -> bool:
        """True when all is in the pipe. False: write nothing until `pump.resume` is called."""
        if self._fd < 0:
            return True  # a command that outlived its step has no log any more
        if self._current is None and self._in_line in {None, pump}:
            return self._write_now(pump, data)
        self._waiting.append((pump, data))
        if self._in_line is not None and self._line_timer is None:
            self._line_timer = self._loop.call_later(_LINE_OPEN_S, self._line_overdue)
        return False

    def leave(self, pump: "_Pump") -> None:
        """The pump writes no more; its last line need not be waited for."""
        if self._in_line is pump:
            self._in_line = None
            self._next()

    def _write_now(self, pump: "_Pump", data: bytes) -> bool:
        rest = self._push(memoryview(data))
        ends_line = data.endswith(b"\n")
        if rest:
            self._current = (pump, rest, ends_line)
            self._loop.add_writer(self._fd, self._writable)
            return False
        self._in_line = None if ends_line else pump
        return True

    def _push(self, data: memoryview) -> memoryview:
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return data[:0]  # the host stopped reading: it is ending this job

    def _writable(self) -> None:
        assert self._current is not None
        pump, data, ends_line = self._current
        rest = self._push(data)
        if rest:
            self._current = (pump, rest, ends_line)
            return
        self._loop.remove_writer(self._fd)
        self._current = None
        self._in_line = None if ends_line else pump
        pump.resume()
        self._next()

    def _line_overdue(self) -> None:
        self._line_timer = None
        self._in_line = None
        self._next()

    def _next(self) -> None:
        """Write what waits, as far as the line and the pipe allow."""
        while self._waiting and self._current is None and self._in_line in {None, self._waiting[0][0]}:
            pump, data = self._waiting.popleft()
            if self._write_now(pump, data):
                pump.resume()
        if self._waiting and self._in_line is not None and self._line_timer is None:
            self._line_timer = self._loop.call_later(_LINE_OPEN_S, self._line_overdue)

    def close(self) -> None:
        self._loop.remove_writer(self._fd)
        if self._line_timer is not None:
            self._line_timer.cancel()
        os.close(self._fd)
        self._fd = -1
        for pump in [self._current[0]] if self._current else []:
            pump.resume()
        while self._waiting:
            self._waiting.popleft()[0].resume()


class _Capture:
    """What one stream said: its first 16 MiB and its last 64 KiB."""

    def __init__(self) -> None:
        self._head: list[bytes] = []
        self._room = CAPTURE_BYTES
        self._tail = b""
        self.truncated = False

    def add(self, data: bytes) -> None:
        if len(data) <= self._room:
            self._head.append(data)
            self._room -= len(data)
            return
        self.truncated = True
        self._head.append(data[: self._room])
        self._tail = (self._tail + data[self._room :])[-_TAIL_BYTES:]
        self._room = 0

    def text(self) -> str:
        return b"".join(self._head).decode("utf-8", "replace")

    def last_lines(self) -> list[str]:
        end = self._tail if self.truncated else b"".join(self._head)[-_TAIL_BYTES:]
        return end.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]


class _Pump:
    """Moves one stream of a process to a capture and a log."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, sink: LogSink | None) -> None:
        self.ended: asyncio.Future[None] = loop.create_future()
        self._capture: _Capture | None = _Capture()
        self._loop = loop
        self._fd = fd
        self._sink = sink
        self.blocked = False
        self.bytes_read = 0
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._readable)

    def detach(self, outside: Callable[[], LogSink]) -> _Capture:
        """What was captured. Whatever still comes goes to `outside` and is not captured."""
        assert self._capture is not None
        capture, self._capture = self._capture, None
        if self._sink is not None:
            self._sink.leave(self)
        if not self.ended.done():
            self._sink = outside()
        return capture

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            if self._sink is not None:
                self._sink.leave(self)
            if not self.ended.done():
                self.ended.set_result(None)
            return
        self.bytes_read += len(data)
        if self._capture is not None:
            self._capture.add(data)
        if self._sink is not None and not self._sink.write(self, data):
            self.blocked = True
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """The sink took everything."""
        self.blocked = False
        self._loop.add_reader(self._fd, self._readable)


class Command:
    """A process and its group. Make one, `await run()` it once."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        shown: str,
        cwd: str,
        env: Mapping[str, str],
        input: bytes | None,
        sink: LogSink | None,
        outside: Callable[[], LogSink],
        grace_s: float,
        told_to_end: Callable[[], bool],
    ) -> None:
        """`shown` names it in errors; `outside` gets what background processes print after its end.

        `told_to_end`: whether somebody sent SIGTERM to the whole step; a second one would mean "now".
        """
        self._argv = argv
        self._shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + " …"
        self._cwd = cwd
        self._env = env
        self._input = input
        self._sink = sink
        self._outside = outside
        self._grace_s = grace_s
        self._told_to_end = told_to_end

    async def run(self, *, check: bool, timeout_s: float | None) -> Completed:
        """Until it ended. Raises CommandError (`check`), TimeoutError, or OSError when it cannot start.

        Cancelled, it ends its processes before it lets the cancellation pass.
        """
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        process, stdout_fd, stderr_fd = self._start()
        out = _Pump(loop, stdout_fd, self._sink)
        err = _Pump(loop, stderr_fd, self._sink)
        ended: asyncio.Future[None] = loop.create_future()
        pidfd = os.pidfd_open(process.pid)
        loop.add_reader(pidfd, _end, ended)
        try:
            done, _ = await asyncio.wait([ended], timeout=timeout_s)
        finally:
            if not ended.done():
                await self._stop(process.pid, ended)
            loop.remove_reader(pidfd)
            os.close(pidfd)
            await _drained(out, err)
            captured_out, captured_err = (pump.detach(self._outside) for pump in (out, err))
        code = process.poll()
        if not done:
            raise TimeoutError(f"{self._shown} did not end within {in_words((timeout_s or 0) * 1000)}")
        assert code is not None
        if check and code != 0:
            duration = time.monotonic() - started
            raise CommandError(self._shown, code, captured_err.last_lines(), duration)
        return Completed(
            returncode=code,
            stdout=captured_out.text(),
            stderr=captured_err.text(),
            duration=time.monotonic() - started,
            truncated=captured_out.truncated or captured_err.truncated,
        )

    def _start(self) -> tuple["subprocess.Popen[bytes]", int, int]:
        stdout_fd, child_stdout = linux.output_pipe()
        stderr_fd, child_stderr = linux.output_pipe()
        stdin = subprocess.DEVNULL if self._input is None else _in_memory(self._input)
        try:
            process = subprocess.Popen(
                self._argv,
                stdin=stdin,
                stdout=child_stdout,
                stderr=child_stderr,
                cwd=self._cwd,
                env=self._env,
                process_group=0,
            )
        except BaseException as error:
            os.close(stdout_fd)
            os.close(stderr_fd)
            if isinstance(error, OSError):
                raise self._why_not(error) from None
            raise
        finally:
            os.close(child_stdout)
            os.close(child_stderr)
            if stdin != subprocess.DEVNULL:
                os.close(stdin)
        return process, stdout_fd, stderr_fd

    def _why_not(self, error: OSError) -> Exception:
        """What keeps the command from starting, in words. Authors may catch it by its type as before."""
        program = self._argv[0]
        match error.errno:
            case errno.E2BIG:
                return LimitExceededError(
                    f"the arguments and variables of {self._shown} are longer than a command line may be; "
                    "pass large values with `input=` or in a file"
                )
            case errno.ENOENT | errno.ENOTDIR if not os.path.isdir(self._cwd):
                return type(error)(error.errno, "there is no such working directory", self._cwd)
            case errno.ENOENT:
                return type(error)(error.errno, "there is no such program", program)
            case errno.EACCES | errno.ENOEXEC:
                return type(error)(error.errno, "it is no program that may be executed", program)
            case _:
                return error

    async def _stop(self, pid: int, ended: "asyncio.Future[None]") -> None:
        """SIGTERM to the tree, SIGKILL after the grace period or when cancelled again."""
        if not self._told_to_end():
            _signal_tree(pid, signal.SIGTERM)
        try:
            await asyncio.wait([ended], timeout=self._grace_s)
        finally:
            _signal_tree(pid, signal.SIGKILL)
            await asyncio.wait([ended], timeout=_KILL_WITHIN_S)


async def _drained(*pumps: _Pump) -> None:
    """After the process ended: until all it wrote is read, though a background process may hold the pipe."""
    limits = {pump: pump.bytes_read + linux.PIPE_BYTES for pump in pumps}
    while waiting := [pump for pump in pumps if not pump.ended.done()]:
        before = {pump: pump.bytes_read for pump in waiting}
        await asyncio.wait([pump.ended for pump in waiting], timeout=_LEFT_OPEN_S)
        if not any(
            pump.blocked or before[pump] < pump.bytes_read < limits[pump]
            for pump in waiting
            if not pump.ended.done()
        ):
            return


def _end(ended: "asyncio.Future[None]") -> None:
    if not ended.done():
        ended.set_result(None)


def _signal_tree(pid: int, number: signal.Signals) -> None:
    """Everything below the process, then its group, which also holds what was orphaned inside it."""
    processes.send_signal(processes.descendants_of(pid), number)
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        pass


def _in_memory(data: bytes) -> int:
    fd = os.memfd_create("kici-stdin")
    with os.fdopen(os.dup(fd), "wb") as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
