"""One subprocess: started, streamed to the step's log and captured, and ended with its whole tree.

Bytes move in chunks of up to 1 MiB; nothing here looks at lines.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

from kici.runner import linux, processes
from kici.sdk.context import Completed
from kici.sdk.errors import CommandError

CAPTURE_BYTES = 16 << 20
_READ_BYTES = 1 << 20
_TAIL_BYTES = 64 << 10
_TAIL_LINES = 20
_LEFT_OPEN_S = 0.2  # how long output is awaited after the end when a background process holds the pipe
_KILL_WITHIN_S = 5.0
_SHOWN_CHARACTERS = 200


class LogSink:
    """The step's log pipe for writers on the event loop: never blocks, keeps chunks whole and in order."""

    def __init__(self, loop: asyncio.AbstractEventLoop, writer_fd: int) -> None:
        self._loop = loop
        self._fd = linux.reopen_nonblocking(writer_fd)
        self._waiting: deque[tuple[memoryview, Callable[[], None]]] = deque()

    def write(self, data: bytes, on_written: Callable[[], None]) -> bool:
        """True when all is in the pipe. False: `on_written` will be called; write nothing until then."""
        rest = memoryview(data)
        if self._fd < 0:
            return True  # a command that outlived its step has no log any more
        if not self._waiting:
            rest = self._push(rest)
            if not rest:
                return True
            self._loop.add_writer(self._fd, self._writable)
        self._waiting.append((rest, on_written))
        return False

    def _push(self, data: memoryview) -> memoryview:
        try:
            return data[os.write(self._fd, data) :]
        except BlockingIOError:
            return data
        except BrokenPipeError:
            return data[:0]  # the host stopped reading: it is ending this job

    def _writable(self) -> None:
        while self._waiting:
            data, on_written = self._waiting.popleft()
            rest = self._push(data)
            if rest:
                self._waiting.appendleft((rest, on_written))
                return
            on_written()
        self._loop.remove_writer(self._fd)

    def close(self) -> None:
        self._loop.remove_writer(self._fd)
        self._waiting.clear()
        os.close(self._fd)
        self._fd = -1


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
        os.set_blocking(fd, False)
        loop.add_reader(fd, self._readable)

    def detach(self, outside: LogSink) -> _Capture:
        """What was captured. Whatever still comes goes to `outside` and is not captured."""
        assert self._capture is not None
        capture, self._capture = self._capture, None
        self._sink = outside
        return capture

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            if not self.ended.done():
                self.ended.set_result(None)
            return
        if self._capture is not None:
            self._capture.add(data)
        if self._sink is not None and not self._sink.write(data, self._resume):
            self._loop.remove_reader(self._fd)

    def _resume(self) -> None:
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
        outside: LogSink,
        grace_s: float,
    ) -> None:
        """`shown` names it in errors; `outside` gets what background processes print after its end."""
        self._argv = argv
        self._shown = shown if len(shown) <= _SHOWN_CHARACTERS else shown[:_SHOWN_CHARACTERS] + " …"
        self._cwd = cwd
        self._env = env
        self._input = input
        self._sink = sink
        self._outside = outside
        self._grace_s = grace_s

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
            await asyncio.wait([out.ended, err.ended], timeout=_LEFT_OPEN_S)
            captured_out, captured_err = out.detach(self._outside), err.detach(self._outside)
        code = process.poll()
        if not done:
            raise TimeoutError(f"{self._shown} did not end within {timeout_s:g} s")
        assert code is not None
        if check and code != 0:
            raise CommandError(self._shown, code, captured_err.last_lines())
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
        except BaseException:
            os.close(stdout_fd)
            os.close(stderr_fd)
            raise
        finally:
            os.close(child_stdout)
            os.close(child_stderr)
            if stdin != subprocess.DEVNULL:
                os.close(stdin)
        return process, stdout_fd, stderr_fd

    async def _stop(self, pid: int, ended: "asyncio.Future[None]") -> None:
        """SIGTERM to the tree, SIGKILL after the grace period or when cancelled again."""
        _signal_tree(pid, signal.SIGTERM)
        try:
            await asyncio.wait([ended], timeout=self._grace_s)
        finally:
            _signal_tree(pid, signal.SIGKILL)
            await asyncio.wait([ended], timeout=_KILL_WITHIN_S)


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
