"""Started by the runner's host in place of an interpreter: brings its control socket into a container.

    python -I -m kici.cli.local.container_relay JSON CONTROL LIFELINE

JSON: `argv` of the engine, its `env`, and the path of the `socket` that the container's side connects to,
twice: for control, then for its lifeline. Control messages and the descriptors with them are handed on as they
come; jobs have sockets of their own, which go through here once. The end of any side ends all of them.
"""

import json
import os
import select
import socket
import subprocess
import sys

_MOST_FDS = 16
_START_WITHIN_S = 60.0
_END_WITHIN_S = 20.0


def main() -> int:
    wanted = json.loads(sys.argv[1])
    control = socket.socket(fileno=int(sys.argv[2]))
    control.setblocking(True)
    lifeline = int(sys.argv[3])
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(wanted["socket"])
        listener.listen(2)
        engine = subprocess.Popen(
            wanted["argv"], env=wanted["env"], stdin=subprocess.DEVNULL, close_fds=True
        )
        try:
            inside = _accepted(listener, engine, lifeline)
            if inside is None:
                return engine.wait(_END_WITHIN_S) or 1
            below = _accepted(listener, engine, lifeline)
            _hand_on(control, inside, lifeline)
            inside.close()
            if below is not None:
                below.close()  # whoever lives in the container dies
            return engine.wait(_END_WITHIN_S)
        finally:
            if engine.poll() is None:
                engine.kill()
                engine.wait()


def _accepted(
    listener: socket.socket, engine: "subprocess.Popen[bytes]", lifeline: int
) -> socket.socket | None:
    """None when the engine ends before, or the host does."""
    ended = os.pidfd_open(engine.pid)
    try:
        ready, _, _ = select.select([listener, ended, lifeline], [], [], _START_WITHIN_S)
        return listener.accept()[0] if listener in ready else None
    finally:
        os.close(ended)


def _hand_on(control: socket.socket, inside: socket.socket, lifeline: int) -> None:
    while True:
        ready, _, _ = select.select([control, inside, lifeline], [], [])
        if lifeline in ready:
            return
        for source, target in ((control, inside), (inside, control)):
            if source in ready and not _move(source, target):
                return


def _move(source: socket.socket, target: socket.socket) -> bool:
    """One portion with its descriptors; False at the end of either."""
    try:
        data, fds, _flags, _address = socket.recv_fds(source, 1 << 18, _MOST_FDS)
        if not data:
            return False
        sent = socket.send_fds(target, [data], fds) if fds else 0
        for fd in fds:
            os.close(fd)
        target.sendall(data[sent:])
    except OSError:
        return False
    return True


if __name__ == "__main__":
    sys.exit(main())
