"""A warm interpreter that forks runners: imports are paid once, a job costs one fork.

Single-threaded by rule, because a fork copies only the calling thread. It loads no author code; its
memory holds nothing that a job may not see.
"""

import gc
import importlib
import os
import platform
import select
import signal
import socket
from types import FrameType
from typing import NoReturn

from kici.protocol.runner_v1 import (
    PROTOCOL_VERSION,
    Exited,
    Spawn,
    Spawned,
    Warm,
    decode_spawn,
)
from kici.runner import child, linux, processes
from kici.runner.wire import Inbox, send

_SWEEP_WITHIN_S = 5.0
_WARM_MODULES = (
    "dataclasses",
    "datetime",
    "glob",
    "gzip",
    "hashlib",
    "json",
    "logging",
    "pathlib",
    "shutil",
    "tarfile",
    "tempfile",
    "typing",
    "kici.runner.generated",
    "kici.runner.setup",
    "kici.runner.workflowhooks",
)


class _GuardianDiedError(BaseException):
    """Raised out of whatever the zygote is doing when it is alone."""


def main(control_fd: int) -> NoReturn:
    """Serve `Spawn` requests until the host or the guardian goes away, then leave no child behind."""
    code = 0
    try:
        linux.set_process_name("kici-zygote")
        linux.adopt_orphans()
        signal.signal(signal.SIGTERM, _guardian_died)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _preload()
        _Zygote(socket.socket(fileno=control_fd)).serve()
    except (_GuardianDiedError, ConnectionError):
        pass
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    processes.kill_children(within_s=_SWEEP_WITHIN_S)
    os._exit(code)


def _guardian_died(_number: int, _frame: FrameType | None) -> NoReturn:
    raise _GuardianDiedError


def _preload() -> None:
    """Everything a job needs before author code, so that it is shared and need not be imported again."""
    import kici.sdk

    for name in _WARM_MODULES:
        importlib.import_module(name)
    for name in kici.sdk.__all__:
        getattr(kici.sdk, name)
    child.sdk_version()
    _define_something()
    gc.collect()
    gc.freeze()  # a collection in a runner must not touch, and so copy, these pages


def _define_something() -> None:
    """Constructors called once: the caches behind their checks are then filled before the fork."""
    from kici.sdk import Context, job, push, step, workflow

    @step(timeout="1m")
    async def warm(ctx: Context) -> None:
        del ctx

    workflow("warm", on=push(branches="main"), jobs=[job("warm", runs_on="warm", steps=[warm])])


class _Zygote:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._inbox = Inbox()
        self._runners: dict[int, tuple[int, int]] = {}  # pidfd → (pid, spawn id)
        self._poller = select.poll()

    def serve(self) -> None:
        self._poller.register(self._control, select.POLLIN)
        send(
            self._control,
            Warm(
                protocol_version=PROTOCOL_VERSION,
                sdk_version=child.sdk_version(),
                python_version=platform.python_version(),
                pid=os.getpid(),
            ),
        )
        while True:
            for fd, _events in self._poller.poll():
                if fd != self._control.fileno():
                    self._bury(fd)
                elif not self._inbox.receive(self._control):
                    return
                else:
                    while (message := self._inbox.next_message()) is not None:
                        self._spawn(decode_spawn(message))

    def _spawn(self, request: Spawn) -> None:
        protocol_fd, output_fd = self._inbox.next_fd(), self._inbox.next_fd()
        zygote = os.getpid()
        pid = os.fork()
        if pid == 0:
            for fd in (self._control.fileno(), *self._runners):
                os.close(fd)
            child.main(request, protocol_fd=protocol_fd, output_fd=output_fd, zygote_pid=zygote)
        os.close(protocol_fd)
        os.close(output_fd)
        pidfd = os.pidfd_open(pid)
        self._runners[pidfd] = (pid, request.spawn_id)
        self._poller.register(pidfd, select.POLLIN)
        send(self._control, Spawned(spawn_id=request.spawn_id, pid=pid))

    def _bury(self, pidfd: int) -> None:
        """Reap a runner and whatever it left behind; only then is it reported as gone."""
        pid, spawn_id = self._runners.pop(pidfd)
        self._poller.unregister(pidfd)
        os.close(pidfd)
        _pid, status = os.waitpid(pid, 0)
        alive = {pid for pid, _spawn_id in self._runners.values()}
        processes.kill_children(without=alive, within_s=_SWEEP_WITHIN_S)
        send(
            self._control,
            Exited(spawn_id=spawn_id, pid=pid, status=os.waitstatus_to_exitcode(status)),
        )
