"""Reasons for people. Some begin with a code that programs look for, here as on the server."""

import re

_UNMET = re.compile(r"upstream_unmet: (.+) \((\w+)\)")
_FAIL_FAST = re.compile(r"fail_fast: another (.+) failed")
_OUT_OF_TIME = re.compile(r"workflow_timeout: the run took longer than ([\d.e+]+) (ms|s)")


def in_words(reason: str | None) -> str | None:
    """The sentence that a reason stands for."""
    text = reason or ""
    if (found := _UNMET.fullmatch(text)) is not None:
        return f"needs {found[1]}, which ended as {found[2].replace('_', ' ')}"
    if (found := _FAIL_FAST.fullmatch(text)) is not None:
        return f"another {found[1]} failed, and fail_fast ends the others"
    if (found := _OUT_OF_TIME.fullmatch(text)) is not None:
        return f"the workflow timed out after {_human(float(found[1]) * (1000 if found[2] == 's' else 1))}"
    return reason


def _human(milliseconds: float) -> str:
    """As time limits of steps are told: `500 ms`, `1.5 m`."""
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1_000)):
        if milliseconds >= size:
            return f"{milliseconds / size:g} {unit}"
    return f"{milliseconds:g} ms"
