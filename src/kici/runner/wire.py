"""Length-prefixed messages and file descriptors on a UNIX stream socket, in both directions.

The kernel hands descriptors out with the first byte of the send that carried them and never glues
two such sends together, so descriptors arrive in the order of the messages that announce them.
"""

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Sequence

from msgspec import Struct

from kici.protocol.runner_v1 import LENGTH, MAX_MESSAGE, encode
from kici.spec.errors import KiciError

_MAX_FDS_AT_ONCE = 16
_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_FDS_AT_ONCE * array.array("i").itemsize)


class WireError(KiciError):
    """The peer broke the framing; the connection is of no more use."""

    code = "runner_wire_error"


class Inbox:
    """Bytes and descriptors received so far, handed out message by message."""

    def __init__(self, *, max_pending_fds: int = 64) -> None:
        self._buffer = bytearray()
        self._fds: deque[int] = deque()
        self._max_pending_fds = max_pending_fds

    def receive(self, sock: socket.socket, max_bytes: int = 1 << 18) -> bool:
        """One recvmsg; False at end of file. BlockingIOError passes through on a non-blocking socket."""
        data, ancillary, _flags, _address = sock.recvmsg(
            max_bytes, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, raw in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds = array.array("i")
                fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
                self._fds.extend(fds)
        if len(self._fds) > self._max_pending_fds:
            raise WireError(f"{len(self._fds)} descriptors were sent that no message announced")
        self._buffer += data
        return bool(data)

    def next_message(self) -> bytes | None:
        """The next complete message, or None until more has arrived."""
        if len(self._buffer) < LENGTH.size:
            return None
        (length,) = LENGTH.unpack_from(self._buffer)
        if length > MAX_MESSAGE:
            raise WireError(f"a message of {length} bytes was announced; the limit is {MAX_MESSAGE}")
        end = LENGTH.size + length
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[LENGTH.size : end])
        del self._buffer[:end]
        return message

    def next_fd(self) -> int:
        """The descriptor that belongs to the message just taken; the caller owns it from now on."""
        if not self._fds:
            raise WireError("a message came without the descriptor it must carry")
        return self._fds.popleft()

    def close(self) -> None:
        """Close descriptors that nobody asked for."""
        while self._fds:
            os.close(self._fds.popleft())


def send(sock: socket.socket, message: Struct, fds: Sequence[int] = ()) -> None:
    """Send the whole message on a blocking socket."""
    data = encode(message)
    sent = socket.send_fds(sock, [data], fds) if fds else 0
    if sent < len(data):
        sock.sendall(memoryview(data)[sent:])


class Outbox:
    """Messages for a peer on a non-blocking socket, written as fast as it takes them."""

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        self._loop = loop
        self._sock = sock
        self._waiting: deque[tuple[memoryview, Sequence[int]]] = deque()
        self._closed = False

    def send(self, message: Struct, fds: Sequence[int] = ()) -> None:
        """Never blocks. Descriptors are duplicated and closed once they are sent."""
        self._waiting.append((memoryview(encode(message)), [os.dup(fd) for fd in fds]))
        if len(self._waiting) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._waiting:
                data, fds = self._waiting[0]
                sent = socket.send_fds(self._sock, [data], fds) if fds else self._sock.send(data)
                _close_all(fds)
                if sent == len(data):
                    self._waiting.popleft()
                else:
                    self._waiting[0] = (data[sent:], ())
        except BlockingIOError:
            self._loop.add_writer(self._sock, self._flush)
            return
        except OSError:
            self.close()  # the peer is gone; its reader notices
            return
        self._loop.remove_writer(self._sock)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_writer(self._sock)
        while self._waiting:
            _close_all(self._waiting.popleft()[1])


def _close_all(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
