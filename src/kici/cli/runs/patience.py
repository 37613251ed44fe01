"""A server may be away for a while: said once, waited for, given up in the end."""

import time
from collections.abc import Callable

from kici.cli.client import Unreachable

AWAY_S = 300.0


class Patience:
    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._since: float | None = None

    def lost(self, error: Unreachable) -> None:
        """Raises it when the server has been away for too long."""
        if self._since is None:
            self._since = time.monotonic()
            self._say(f"The connection is lost, waiting for it: {error}")
        elif time.monotonic() - self._since > AWAY_S:
            raise error

    def found(self) -> None:
        if self._since is not None:
            self._say("Connected again")
        self._since = None
