"""Typed inputs: what the lock file says of a class, and objects made of what came through (AU-83)."""

from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, Optional, cast

import pytest

from kici import Inputs, Meta, dispatch, schedule
from kici.sdk import problems
from kici.sdk.inputs import decode, fields_of
from kici.spec import triggers
from kici.spec.errors import InvalidInput
from kici.spec.triggers import InputField


class Mode(Enum):
    FULL = "full"
    EDGE = "edge"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Deploy(Inputs):
    target: str | None = None
    mode: Literal["full", "edge-only"] = "full"
    kind: Mode = Mode.EDGE
    level: Level = Level.LOW
    retries: Annotated[int, Meta(ge=0, le=10)] = 3
    share: Annotated[float, Meta(ge=0.5)] = 1
    note: Annotated[str | None, Meta(min_length=1, max_length=9, pattern="^x", description="why")] = None
    dry: bool
    other: Optional[int]  # noqa: UP045


def test_fields_of_every_type() -> None:
    """AU-83: str int float bool, Literal, Enum, `| None`, defaults and Meta."""
    assert fields_of(Deploy) == [
        InputField(name="target", type="string"),
        InputField(name="mode", type="string", default="full", choices=["full", "edge-only"]),
        InputField(name="kind", type="string", default="edge", choices=["full", "edge"]),
        InputField(name="level", type="integer", default=1, choices=[1, 2]),
        InputField(name="retries", type="integer", default=3, ge=0, le=10),
        InputField(name="share", type="number", default=1, ge=0.5),
        InputField(name="note", type="string", min_length=1, max_length=9, pattern="^x", description="why"),
        InputField(name="dry", type="boolean", required=True),
        InputField(name="other", type="integer"),
    ]


def test_decoding_makes_an_object_of_resolved_values() -> None:
    """AU-83: an optional input may be absent, unknown keys are left out."""
    made = decode(Deploy, {"dry": "true", "kind": "full", "level": "2", "unknown": 1})

    assert made == Deploy(dry=True, kind=Mode.FULL, level=Level.HIGH, other=None)
    assert (made.mode, made.retries, made.level) == ("full", 3, Level.HIGH)


@pytest.mark.parametrize(
    ("values", "named"),
    [({}, "dry"), ({"dry": True, "retries": "x"}, "retries"), ({"dry": True, "mode": "half"}, "mode")],
)
def test_bad_values_name_the_key(values: dict[str, Any], named: str) -> None:
    """AU-83"""
    with pytest.raises(InvalidInput, match=f"Deploy: .*{named}"):
        decode(Deploy, values)


class Listed(Inputs):
    names: list[str] = []


class Either(Inputs):
    name: str | int = 1


class Mixed(Inputs):
    name: Literal["a", 1] = "a"


class WrongDefault(Inputs):
    count: int = "x"  # type: ignore[assignment]


class NoneDefault(Inputs):
    count: int = None  # type: ignore[assignment]


class NoChoice(Inputs):
    mode: Literal["a", "b"] = "c"  # type: ignore[assignment]


class LimitOnText(Inputs):
    text: Annotated[str, Meta(ge=1)] = ""


class LengthOfNumber(Inputs):
    number: Annotated[int, Meta(min_length=1)] = 1


class Unresolved(Inputs):
    what: "Nowhere"  # type: ignore[name-defined]  # noqa: F821


@pytest.mark.parametrize(
    "inputs",
    [Listed, Either, Mixed, WrongDefault, NoneDefault, NoChoice, LimitOnText, LengthOfNumber, Unresolved],
)
def test_what_is_no_input(inputs: type[Inputs]) -> None:
    """AU-83: E403, at the class."""
    with problems.collect() as found:
        assert fields_of(inputs) == []

    assert [problem.code for problem in found] == ["E403"]
    assert found[0].source is not None
    assert found[0].source.file == __file__
    assert found[0].source == cast("Any", inputs).__kici_source__
    assert found[0].source.line > 1


def test_triggers_carry_the_fields() -> None:
    """AU-83"""
    by_hand, at_night = (
        dispatch(inputs=Deploy).locked[0],
        schedule(cron="0 4 * * *", inputs=Deploy).locked[0],
    )

    assert isinstance(by_hand, triggers.DispatchTrigger)
    assert isinstance(at_night, triggers.ScheduleTrigger)
    assert by_hand.inputs == at_night.inputs == fields_of(Deploy)
    with problems.collect() as found:
        dispatch(inputs=dict)  # type: ignore[arg-type]
    assert [problem.code for problem in found] == ["E403"]


def test_subclasses_have_the_fields_of_their_base() -> None:
    class More(Deploy):
        extra: str = "x"

    assert [field.name for field in fields_of(More)][-1] == "extra"
    assert len(fields_of(More)) == len(fields_of(Deploy)) + 1
