"""The host's ends of a runner's output pipes: read in large pieces, masked, shown.

Nothing here looks at lines. A chatty producer does not wake the host for each of them, because after
a small piece the pipe is left alone for a moment to fill.
"""

import asyncio
import os
import stat
from collections.abc import Callable

from kici.runner.masking import MaskedStream, Masker
from kici.runner.wire import WireError

READ_BYTES = 1 << 20
_SMALL_READ_BYTES = 16 << 10
_SMALL_READ_PAUSE_S = 0.01
_DRAIN_BYTES = 4 << 20
_TAIL_BYTES = 8_192


class OutputPipe:
    """One pipe. Its owner sets `index` to -1 when the step ended but a stray process still writes."""

    def __init__(self, fd: int, index: int, masker: Masker) -> None:
        self.fd = fd
        self.index = index
        self.at_end = False
        self.stream = MaskedStream(masker)


class OutputPipes:
    """All pipes of one runner. Each is closed at its end."""

    def __init__(
        self,
        masker: Masker,
        *,
        show: Callable[[int, bytes], None],
        catch_up: Callable[[], None],
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        """`catch_up` is called between reading bytes and showing them; `guarded` runs our event handlers."""
        self.tail = b""  # the last words of whoever spoke last
        self.paused = False
        self._masker = masker
        self._show_at = show
        self._catch_up = catch_up
        self._guarded = guarded
        self._loop = asyncio.get_running_loop()
        self._open: set[OutputPipe] = set()

    def add(self, fd: int, index: int) -> OutputPipe:
        """Take over the descriptor, which must not block."""
        pipe = OutputPipe(fd, index, self._masker)
        self._open.add(pipe)
        if not self.paused:
            self._loop.add_reader(fd, self._readable, pipe)
        return pipe

    def pause(self) -> None:
        self.paused = True
        for pipe in self._open:
            self._loop.remove_reader(pipe.fd)

    def resume(self) -> None:
        self.paused = False
        for pipe in self._open:
            self._loop.add_reader(pipe.fd, self._readable, pipe)

    def drain(self, pipe: OutputPipe) -> bool:
        """Show what is in the pipe, within reason; whether that was its end."""
        budget = _DRAIN_BYTES
        while budget > 0 and (size := self._read(pipe)):
            budget -= size
        return pipe.at_end

    def drain_all(self) -> bool:
        """Whether all are at their end."""
        for pipe in list(self._open):
            self.drain(pipe)
        return not self._open

    def flush(self, pipe: OutputPipe) -> None:
        """Show what masking held back."""
        self._show(pipe, pipe.stream.finish())

    def close_all(self) -> None:
        for pipe in list(self._open):
            self._close(pipe)

    def _readable(self, pipe: OutputPipe) -> None:
        size = 0

        def read() -> None:
            nonlocal size
            size = self._read(pipe)

        self._guarded(read)
        if 0 < size < _SMALL_READ_BYTES and not self.paused and not pipe.at_end:
            self._loop.remove_reader(pipe.fd)
            self._loop.call_later(_SMALL_READ_PAUSE_S, self._listen_again, pipe)

    def _listen_again(self, pipe: OutputPipe) -> None:
        if not self.paused and not pipe.at_end:
            self._loop.add_reader(pipe.fd, self._readable, pipe)

    def _read(self, pipe: OutputPipe) -> int:
        """Read and show one piece; its size, 0 when there is nothing (more) to read now."""
        if pipe.at_end:
            return 0
        try:
            data = os.read(pipe.fd, READ_BYTES)
        except BlockingIOError:
            return 0
        self._catch_up()  # a mask sent before these bytes were written has arrived by now
        if data:
            self._show(pipe, pipe.stream.feed(data))
        else:
            self._close(pipe)
        return len(data)

    def _close(self, pipe: OutputPipe) -> None:
        self.flush(pipe)
        pipe.at_end = True
        self._open.discard(pipe)
        self._loop.remove_reader(pipe.fd)
        os.close(pipe.fd)

    def _show(self, pipe: OutputPipe, data: bytes) -> None:
        if data:
            self.tail = (self.tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        for start in range(0, len(data), READ_BYTES):
            self._show_at(pipe.index, data[start : start + READ_BYTES])


def own_description(fd: int) -> int:
    """The pipe opened anew, non-blocking: the runner holds a copy of `fd` and could change its mode."""
    try:
        if not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise WireError("a step's output must be a pipe")
        return os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(fd)
