"""Where output goes: descriptors 1 and 2, `sys.stdout` and `sys.stderr`, step by step.

One step at a time owns the descriptors, so that whatever it starts writes to its log without us. While
steps run side by side nobody owns them; then `print` and new subprocesses follow the context variable
`current_scope`, and bare writes to descriptor 1 land outside the steps.

The streams are buffered in C and flushed a few times a second, before any subprocess starts and when
a step ends: a loop of prints costs no system call per line, and order in the log is the author's.
"""

import _thread
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, MutableMapping
from contextvars import ContextVar
from inspect import signature
from typing import Any, Protocol, cast

_BUFFER_BYTES = 1 << 16
_FLUSH_EVERY_S = 0.05
_STARTS_A_PROCESS = frozenset(
    {"subprocess.Popen", "os.system", "os.posix_spawn", "os.fork", "os.forkpty", "os.exec"}
)


class Scope(Protocol):
    """What the code of a step runs in, as far as output is concerned."""

    @property
    def writer_fd(self) -> int:
        """Write end of the step's pipe."""
        ...

    @property
    def env(self) -> MutableMapping[str, str]: ...
    def before_process(self) -> None:
        """Called when author code is about to start a process, by whatever means."""
        ...

    @property
    def text(self) -> "Stream | None":
        """The step's own stream while steps run side by side."""
        ...


current_scope: ContextVar[Scope | None] = ContextVar("kici_scope", default=None)


class Stream(io.TextIOWrapper):
    """A text stream that hands every write to its shared buffer at once, so that two of them keep order."""

    on_use: Callable[[], None]

    def __init__(self, buffer: io.BufferedWriter) -> None:
        super().__init__(
            cast("Any", buffer), encoding="utf-8", errors="backslashreplace", write_through=True
        )


class _UnusedStream(Stream):
    """The same object before the first output of all. `on_use` makes a plain Stream of it."""

    def write(self, s: str, /) -> int:
        self.on_use()
        return Stream.write(self, s)

    @property
    def buffer(self) -> Any:
        self.on_use()
        return self.buffer


class _ScopedStream(Stream):
    """The same object while steps run side by side: every call goes to the caller's step."""

    def write(self, s: str, /) -> int:
        scope = current_scope.get()
        if scope is None or scope.text is None:
            return super().write(s)
        return scope.text.write(s)

    def flush(self) -> None:
        scope = current_scope.get()
        if scope is None or scope.text is None:
            super().flush()
        else:
            scope.text.flush()

    @property
    def buffer(self) -> Any:
        scope = current_scope.get()
        if scope is None or scope.text is None:
            return super().buffer
        return scope.text.buffer


def _buffer(fd: int) -> io.BufferedWriter:
    """On a descriptor that somebody else closes."""
    return io.BufferedWriter(io.FileIO(fd, "w", closefd=False), _BUFFER_BYTES)


def _flush(buffer: io.BufferedWriter) -> None:
    try:
        buffer.flush()
    except (OSError, ValueError):
        pass  # nobody reads any more; the host knows


class Stdio:
    """The process's standard streams. One per runner."""

    def __init__(self) -> None:
        """Descriptors 1 and 2 must point to the log outside the steps; they will return there."""
        self.outside_fd = os.dup(1)
        self._scoped: set[io.BufferedWriter] = set()
        self._used = False
        self._buffer = _buffer(1)
        self.out: Stream = _UnusedStream(self._buffer)
        self.err: Stream = _UnusedStream(self._buffer)
        self.out.on_use = self.err.on_use = self._first_use
        sys.stdout = sys.__stdout__ = self.out
        sys.stderr = sys.__stderr__ = self.err
        sys.addaudithook(self._before_process)

    def give_to(self, writer_fd: int) -> None:
        """Descriptors 1 and 2 belong to this pipe until `take_back`."""
        _flush(self._buffer)
        os.dup2(writer_fd, 1)
        os.dup2(writer_fd, 2)

    def take_back(self) -> None:
        self.give_to(self.outside_fd)

    def follow_scopes(self) -> Callable[[], None]:
        """Send output to the scope of its caller until the returned function is called."""
        self._first_use()
        _flush(self._buffer)
        self.out.__class__ = self.err.__class__ = _ScopedStream
        plain_init: Any = subprocess.Popen.__init__
        parameters = signature(plain_init)

        def scoped_init(popen: "subprocess.Popen[Any]", *args: Any, **options: Any) -> None:
            scope = current_scope.get()
            if scope is None:
                plain_init(popen, *args, **options)
                return
            call = parameters.bind(popen, *args, **options)
            for name, ours in (
                ("stdout", scope.writer_fd),
                ("stderr", scope.writer_fd),
                ("env", scope.env),
            ):
                if call.arguments.get(name) is None:
                    call.arguments[name] = ours
            plain_init(*call.args, **call.kwargs)

        cast("Any", subprocess.Popen).__init__ = scoped_init

        def stop() -> None:
            cast("Any", subprocess.Popen).__init__ = plain_init
            self.out.__class__ = self.err.__class__ = Stream

        return stop

    def open_scoped(self, writer_fd: int) -> Stream:
        """A stream for one of several steps side by side; give it to `close_scoped` at its end."""
        buffer = _buffer(writer_fd)
        self._scoped.add(buffer)
        return Stream(buffer)

    def close_scoped(self, stream: Stream) -> None:
        """Flush it. It may still be written to by code that outlived its step, and then fails."""
        buffer = cast("io.BufferedWriter", stream.buffer)
        _flush(buffer)
        self._scoped.discard(buffer)

    def flush(self) -> None:
        for buffer in (self._buffer, *self._scoped):
            _flush(buffer)

    def _flush_forever(self) -> None:
        while True:
            time.sleep(_FLUSH_EVERY_S)
            self.flush()

    def _first_use(self) -> None:
        """From now on somebody must flush; a runner that prints nothing needs no thread for it."""
        if not self._used:
            self._used = True
            self.out.__class__ = self.err.__class__ = Stream
            _thread.start_new_thread(self._flush_forever, ())

    def _before_process(self, event: str, _arguments: tuple[object, ...]) -> None:
        if event in _STARTS_A_PROCESS:
            self.flush()
            scope = current_scope.get()
            if scope is not None:
                scope.before_process()
