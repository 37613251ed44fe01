"""Exit codes (AU-136) and how an error looks: what, why, what next, on stderr, no traceback."""

import os
import sys
from collections.abc import Generator
from contextlib import contextmanager

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
        if os.environ.get("KICI_DEBUG", "").lower() == "true":
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(_EXIT_BY_CODE.get(error.code, FAILED)) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None
