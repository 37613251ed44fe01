"""Exit codes (AU-136) and how an error looks: what, why, what next, on stderr, no traceback."""

import errno
import os
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import TextIO

import typer

from kici.spec.errors import KiciError

FAILED = 1
USAGE = 2
DRIFT = 3
NOT_SIGNED_IN = 4
UNREACHABLE = 5
INTERRUPTED = 130

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_EXIT_BY_CODE = {
    "not_signed_in": NOT_SIGNED_IN,
    "unreachable": UNREACHABLE,
    "invalid_input": USAGE,
    "invalid_inputs": USAGE,
}


@contextmanager
def errors_as_exit_codes() -> Generator[None]:
    """Wrap a command's body. `KICI_DEBUG=true` lets tracebacks through."""
    _open_missing_streams()
    try:
        yield
        sys.stdout.flush()  # what cannot be written is to be told here, not by the interpreter at its end
    except KiciError as error:
        if _debugging():
            raise
        print(f"error: {error}", file=sys.stderr)
        code = (
            getattr(error, "reason", "") or error.code
        )  # what the server said, if it was one that refused
        raise SystemExit(_EXIT_BY_CODE.get(code, FAILED)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
    except SystemExit:
        _let_go_of(sys.stdout)
        raise
    except BrokenPipeError:
        # Whoever reads our output has read enough: nothing more can be said, not even at exit.
        _let_go_of(sys.stdout)
        _let_go_of(sys.stderr)
        raise SystemExit(FAILED) from None
    except Exception as error:
        if _debugging() or isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "show"):
            _let_go_of(sys.stdout)
            raise  # the parser's own, which it prints itself
        _let_go_of(sys.stdout)
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
        raise SystemExit(FAILED) from None


def _open_missing_streams() -> None:
    """Started with a closed standard stream (`>&-`): what goes there is to vanish, and no file that is opened
    later may take its number."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:
            handle = os.open(os.devnull, os.O_RDWR)
            if handle != number:
                os.dup2(handle, number)
                os.close(handle)
            os.set_inheritable(number, True)
        setattr(sys, name, open(os.devnull, "w" if number else "r"))  # noqa: SIM115 - as long as the process


def _let_go_of(stream: TextIO) -> None:
    """Forget what it still holds and cannot write."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _debugging() -> bool:
    return os.environ.get("KICI_DEBUG", "").lower() == "true"


def _unforeseen(error: Exception) -> str:
    what = " ".join(str(error).split())
    if isinstance(error, OSError) and error.errno in _NO_ROOM and error.filename is None:
        return f"cannot write: {error.strerror}"
    if isinstance(error, OSError):
        return f"{what}\n  `KICI_DEBUG=true` shows where that happened"
    return (
        f"this is a mistake in kici, not in what you wrote: {type(error).__name__}: {what}\n"
        "  run the command again with `KICI_DEBUG=true` and report what it prints"
    )
