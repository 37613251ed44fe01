"""Typed dispatch and schedule inputs (AU-83, OR-54)."""

import pytest

from kici.engine.inputs import InvalidInputs, resolve
from kici.spec.triggers import InputField

TEXT = InputField(name="target", type="string", required=True)
OPTIONAL = InputField(name="note", type="string")
MODE = InputField(name="mode", type="string", default="full", choices=["full", "edge-only"])
RETRIES = InputField(name="retries", type="integer", default=3, ge=0, le=10)
RATIO = InputField(name="ratio", type="number", default=0.5)
FORCE = InputField(name="force", type="boolean", default=False)
TAG = InputField(name="tag", type="string", min_length=2, max_length=5, pattern="^v[0-9]+$")
LEVEL = InputField(name="level", type="integer", choices=[1, 2])


@pytest.mark.parametrize(
    ("field", "given", "expected"),
    [
        (TEXT, "prod", "prod"),
        (TEXT, "", ""),
        (TEXT, "true", "true"),
        (MODE, "edge-only", "edge-only"),
        (RETRIES, "7", 7),
        (RETRIES, " 7 ", 7),
        (RETRIES, 7.0, 7),
        (RATIO, "1.5", 1.5),
        (RATIO, 2, 2.0),
        (FORCE, "true", True),
        (FORCE, "YES", True),
        (FORCE, "1", True),
        (FORCE, "false", False),
        (FORCE, "no", False),
        (FORCE, "0", False),
        (FORCE, 1, True),
        (TAG, "v12", "v12"),
        (LEVEL, 2, 2),
        (LEVEL, "2", 2),
    ],
)
def test_values_and_texts_become_what_the_field_wants(
    field: InputField, given: object, expected: object
) -> None:
    """AU-83: strings are coerced, other values keep their type."""
    value = resolve([field], {field.name: given})[field.name]
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("field", "given", "says"),
    [
        (TEXT, 5, "text"),
        (TEXT, None, "text"),
        (MODE, "half", "one of 'full', 'edge-only'"),
        (RETRIES, "many", "a whole number"),
        (RETRIES, True, "a whole number"),
        (RETRIES, 1.5, "a whole number"),
        (RETRIES, "9" * 5000, "a whole number"),
        (RETRIES, -1, "at least 0"),
        (RETRIES, "11", "at most 10"),
        (RETRIES, None, "a whole number"),
        (RATIO, "nan", "a number"),
        (RATIO, [1], "a number"),
        (FORCE, "maybe", "true or false"),
        (FORCE, 2, "true or false"),
        (TAG, "v", "at least 2"),
        (TAG, "v12345", "at most 5"),
        (TAG, "x12", "must match "),
        (LEVEL, 3, "one of 1, 2"),
        (LEVEL, True, "one of 1, 2"),
    ],
)
def test_a_bad_value_is_refused_by_name(field: InputField, given: object, says: str) -> None:
    """AU-83: the error names the key and what is wanted; OR-54: it is a 422."""
    with pytest.raises(InvalidInputs, match=f"'{field.name}'") as refused:
        resolve([field], {field.name: given})
    assert says in str(refused.value)
    assert str(refused.value).startswith(f"input '{field.name}' must ")
    assert ", got " in str(refused.value)
    assert refused.value.status == 422


def test_defaults_are_applied_once_and_absent_optionals_are_none() -> None:
    """AU-83."""
    fields = [OPTIONAL, MODE, RETRIES, FORCE]
    assert resolve(fields, {}) == {"note": None, "mode": "full", "retries": 3, "force": False}
    assert resolve(fields, {"note": None, "retries": 0}) == {
        "note": None,
        "mode": "full",
        "retries": 0,
        "force": False,
    }


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """AU-83: missing, unknown and bad keys in one answer."""
    with pytest.raises(InvalidInputs) as refused:
        resolve([TEXT, RETRIES], {"retries": "x", "taget": "prod"})
    assert [problem.split("'")[1] for problem in refused.value.problems] == ["taget", "target", "retries"]
    assert "missing" in str(refused.value)
    assert "target, retries" in refused.value.problems[0]
    with pytest.raises(InvalidInputs, match="no inputs"):
        resolve([], {"any": 1})
