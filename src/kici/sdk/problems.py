"""Mistakes of authors. The compiler collects all of them; without a collector the first one raises.

Constructors call `report` and go on with a harmless default, so that one import shows every mistake
of a file (AU-90).
"""

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from typing import Literal

from msgspec import Struct

from kici.sdk.errors import DefinitionError
from kici.sdk.source import SourceLocation, caller


class Problem(Struct, frozen=True, kw_only=True):
    """`code` as listed by `kici explain`; `message` says what, `help` what to do about it. A note is never
    fatal, a warning with `--strict` only."""

    code: str
    message: str
    help: str = ""
    source: SourceLocation | None = None
    severity: Literal["error", "warning", "note"] = "error"

    def text(self) -> str:
        where = f"{self.source.file}:{self.source.line}:{self.source.column}: " if self.source else ""
        remedy = f"\n  help: {self.help}" if self.help else ""
        return f"{where}{self.severity}[{self.code}]: {self.message}{remedy}"


_collector: list[Problem] | None = None


@contextmanager
def collect() -> Generator[list[Problem]]:
    """Problems reported inside the block land in the list instead of being raised."""
    global _collector
    before = _collector
    found: list[Problem] = []
    _collector = found
    try:
        yield found
    finally:
        _collector = before


def report(
    code: str,
    message: str,
    help: str = "",
    *,
    source: SourceLocation | None = None,
    severity: Literal["error", "warning", "note"] = "error",
) -> None:
    """Collect the problem, or raise it as DefinitionError when nobody collects."""
    problem = Problem(code=code, message=message, help=help, source=source or caller(), severity=severity)
    if _collector is None:
        if severity != "error":
            return
        raise DefinitionError(problem)
    _collector.append(problem)


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The closest known word, for "did you mean"."""
    from difflib import get_close_matches  # only on the error path

    found = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return found[0] if found else None
