"""Exit codes (AU-136) and how an error looks: what, why, what next, on stderr, no traceback."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

import typer

from kici.spec.errors import KiciError

FAILED = 1
USAGE = 2
DRIFT = 3
NOT_SIGNED_IN = 4
UNREACHABLE = 5
INTERRUPTED = 130

_EXIT_BY_CODE = {
    "not_signed_in": NOT_SIGNED_IN,
    "unreachable": UNREACHABLE,
    "invalid_input": USAGE,
    "invalid_inputs": USAGE,
}


@contextmanager
def errors_as_exit_codes() -> Generator[None]:
    """Wrap a command's body. `KICI_DEBUG=true` lets tracebacks through."""
    try:
        yield
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
    except BrokenPipeError:
        # Whoever reads our output has read enough: nothing more can be said, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(FAILED) from None
    except Exception as error:
        if _debugging() or isinstance(error, typer.Exit | typer.Abort) or hasattr(error, "show"):
            raise  # the parser's own, which it prints itself
        print(f"error: {_unforeseen(error)}", file=sys.stderr)
        raise SystemExit(FAILED) from None


def _debugging() -> bool:
    return os.environ.get("KICI_DEBUG", "").lower() == "true"


def _unforeseen(error: Exception) -> str:
    what = " ".join(str(error).split())
    if isinstance(error, OSError):
        return f"{what}\n  `KICI_DEBUG=true` shows where that happened"
    return (
        f"this is a mistake in kici, not in what you wrote: {type(error).__name__}: {what}\n"
        "  run the command again with `KICI_DEBUG=true` and report what it prints"
    )
