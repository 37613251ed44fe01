"""Who of a concurrency group may run now (OR-180, OR-181, AU-59). Pure."""

from collections.abc import Sequence

from msgspec import Struct, field

WAITING = "Waiting for %s (%s ahead)"  # also PostgreSQL's format() understands it


class Place(Struct, frozen=True, kw_only=True):
    """One run (or job) in its group. `limit` and `cancel_in_progress` are those it was asked with."""

    holder: str
    holds: bool  # has a slot; else waits
    limit: int = 1
    cancel_in_progress: bool = False


class Settlement(Struct, kw_only=True):
    """`waiting`: who still waits, with how many are ahead of it."""

    admit: list[str] = field(default_factory=list[str])
    supersede: list[str] = field(default_factory=list[str])  # hold a slot, and are to stop
    drop: list[str] = field(default_factory=list[str])  # wait, and never begin
    waiting: dict[str, int] = field(default_factory=dict[str, int])


def settle(places: Sequence[Place]) -> Settlement:
    """`places` in order of arrival. A newcomer that cancels leaves room for the newest `limit` of all up to
    itself; it begins once a superseded holder has ended, never beside it. All others go in order."""
    found = Settlement()
    kept = list(places)
    for index in range(len(places) - 1, -1, -1):
        newcomer = places[index]
        if newcomer.cancel_in_progress:
            old = places[: max(0, index + 1 - newcomer.limit)]
            kept = list(places[len(old) :])
            found.supersede = [place.holder for place in old if place.holds]
            found.drop = [place.holder for place in old if not place.holds]
            break
    held = sum(place.holds for place in places)  # until they have ended, superseded ones count
    ahead = len(found.supersede)
    blocked = False
    for place in kept:
        if not place.holds:
            if not blocked and held < place.limit:
                found.admit.append(place.holder)
                held += 1
            else:
                blocked = True
                found.waiting[place.holder] = ahead
        ahead += 1
    return found


def superseded(group: str) -> str:
    return f"Superseded by run in concurrency group '{group}'"


def waiting_reason(group: str, ahead: int) -> str:
    return WAITING % (group, ahead)
