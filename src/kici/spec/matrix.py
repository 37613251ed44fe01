"""What dimensions of a matrix may be called, and what may stand in them: their texts name jobs (AU-10, AU-40)."""

import re

MAX_NAME_LENGTH = 100  # of a job, with what stands in its brackets
_DIMENSION = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def value_text(value: str | float | bool) -> str:
    """As it stands in the job's name."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def wrong_dimension(name: object) -> str | None:
    """Why no dimension can be called that."""
    if isinstance(name, str) and len(name) <= MAX_NAME_LENGTH and _DIMENSION.fullmatch(name):
        return None
    return "is no word: letters, digits and _ . - are allowed, a letter or _ first"


def wrong_value(value: str | float | bool) -> str | None:
    """Why the value cannot stand in the name of a job, or cannot travel."""
    if isinstance(value, int) and not -(1 << 63) <= value < 1 << 64:
        return "has more than 64 bits"
    text = value_text(value)
    if not text:
        return "is empty"
    if len(text) > MAX_NAME_LENGTH:
        return f"has {len(text)} characters; {MAX_NAME_LENGTH} are allowed"
    if not text.isprintable() or text != text.strip():
        return "has control characters or blanks around it"
    return None
