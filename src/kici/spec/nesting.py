"""How deep documents of strangers may be nested.

JSON decoders and encoders give up at Python's recursion limit, which counts the frames below them, too: what one
process could still read the next one could not send on. So each way in refuses far below that limit.
"""

from typing import Any, cast

MAX_NESTING = 200  # lists and mappings inside each other; the deepest expression tree fits


def too_deep(value: object, limit: int = MAX_NESTING) -> bool:
    """Whether lists, tuples and mappings in `value` are nested deeper than `limit`. Takes no recursion itself."""
    level: list[Any] = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list | tuple)
            for inner in (
                cast("dict[Any, Any]", outer).values()
                if isinstance(outer, dict)
                else cast("list[Any]", outer)
            )
            if isinstance(inner, dict | list | tuple)
        ]
        if not level:
            return False
    return True
