"""What `match` and `not_` of a webhook trigger can say (OR-53, AU-79)."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.engine.jsonpath import InvalidPath, equals, find

DOCUMENT: dict[str, Any] = {
    "env": "prod",
    "count": 1,
    "flag": True,
    "deep": {"env": "dev", "list": [{"env": "a"}, {"env": "b"}]},
    "a b": {"it's": 1},
    "nothing": None,
}


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("$", [DOCUMENT]),
        ("$.env", ["prod"]),
        ("$.absent", []),
        ("$.env.more", []),
        ("$.nothing", [None]),
        ("$.deep.list[0].env", ["a"]),
        ("$.deep.list[-1].env", ["b"]),
        ("$.deep.list[9].env", []),
        ("$.deep.list[*].env", ["a", "b"]),
        ("$.deep.*", ["dev", [{"env": "a"}, {"env": "b"}]]),
        ("$..env", ["prod", "dev", "a", "b"]),
        ("$.deep..env", ["dev", "a", "b"]),
        ("$['a b']['it\\'s']", [1]),
        ('$["a b"]', [{"it's": 1}]),
    ],
)
def test_paths(path: str, expected: list[Any]) -> None:
    assert find(path, DOCUMENT) == expected


@pytest.mark.parametrize(
    "path", ["", "env", "$.", "$.a.", "$..", "$[", "$[x]", "$.a b", "$$", "$.a[?(@.b)]"]
)
def test_what_is_not_a_path_is_a_typed_error(path: str) -> None:
    with pytest.raises(InvalidPath):
        find(path, DOCUMENT)


@pytest.mark.parametrize(
    ("expected", "value", "result"),
    [
        ("prod", "prod", True),
        ("prod", "dev", False),
        (["prod", "dev"], "dev", True),
        ([], "dev", False),
        ("/^pr/", "prod", True),
        ("/^PR/i", "prod", True),
        ("/^x/", "prod", False),
        ("/1/", 1, False),
        (1, 1, True),
        (1, 1.0, True),
        (1, True, False),
        (True, True, True),
        (True, 1, False),
        ("1", 1, False),
        (None, None, True),
        ("/usr/bin", "/usr/bin", True),
    ],
)
def test_comparison(expected: Any, value: Any, result: bool) -> None:
    assert equals(expected, value) is result


@given(
    st.text(max_size=20),
    st.recursive(st.none() | st.integers() | st.text(max_size=3), st.lists),
)
def test_any_text_is_answered_or_refused(path: str, document: Any) -> None:
    try:
        find("$" + path, document)
    except InvalidPath:
        pass


def test_depth_does_not_end_the_process() -> None:
    document: Any = "x"
    for _ in range(50_000):
        document = [document]
    assert find("$..env", document) == []
