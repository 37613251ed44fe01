"""How long a sentence about a failure may be: it goes through every tier and stands in lists. The log has it all."""

import re

MOST_CHARACTERS = 4096

_NOTE = re.compile(r"… \(([\d,]{1,20}) characters left out\)\Z")


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """The beginning of what is longer than `most`, and how much is left out; shortened twice, it tells of both."""
    earlier = _NOTE.search(text)
    kept = text if earlier is None else text[: earlier.start()]
    if len(kept) <= most:
        return text
    left_out = len(kept) - most + (0 if earlier is None else int(earlier[1].replace(",", "")))
    return f"{kept[:most]}… ({left_out:,} characters left out)"
