"""The table that `make bench` prints, and its JSON."""

import json
import statistics
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Row:
    path: str
    budget: str
    measured: str
    held: bool | None  # None: there is no budget
    samples: dict[str, Any] = field(default_factory=dict[str, Any])


class Rows(list[Row]):
    """Says each row as soon as it is known: a bench that breaks half-way has still told something."""

    def append(self, row: Row, /) -> None:
        print(f"  {row.path}: {row.measured}", file=sys.stderr, flush=True)
        super().append(row)

    def extend(self, rows: Iterable[Row], /) -> None:
        for row in rows:
            self.append(row)


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def spread(values: list[float], unit: str, digits: int = 1) -> str:
    """Median with the range behind it."""
    return (
        f"{statistics.median(values):.{digits}f} {unit}"
        f" ({min(values):.{digits}f}–{max(values):.{digits}f}, n={len(values)})"
    )


def print_table(rows: list[Row]) -> None:
    widths = [max(len(getattr(row, name)) for row in rows) for name in ("path", "budget", "measured")]
    head = ("path", "budget", "measured")
    widths = [max(width, len(word)) for width, word in zip(widths, head, strict=True)]
    print("  ".join(word.ljust(width) for word, width in zip(head, widths, strict=True)))
    print("  ".join("─" * width for width in widths))
    for row in rows:
        mark = {True: "✓", False: "✗ missed", None: ""}[row.held]
        cells = (row.path, row.budget, row.measured)
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)), mark)


def write_json(rows: list[Row], path: Path, machine: dict[str, Any]) -> None:
    document = {
        "machine": machine,
        "rows": [
            {
                "path": row.path,
                "budget": row.budget,
                "measured": row.measured,
                "held": row.held,
                "samples": row.samples,
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
