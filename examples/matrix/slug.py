"""Titles as they stand in addresses."""

import re
import unicodedata


def slug(title: str, *, separator: str = "-") -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return separator.join(re.findall(r"[a-z0-9]+", plain.lower()))
