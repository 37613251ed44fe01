"""The runner's end of the socket to its host, and the one thread that watches it.

Author code may block the event loop for as long as it likes. So messages are read by a thread, which
hands them to the loop and, when the loop does not answer, breaks into the blocking call.
"""

import _thread
import asyncio
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType

from msgspec import Struct

from kici.protocol.runner_v1 import Abort, Execute, Reply, decode_to_runner
from kici.runner.stdio import current_scope
from kici.runner.wire import Inbox, send

# Ignored unless handled, and not inherited across exec: it disturbs nobody when it comes late.
_INTERRUPT = signal.SIGURG
_TICK_MS = 500
_LOOP_ANSWERS_WITHIN_S = 0.5


class HostLink:
    """Sends are blocking and whole; any thread may send."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._inbox = Inbox()
        self._lock = threading.Lock()
        self._poller = select.poll()
        self._poller.register(sock, select.POLLIN)

    def send(self, message: Struct, fds: Sequence[int] = ()) -> None:
        """On return the host has the message or can read it: nothing written later arrives before."""
        try:
            with self._lock:
                send(self._sock, message, fds)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)  # nobody is left to work for

    def receive(self, within_ms: int | None = None) -> Execute | Abort | Reply | None:
        """The next message; None when there is none in time. Raises EOFError at the end of the connection."""
        while (message := self._inbox.next_message()) is None:
            if not self._poller.poll(within_ms):
                return None
            try:
                connected = self._inbox.receive(self._sock)
            except ConnectionResetError:
                connected = False
            if not connected:
                raise EOFError
        return decode_to_runner(message)


class Watch:
    """Listens to the host on its own thread and keeps author code interruptible.

    `deadline` (monotonic seconds, or None) is when the running activity should have been stopped by the loop.
    """

    def __init__(
        self,
        link: HostLink,
        loop: asyncio.AbstractEventLoop,
        *,
        on_abort: Callable[[Abort], None],
        on_reply: Callable[[Reply], None],
        kill_processes: Callable[[signal.Signals], None],
    ) -> None:
        self.deadline: float | None = None
        self._link = link
        self._loop = loop
        self._on_abort = on_abort
        self._on_reply = on_reply
        self._kill_processes = kill_processes
        self._main_thread = threading.get_ident()
        self._interrupting = False

    def start(self) -> None:
        """Call on the main thread."""
        signal.signal(_INTERRUPT, self._interrupted)
        _thread.start_new_thread(self._run, ())  # unlike Thread.start, does not wait until it runs

    def _run(self) -> None:
        while True:
            try:
                message = self._link.receive(_TICK_MS)
            except EOFError:
                os._exit(1)  # the host is gone; the zygote ends what we started
            if isinstance(message, Abort):
                self._loop.call_soon_threadsafe(self._on_abort, message)
                self._unblock()
            elif isinstance(message, Reply):
                self._loop.call_soon_threadsafe(self._on_reply, message)
            elif message is None and self.deadline is not None and time.monotonic() > self.deadline:
                self._unblock()

    def _unblock(self) -> None:
        """If the loop does not run, break what blocks it, harder each time."""
        number = signal.SIGTERM
        while not self._loop_answers():
            self._kill_processes(number)
            self._interrupting = True
            signal.pthread_kill(self._main_thread, _INTERRUPT)
            number = signal.SIGKILL
        self._interrupting = False

    def _loop_answers(self) -> bool:
        answered = threading.Event()
        self._loop.call_soon_threadsafe(answered.set)
        return answered.wait(_LOOP_ANSWERS_WITHIN_S)

    def _interrupted(self, _number: int, _frame: FrameType | None) -> None:
        # On the main thread. The loop's own code has no scope and must not be interrupted.
        if self._interrupting and current_scope.get() is not None:
            self._interrupting = False
            raise asyncio.CancelledError
