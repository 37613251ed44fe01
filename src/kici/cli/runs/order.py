"""Rows of a job as they ran. Indexes put steps in the author's order, and inits, hooks and caches after all of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from kici.spec.ids import INIT_STEPS

Row = Mapping[str, Any]


def in_order(rows: Sequence[Row]) -> list[Row]:
    """What is no step goes behind the last step that began before it did."""
    steps = sorted((row for row in rows if row["stepIndex"] < INIT_STEPS), key=lambda row: row["stepIndex"])
    others = sorted(
        (row for row in rows if row["stepIndex"] >= INIT_STEPS),
        key=lambda row: (row["startedAt"] is None, row["startedAt"] or "", row["stepIndex"]),
    )
    behind: dict[int, list[Row]] = {}
    for other in others:
        place = -1
        for at, step in enumerate(steps):
            if step["startedAt"] and (other["startedAt"] is None or step["startedAt"] < other["startedAt"]):
                place = at
        behind.setdefault(place, []).append(other)
    found = behind.get(-1, [])
    for at, step in enumerate(steps):
        found += [step, *behind.get(at, [])]
    return found
