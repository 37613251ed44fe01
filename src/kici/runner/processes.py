"""Who descends from whom, and making an end of all of them.

A subreaper (`linux.adopt_orphans`) inherits every orphan below it, so nothing that a runner starts can
leave its tree: killing children until none is left ends the whole tree, whatever it forked into.
"""

import os
import signal
import time
from collections.abc import Collection, Iterable


def children_of(pid: int) -> list[int]:
    """Direct children, zombies included; empty when the process is gone."""
    found: list[int] = []
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file:
                found += [int(word) for word in file.read().split()]
        except FileNotFoundError:
            if thread == str(pid) and os.path.exists(f"/proc/{pid}"):
                return _children_by_scan(pid)  # a kernel without CONFIG_PROC_CHILDREN
        except OSError:
            continue
    return found


def have_children() -> bool:
    """Whether this process has any child, zombies included. One system call, where /proc costs a walk."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return False
    return True


def own_children() -> list[int]:
    return children_of(os.getpid()) if have_children() else []


def _children_by_scan(parent: int) -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and parent_of(int(name)) == parent]


def _stat(pid: int) -> list[str]:
    """Fields of /proc/<pid>/stat from the third on; empty when the process is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
            return file.read().decode("ascii", "replace").rpartition(")")[2].split()
    except OSError:
        return []


def parent_of(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def start_ticks(pid: int) -> int | None:
    """Start time since boot: with the pid it names one process for good."""
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def is_running(pid: int) -> bool:
    """Whether the process exists and is more than a zombie."""
    fields = _stat(pid)
    return bool(fields) and fields[0] not in {"Z", "X"}


def descendants_of(pid: int, *, without: Collection[int] = ()) -> list[int]:
    """Everything below `pid`, parents first. What is in `without` is left out with all below it."""
    found: list[int] = []
    level = [pid] if pid != os.getpid() or have_children() else []
    while level:
        level = [child for parent in level for child in children_of(parent) if child not in without]
        found += level
    return found


def has_in_environment(pid: int, assignment: bytes) -> bool:
    """Whether the process was started with `NAME=value`, which its children inherit."""
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as file:
            return assignment in file.read().split(b"\0")
    except OSError:
        return False


def send_signal(pids: Iterable[int], number: signal.Signals) -> None:
    """To each; the ones that are gone are passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def reap(pids: Iterable[int]) -> None:
    """Take the exit codes of those that ended."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            continue


def kill_children(*, without: Collection[int] = (), within_s: float) -> bool:
    """SIGKILL and reap children until none but `without` is left; orphans arrive here and go the same way.

    False when some outlive the time, which only a process stuck in the kernel does. The caller must be
    a subreaper and single-threaded, or have no other use for its children's exit codes.
    """
    give_up_at = time.monotonic() + within_s
    pause_s = 0.0002
    while True:
        doomed = [pid for pid in own_children() if pid not in without]
        if not doomed:
            return True
        send_signal(doomed, signal.SIGKILL)
        reap(doomed)
        if time.monotonic() >= give_up_at:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, 0.02)
