"""What a delivery says in our own words, and where the commit for it is found (OR-45, OR-46)."""

from typing import Any, cast

from msgspec import Struct

from kici.spec.events import Event

HEADS = "refs/heads/"
TAGS = "refs/tags/"


class Happening(Struct, frozen=True, kw_only=True):
    """`ref`: what it is about, empty for the repository as a whole. `event`: without the changed files that git
    could tell, which are asked for only when needed. `also`: other words for the same happening, of which a
    workflow takes at most one.

    `sha` None: the head of the default branch, for what belongs to no commit; or, with `note`, nothing at
    all, and why. `before` and `since_fork` are what changed files are worked out from.
    """

    event: Event
    ref: str = ""
    branch: str | None = None
    sha: str | None = None
    before: str | None = None
    since_fork: bool = False
    note: str | None = None
    also: tuple[Event, ...] = ()


def child(parent: object, *keys: str) -> dict[str, Any]:
    """The object below these keys, or an empty one."""
    value = parent
    for key in keys:
        value = cast("dict[str, object]", value).get(key) if isinstance(value, dict) else None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def word(parent: object, key: str) -> str | None:
    value = cast("dict[str, object]", parent).get(key) if isinstance(parent, dict) else None
    return value if isinstance(value, str) and value else None
