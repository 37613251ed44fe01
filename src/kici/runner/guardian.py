"""The process above the zygote. It does nothing but outlive it by a moment and leave nobody behind.

    host ── guardian ── zygote ── runner ── whatever author code starts

Each of them kills what is below it when the one above goes away, and each is a subreaper, so the
`kill -9` of any single process ends everything under it: the guardian sees the end of the host's
lifeline or of the zygote, the zygote the end of its control socket or of the guardian, the kernel
ends a runner with its zygote, and its orphans fall to the next one up.
"""

import os
import select
import signal
from typing import NoReturn

from kici.runner import linux, processes

_KILL_WITHIN_S = 30.0


def main(control_fd: int, lifeline_fd: int) -> NoReturn:
    """Fork the zygote on `control_fd`; stay until it or the peer of `lifeline_fd` ends."""
    linux.adopt_orphans()
    guardian = os.getpid()
    zygote = os.fork()
    if zygote == 0:
        os.close(lifeline_fd)
        linux.die_with_parent(guardian, signal.SIGTERM)
        from kici.runner import zygote as below  # the guardian stays small

        below.main(control_fd)
    os.close(control_fd)
    linux.set_process_name("kici-guardian")
    poller = select.poll()
    poller.register(lifeline_fd, select.POLLIN)
    poller.register(os.pidfd_open(zygote), select.POLLIN)
    poller.poll()
    processes.kill_children(within_s=_KILL_WITHIN_S)
    os._exit(0)
