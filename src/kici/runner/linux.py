"""Linux calls that the standard library lacks: prctl, and pipes of a chosen size."""

import ctypes
import fcntl
import os
import signal

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36

PIPE_BYTES = 1 << 20  # a producer may run this far ahead of its reader

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, argument: object) -> None:
    if _libc.prctl(option, argument, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def die_with_parent(parent_pid: int, number: signal.Signals) -> None:
    """Get `number` when the parent dies; exits at once when it is dead already."""
    _prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(number))
    if os.getppid() != parent_pid:
        os._exit(1)


def adopt_orphans() -> None:
    """Descendants whose parent died become children of this process instead of init's."""
    _prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1))


def set_process_name(name: str) -> None:
    """What `ps -o comm` shows, at most 15 bytes."""
    _prctl(_PR_SET_NAME, ctypes.c_char_p(name.encode()[:15]))


def output_pipe() -> tuple[int, int]:
    """(read end, write end), both close-on-exec, as large as the system lets us have it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    except PermissionError:
        pass  # the user's total (pipe-user-pages-soft) is spent; the default size works, only slower
    return reader, writer


def reopen_nonblocking(writer: int) -> int:
    """A second description of the same pipe end, so that O_NONBLOCK does not reach its other users."""
    return os.open(f"/proc/self/fd/{writer}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
