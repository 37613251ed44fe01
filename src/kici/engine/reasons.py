"""Reasons for people. Some begin with a code that programs look for, here as on the server."""

import re

_UNMET = re.compile(r"upstream_unmet: (.+) \((\w+)\)")
_FAIL_FAST = re.compile(r"fail_fast: another (.+) failed")
_OUT_OF_TIME = re.compile(r"workflow_timeout: the run took longer than (.+)")


def as_sentence(reason: str) -> str:
    """The sentence that a reason stands for."""
    if (found := _UNMET.fullmatch(reason)) is not None:
        return f"needs {found[1]}, which ended as {found[2].replace('_', ' ')}"
    if (found := _FAIL_FAST.fullmatch(reason)) is not None:
        return f"another {found[1]} failed, and fail_fast ends the others"
    if (found := _OUT_OF_TIME.fullmatch(reason)) is not None:
        return f"the workflow timed out after {found[1]}"
    return reason
