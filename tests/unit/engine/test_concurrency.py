"""Who of a concurrency group may run (OR-180, OR-181, AU-59)."""

from hypothesis import given
from hypothesis import strategies as st

from kici.engine.concurrency import Place, settle, superseded, waiting_reason


def places(spec: str, *, limit: int = 1, cancel: bool = False) -> list[Place]:
    """`H` holds, `w` waits, in order; named by their place."""
    return [
        Place(holder=str(at), holds=word == "H", limit=limit, cancel_in_progress=cancel)
        for at, word in enumerate(spec)
    ]


def test_first_come_first_served() -> None:
    """OR-181."""
    found = settle(places("Hww"))
    assert (found.admit, found.supersede, found.drop) == ([], [], [])
    assert found.waiting == {"1": 1, "2": 2}
    assert settle(places("ww")).admit == ["0"]
    assert settle(places("Hww", limit=2)).admit == ["1"]


def test_a_newcomer_cancels_the_oldest_and_waits_for_their_end() -> None:
    """OR-181: no overlap; older ones that wait are dropped."""
    found = settle(places("Hww", cancel=True))
    assert (found.supersede, found.drop, found.admit) == (["0"], ["1"], [])
    assert found.waiting == {"2": 1}
    assert settle(places("w", cancel=True)).admit == ["0"]
    two = settle(places("HHw", limit=2, cancel=True))
    assert (two.supersede, two.waiting) == (["0"], {"2": 2})


def test_who_does_not_cancel_waits_behind_who_does() -> None:
    """OR-181."""
    rude = Place(holder="0", holds=False, cancel_in_progress=True)
    found = settle([rude, Place(holder="1", holds=False)])
    assert (found.admit, found.drop, found.waiting) == (["0"], [], {"1": 1})


def test_words_for_people() -> None:
    """AU-59."""
    assert superseded("g") == "Superseded by run in concurrency group 'g'"
    assert waiting_reason("g", 1) == "Waiting for g (1 ahead)"


_PLACES = st.lists(
    st.builds(
        Place,
        holder=st.uuids().map(str),
        holds=st.booleans(),
        limit=st.integers(1, 3),
        cancel_in_progress=st.booleans(),
    ),
    unique_by=lambda place: place.holder,
    max_size=8,
)


@given(_PLACES)
def test_nobody_is_forgotten_and_no_slot_given_twice(there: list[Place]) -> None:
    """OR-181."""
    found = settle(there)
    by_name = {place.holder: place for place in there}
    fates = [*found.admit, *found.supersede, *found.drop, *found.waiting]
    assert len(fates) == len(set(fates))
    stays = {place.holder for place in there if place.holds} - set(found.supersede)
    assert {*fates} | stays == set(by_name)
    assert all(by_name[name].holds for name in found.supersede)
    assert not any(by_name[name].holds for name in [*found.admit, *found.drop, *found.waiting])
    held = sum(place.holds for place in there)
    for name in found.admit:
        held += 1
        assert held <= by_name[name].limit


@given(_PLACES)
def test_settling_twice_gives_nothing_new(there: list[Place]) -> None:
    """What the first round did is all there was to do until somebody ends or comes."""
    first = settle(there)
    gone = set(first.drop)
    after = [
        Place(
            holder=place.holder,
            holds=place.holds or place.holder in first.admit,
            limit=place.limit,
            cancel_in_progress=place.cancel_in_progress,
        )
        for place in there
        if place.holder not in gone
    ]
    second = settle(after)
    assert second.admit == []
    assert second.drop == []
    assert set(second.supersede) == set(first.supersede)


@given(_PLACES)
def test_a_free_group_always_moves(there: list[Place]) -> None:
    waiting = [place for place in there if not place.holds]
    if waiting:
        assert settle(waiting).admit
