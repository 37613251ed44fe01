"""What commands print: one JSON document, or a table that a person reads."""

import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from kici.spec.errors import InvalidInput

if TYPE_CHECKING:
    from rich.console import Console

_AGE = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def emit(value: object) -> None:
    """One document on stdout (AU-135)."""
    print(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def console() -> "Console":
    """Piped: one whole row a line, whatever is squeezed on a screen."""
    from rich.console import Console

    made = Console(highlight=False)
    return made if made.is_terminal else Console(highlight=False, width=400)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, squeezed: Iterable[str] = ()) -> None:
    """Markup is understood. `squeezed` columns give way on a narrow screen."""
    from rich.table import Table

    shown = Table(box=None, pad_edge=False, header_style="dim")
    narrow = set(squeezed)
    for column in columns:
        shown.add_column(column, no_wrap=True, overflow="ellipsis" if column in narrow else "ignore")
    for row in rows:
        shown.add_row(*row)
    console().print(shown)


def fail(message: str, code: int) -> SystemExit:
    """`raise fail(...)`: an error line on stderr and the exit code."""
    print(f"error: {message}", file=sys.stderr)
    return SystemExit(code)


def moment(text: str, now: datetime) -> datetime:
    """`2h`, `7d` before `now`, or an ISO date or time. Raises InvalidInput."""
    age = _AGE.fullmatch(text.strip())
    if age is not None:
        return now - timedelta(**{_UNITS[age[2]]: int(age[1])})
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidInput(
            f"{text!r} is no time: write 2h, 7d, 2026-11-20 or 2026-11-20T08:00+00:00"
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
