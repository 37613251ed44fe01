"""Globs and regexes mean what OR-51 and AU-76 say."""

import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.engine.patterns import InvalidPattern, PatternSet
from kici.spec.globs import glob_to_regex
from kici.spec.triggers import Pattern


def globs(*texts: str) -> PatternSet:
    return PatternSet([Pattern(type="glob", pattern=text) for text in texts])


@pytest.mark.parametrize(
    ("glob", "yes", "no"),
    [
        ("main", ["main"], ["main2", "xmain", "Main", ""]),
        ("*", ["main", ".hidden", ""], ["a/b"]),
        ("release/*", ["release/1"], ["release/1/2", "release"]),
        ("release-?", ["release-1"], ["release-", "release-10", "release-/"]),
        ("**", ["a", "a/b", ""], []),
        ("src/**", ["src/a", "src/a/b.py"], ["src", "src/", "xsrc/a"]),
        ("**/*.md", ["README.md", "a/b/c.md"], ["a.mdx"]),
        ("a/**/b", ["a/b", "a/x/b", "a/x/y/b"], ["ab", "a/xb"]),
        ("**/test/**", ["test/a", "x/test/a/b"], ["test", "xtest/a"]),
        ("a**c", ["ac", "abc", "a/b/c"], ["ab"]),
        ("v[0-9].[!0]", ["v1.2", "v9.x"], ["va.1", "v1.0", "v1./"]),
        ("[]x]", ["]", "x"], ["y"]),
        ("[a-c^]", ["a", "^"], ["d"]),
        ("{main,dev}", ["main", "dev"], ["maindev", "main,dev"]),
        ("{a,b/{c,d*}}.x", ["a.x", "b/c.x", "b/dog.x"], ["b/e.x"]),
        ("{only}", ["only"], ["{only}"]),
        ("{,x}y", ["y", "xy"], []),
        ("open{brace", ["open{brace"], ["open"]),
        ("open[class", ["open[class"], ["openc"]),
        (r"lit\*", ["lit*"], ["literal"]),
        (r"{a\,b,c}", ["a,b", "c"], ["a"]),
        ("a.b+c(d)", ["a.b+c(d)"], ["axb+c(d)"]),
        ("line*", ["line\nbreak"], []),
        ("wörld-*", ["wörld-ü"], ["world-u"]),
    ],
)
def test_globs(glob: str, yes: list[str], no: list[str]) -> None:
    wanted = globs(glob)
    assert [value for value in yes if not wanted.matches(value)] == []
    assert [value for value in no if wanted.matches(value)] == []


@given(st.text(alphabet="ab*?", max_size=8), st.text(alphabet="ab", max_size=8))
def test_simple_globs_agree_with_the_standard_library(glob: str, value: str) -> None:
    assert globs(glob).matches(value) is fnmatch.fnmatchcase(value, glob)


@given(st.text(max_size=30))
def test_every_text_is_a_glob(text: str) -> None:
    globs(text).matches("main")


@given(st.text(alphabet=st.characters(exclude_characters="*?[]{}\\!"), min_size=1, max_size=20))
def test_text_without_special_characters_matches_itself_only(text: str) -> None:
    assert globs(text).matches(text)
    assert not globs(text).matches(text + "x")


def test_exclusions_win_over_inclusions() -> None:
    wanted = globs("release/*", "!release/old*")
    assert wanted.matches("release/2")
    assert not wanted.matches("release/old-1")
    assert not wanted.matches("main")


def test_a_list_of_exclusions_means_everything_else() -> None:
    wanted = globs("!wip/**")
    assert wanted.matches("main")
    assert not wanted.matches("wip/x")


def test_no_patterns_match_everything() -> None:
    assert globs().matches("anything")


def test_regexes_search_and_can_be_negated_and_flagged() -> None:
    wanted = PatternSet(
        [
            Pattern(type="regex", pattern=r"^rel-\d+", flags="i"),
            Pattern(type="regex", pattern="!beta"),
        ]
    )
    assert wanted.matches("REL-12")
    assert not wanted.matches("rel-x")
    assert not wanted.matches("rel-1-beta")
    assert wanted.text == r"/^rel-\d+/i, !/beta/"


@pytest.mark.parametrize(("source", "flags"), [("(?=x)", ""), ("(", ""), ("a", "x")])
def test_what_re2_refuses_is_a_typed_error(source: str, flags: str) -> None:
    with pytest.raises(InvalidPattern, match="/"):
        PatternSet([Pattern(type="regex", pattern=source, flags=flags)])


def test_nothing_an_author_writes_takes_exponential_time() -> None:
    hostile = PatternSet([Pattern(type="regex", pattern="^(a+)+$")])
    assert not hostile.matches("a" * 50_000 + "!")
    assert "\\z" in glob_to_regex("*" * 200 + "a")
    assert not globs("*a" * 100).matches("a" * 99)
