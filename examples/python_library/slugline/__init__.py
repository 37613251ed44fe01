"""Readable names for URLs."""

import unicodedata

__version__ = "2.1.0"


def slug(title: str) -> str:
    """Lower case words of ASCII letters and digits, joined by hyphens."""
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    words = "".join(letter if letter.isalnum() else " " for letter in plain.lower()).split()
    return "-".join(words)
