"""Durations as people write them."""

_UNITS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000))


def in_words(milliseconds: float) -> str:
    """`250ms`, `0.5s`, `4s`, `5m`, `1h 30m`: exact, with as few units as that takes."""
    rest = round(milliseconds)
    if rest < 500:
        return f"{rest}ms"
    words: list[str] = []
    for unit, size in _UNITS:
        count, rest = divmod(rest, size)
        if count:
            words.append(f"{count}{unit}")
    if rest:
        words.append(f"{rest / 1000:g}s")
    return " ".join(words)
