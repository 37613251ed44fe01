"""Fixtures name an event; a function may make it (AU-121)."""

from typing import Any

import pytest

from kici import DefinitionError, Fixture, PushEvent, Trigger, fixture, push
from kici.cli.events import ALIASES, WORDS, is_word
from kici.sdk import problems
from kici.sdk.fixtures import EVENT_WORDS, resolve


async def test_a_fixture_is_a_value() -> None:
    """AU-121"""
    found = fixture(
        "push-main",
        event=push(branches="main"),
        branch="b",
        sha="s",
        repo="r",
        pr=3,
        secrets={"a": "b"},
        workflow="w",
        inputs={"x": 1},
        payload={"y": 2},
    )

    assert isinstance(found.event, Trigger)
    assert (found.id, found.branch, found.sha, found.repo, found.pr, found.workflow) == (
        "push-main",
        "b",
        "s",
        "r",
        3,
        "w",
    )
    assert (found.secrets, found.inputs, found.payload) == ({"a": "b"}, {"x": 1}, {"y": 2})
    assert await resolve(found) is found
    assert found.source.file == __file__


async def test_functions_are_called_when_the_fixture_is_used() -> None:
    """AU-121: sync or async."""
    called: list[str] = []

    @fixture("event", workflow="w")
    async def by_event() -> PushEvent:
        called.append("event")
        return PushEvent(target_branch="main")

    @fixture("mapping", branch="a", secrets={"x": "y"})
    def by_mapping() -> dict[str, Any]:
        return {"event": push(), "branch": "b"}

    assert called == []
    resolved = await resolve(by_event)
    assert (resolved.event, resolved.workflow, called) == (PushEvent(target_branch="main"), "w", ["event"])
    resolved = await resolve(by_mapping)
    assert isinstance(resolved.event, Trigger)
    assert (resolved.id, resolved.branch, resolved.secrets) == ("mapping", "b", {"x": "y"})


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (OSError("no network"), "raised OSError: no network"),
        (5, "returned int without an event"),
        ({"branch": "x"}, "without an event"),
        ({"event": push(), "brnch": "x"}, "unknown key 'brnch'"),
    ],
)
async def test_a_function_that_fails(made: Any, message: str) -> None:
    """AU-121: E502"""

    def fails() -> Any:
        if isinstance(made, Exception):
            raise made
        return made

    with pytest.raises(DefinitionError, match=message) as wrong:
        await resolve(fixture("f")(fails))
    assert wrong.value.problem.code == "E502"


@pytest.mark.parametrize(
    ("id", "options", "code"),
    [
        ("", {"event": push()}, "E501"),
        ("a b", {"event": push()}, "E501"),
        ("push", {"event": push()}, "E501"),
        ("pr:sync", {"event": push()}, "E501"),
        ("a", {"event": "push"}, "E119"),
        ("a", {"event": push(), "brnch": "x"}, "E119"),
        ("a", {"event": push(), "pr": "3"}, "E119"),
        ("a", {"event": push(), "secrets": ["x"]}, "E119"),
    ],
)
def test_bad_fixtures(id: str, options: dict[str, Any], code: str) -> None:
    """AU-121: E501, E119"""
    make: Any = fixture
    with problems.collect() as found:
        assert isinstance(make(id, **options), Fixture)

    assert {problem.code for problem in found} == {code}


def test_ids_that_cannot_be_are_reported_once_each() -> None:
    """AU-121: what stands in for such an id is nobody else's."""
    with problems.collect() as found:
        made = [fixture("", event=push()), fixture("", event=push())]
    assert made[0].id != made[1].id
    assert [problem.code for problem in found] == ["E501", "E501"]


def test_a_function_that_makes_the_event_stands_under_none() -> None:
    """AU-121: a mistake of the author's, with its remedy, not a TypeError."""
    make: Any = fixture
    with problems.collect() as found:

        @make("both", event=push())
        def both() -> PushEvent:
            return PushEvent(target_branch="main")

    assert isinstance(both, Fixture)
    (problem,) = found
    assert (problem.code, problem.source and problem.source.file) == ("E119", __file__)
    assert "fixture 'both': `event` is given" in problem.message
    assert "leave `event` out over a function" in (problem.help or "")


def test_the_words_that_no_fixture_may_have() -> None:
    """AU-121: exactly those that name an event on the command line."""
    assert all(map(is_word, EVENT_WORDS))
    assert {*WORDS, *ALIASES} == EVENT_WORDS
