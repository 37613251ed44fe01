import base64
import json
import shlex
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kici.runner.masking import MaskedStream, Masker, spellings

SECRET = "pa$$ w'or\"d/+ü"


def through(masker: Masker, data: bytes, cuts: list[int]) -> bytes:
    stream = MaskedStream(masker)
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    shown = b"".join(stream.feed(data[begin:end]) for begin, end in pairwise(at))
    return shown + stream.finish()


@pytest.mark.parametrize(
    "spelling",
    [
        SECRET,
        quote(SECRET, safe=""),
        json.dumps(SECRET),
        json.dumps(SECRET, ensure_ascii=False),
        shlex.quote(SECRET),
        base64.b64encode(SECRET.encode()).decode(),
        base64.urlsafe_b64encode(b"user:" + SECRET.encode()).decode(),
        base64.b64encode(b"ab" + SECRET.encode() + b"tail").decode(),
    ],
)
def test_every_spelling_is_masked(spelling: str) -> None:
    """AG-65."""
    masker = Masker([SECRET])
    shown = masker.mask_text(f"before {spelling} after")
    assert "***" in shown
    assert shown.startswith("before ")
    assert shown.endswith(" after")
    assert all(form.decode() not in shown for form in spellings(SECRET))


def test_lines_of_a_multi_line_value_are_masked_one_by_one() -> None:
    """AG-65."""
    masker = Masker(["-----BEGIN-----\n  line one\nab\nline two\n"])
    assert masker.mask_text("x line one y line two z ab") == "x *** y *** z ab"


def test_values_under_three_characters_are_left_alone() -> None:
    masker = Masker(["", "ab", " c ", "abc"])
    assert masker.mask_text("ab c abc") == "ab c ***"
    assert not Masker(["ab"])


def test_the_longest_form_wins_and_values_add_up() -> None:
    """AG-65."""
    masker = Masker(["abc"])
    assert masker.mask_text("abcdef") == "***def"
    masker.add("abcdef")
    assert masker.mask_text("abcdef abc") == "*** ***"


def test_a_value_is_masked_only_from_when_it_is_known() -> None:
    masker = Masker()
    stream = MaskedStream(masker)
    assert stream.feed(b"secret ") == b"secret "
    masker.add("secret")
    assert stream.feed(b"secret ") == b"*** "


def test_nothing_is_held_back_without_a_reason() -> None:
    stream = MaskedStream(Masker(["xyz-secret"]))
    assert stream.feed(b"prompt> ") == b"prompt> "
    assert stream.feed(b"ends in xyz") == b"ends in "
    assert stream.feed(b"!") == b"xyz!"
    assert stream.feed(b"xy") == b""
    assert stream.finish() == b"xy"


def test_json_values_are_masked_deeply() -> None:
    masker = Masker(["secret"])
    value = {"a secret": ["secret", 1, None, {"x": "my secret"}], "b": 1.5}
    assert masker.mask_json(value) == {"a ***": ["***", 1, None, {"x": "my ***"}], "b": 1.5}


@given(
    secrets=st.lists(st.text(alphabet="ab", min_size=3, max_size=8), min_size=1, max_size=3),
    data=st.binary(max_size=60).map(lambda raw: bytes(b"abc"[byte % 3] for byte in raw)),
    cuts=st.lists(st.integers(0, 100), max_size=8),
)
@example(secrets=["aab", "aabab"], data=b"aaababaab", cuts=[2, 3, 5])
def test_chunk_borders_change_nothing(secrets: list[str], data: bytes, cuts: list[int]) -> None:
    """AG-65."""
    masker = Masker(secrets)
    assert through(masker, data, cuts) == through(masker, data, [])
    assert through(masker, data, []) == masker.pattern.sub(b"***", data)


@given(data=st.binary(max_size=200), cuts=st.lists(st.integers(0, 300), max_size=5))
def test_without_secrets_bytes_pass_untouched(data: bytes, cuts: list[int]) -> None:
    assert through(Masker(), data, cuts) == data
