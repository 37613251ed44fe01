"""One short-lived helper program (git, uv): started, watched, and gone when `run` returns.

posix_spawn and a pid descriptor instead of asyncio's subprocess: a warm job has one git call on its
critical path, and this halves what it costs beyond git's own time.
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import ClassVar

from msgspec import Struct

from kici.spec.errors import KiciError

_KEEP = 64 << 10
_CHUNK = 64 << 10


class ProgramFailed(KiciError):
    """A helper program ended badly; `output` is what it said last."""

    code: ClassVar[str] = "program_failed"

    def __init__(self, message: str, output: str = "") -> None:
        super().__init__(message)
        self.output = output


class Finished(Struct, frozen=True):
    status: int  # exit code, or minus the signal
    output: bytes  # last 64 KiB of stdout and stderr

    @property
    def text(self) -> str:
        return self.output.decode(errors="replace").strip()


async def run(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    timeout_s: float,
    on_output: Callable[[bytes], None] | None = None,
    stdin: str = os.devnull,
) -> Finished:
    """Run `argv` in a session of its own, `stdin` a file's path. `argv[0]` must be an absolute path.

    A time-out raises ProgramFailed; that, and cancellation, kill the program and its process group before
    control returns. Output of grandchildren that outlive it is not waited for.
    """
    loop = asyncio.get_running_loop()
    read_end, write_end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.set_blocking(write_end, True)
        pid = os.posix_spawn(  # noqa: ASYNC221 - takes about a millisecond, and is the point
            argv[0],
            list(argv),
            env,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, stdin, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, write_end, 1),
                (os.POSIX_SPAWN_DUP2, write_end, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        os.close(read_end)
        raise ProgramFailed(f"cannot start {argv[0]}: {error.strerror}") from error
    finally:
        os.close(write_end)

    said = bytearray()

    def drain() -> None:
        while True:
            try:
                data = os.read(read_end, _CHUNK)
            except BlockingIOError:
                return
            if not data:
                loop.remove_reader(read_end)
                return
            said.extend(data)
            if len(said) > 2 * _KEEP:
                del said[:-_KEEP]
            if on_output is not None:
                on_output(data)

    loop.add_reader(read_end, drain)
    status: int | None = None
    try:
        async with asyncio.timeout(timeout_s):
            await _exited(pid)
        status = _reap(pid)
    except TimeoutError:
        raise ProgramFailed(
            f"{os.path.basename(argv[0])} did not finish within {timeout_s:.0f} s",
            bytes(said[-_KEEP:]).decode(errors="replace").strip(),
        ) from None
    finally:
        if status is None:
            os.killpg(pid, signal.SIGKILL)
            _reap(pid)
        drain()
        loop.remove_reader(read_end)
        os.close(read_end)
    assert status is not None
    return Finished(status, bytes(said[-_KEEP:]))


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


async def _exited(pid: int) -> None:
    """Returns when `pid` can be reaped."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()
    descriptor = os.pidfd_open(pid)

    def mark() -> None:
        if not gone.done():
            gone.set_result(None)

    loop.add_reader(descriptor, mark)
    try:
        await gone
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)
