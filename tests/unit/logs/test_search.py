"""Search against a plain model: each line by itself, escapes removed, Python's `re`."""

import asyncio
import re
import tempfile
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kici.orchestrator.logs.search import LINE_WINDOW, MAX_MATCHES
from kici.orchestrator.logs.store import LogStore
from kici.orchestrator.logs.streams import BadPattern, StreamId
from tests.support import log_blocks
from tests.support.log_blocks import JOB_ID, RUN_ID

STREAM = StreamId(RUN_ID, JOB_ID, 1, 0)
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def write(store: LogStore, data: bytes, cuts: list[int] | range = range(0)) -> None:
    for record in log_blocks.records(data, cuts):
        store.append(RUN_ID, record)


def model(data: bytes, pattern: str) -> list[tuple[int, int, int]]:
    found: list[tuple[int, int, int]] = []
    for number, text in enumerate(log_blocks.texts(log_blocks.lines(data))):
        clean = ANSI.sub("", text).removesuffix("\r")
        found += [
            (number, match.start(), match.end())
            for match in re.finditer(pattern, clean, re.IGNORECASE | re.ASCII)
            if match.end() > match.start()
        ]
    return found


words = st.sampled_from(
    ["error", "Error", "warn", "a", "aa", " ", "\n", "\r\n", "\x1b[1;31m", "\x1b[0m", "é", "🙂", "12", "("]
)
texts = st.lists(words, max_size=60).map("".join).map(str.encode)


@given(
    data=texts,
    cuts=st.lists(st.integers(0, 300), max_size=12),
    query=st.sampled_from(["error", "A", "é", "🙂a", "(", "1"]),
    pattern=st.sampled_from(["^a", "a$", "err.r", "[a-z]+", r"\d+ ", "(a|é)+", "^$", ".*"]),
)
@settings(max_examples=300, deadline=None)
def test_matches_are_the_models(data: bytes, cuts: list[int], query: str, pattern: str) -> None:
    async def scenario() -> None:
        with tempfile.TemporaryDirectory() as folder:
            store = LogStore(folder)
            try:
                write(store, data, cuts)
                for text, regex in ((query, False), (pattern, True)):
                    expected = model(data, text if regex else re.escape(text))
                    result = await store.search(STREAM, text, regex=regex, limit=1000)
                    assert [(m.line, m.start, m.end) for m in result.matches] == expected
                    assert (result.total, result.truncated) == (len(expected), False)
                    assert result.scanned_lines == len(log_blocks.lines(data))
            finally:
                await store.close()

    asyncio.run(scenario())


async def test_a_match_comes_with_its_surroundings(store: LogStore) -> None:
    write(store, b"first\n\x1b[32mok\x1b[0m then " + b"." * 300 + b"NEEDLE" + b"," * 300 + b"\r\nlast\n")
    result = await store.search(STREAM, "needle", regex=False)
    (match,) = result.matches
    assert match.line == 1
    assert match.start == len("ok then ") + 300
    assert match.preview == "." * 120 + "NEEDLE" + "," * 120


async def test_a_regular_expression_may_ask_for_the_case(store: LogStore) -> None:
    write(store, b"error\nERROR\n")
    assert (await store.search(STREAM, "(?-i)ERROR", regex=True)).total == 1
    assert (await store.search(STREAM, "ERROR", regex=True)).total == 2


@pytest.mark.parametrize("pattern", ["(", "[a", r"\1", "a{2,1}", "(?=x)", "", "x" * 1001, "a\nb"])
async def test_what_is_no_pattern_is_said_so(store: LogStore, pattern: str) -> None:
    write(store, b"text\n")
    with pytest.raises(BadPattern):
        await store.search(STREAM, pattern, regex=True)


async def test_the_same_text_is_fine_as_a_literal(store: LogStore) -> None:
    write(store, b"call(1)\n")
    assert (await store.search(STREAM, "(", regex=False)).total == 1


async def test_a_pattern_that_explodes_elsewhere_is_linear_here(store: LogStore) -> None:
    write(store, (b"a" * 5000 + b"b\n") * 40)
    result = await store.search(STREAM, "(a+)+$|(a|aa)+c", regex=True)
    assert (result.total, result.truncated) == (0, False)


async def test_matches_are_bounded_and_the_result_says_so(store: LogStore) -> None:
    write(store, b"xxxxxxxxxx\n" * 50_000, range(0, 550_000, 40_000))
    result = await store.search(STREAM, "x", regex=False, limit=7)
    assert len(result.matches) == 7
    assert (result.total, result.truncated) == (MAX_MATCHES, True)
    assert result.scanned_lines < 50_000


async def test_a_pattern_that_matches_nothing_everywhere_is_refused_in_time(store: LogStore) -> None:
    write(store, b"aaaaaaaaaa\n" * 50_000, range(0, 550_000, 40_000))
    with pytest.raises(BadPattern):
        await store.search(STREAM, r"\b|q*", regex=True)


async def test_a_search_ends_at_its_deadline(store: LogStore) -> None:
    write(store, b"some text\n" * 200_000, range(0, 2_000_000, 50_000))
    result = await store.search(STREAM, "nowhere", regex=False, timeout_seconds=0)
    assert result.truncated
    assert result.scanned_lines < 200_000


async def test_a_cancelled_search_frees_its_thread(store: LogStore) -> None:
    write(store, b"some text\n" * 200_000, range(0, 2_000_000, 1000))
    for _ in range(8):  # more than there are threads
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await store.search(STREAM, "nowhere", regex=False, timeout_seconds=60)
    started = time.monotonic()
    assert (await store.search(STREAM, "some", regex=False, limit=1)).total > 0
    assert time.monotonic() - started < 30


async def test_of_a_giant_line_its_beginning_is_searched(store: LogStore) -> None:
    data = b"early " + b"-" * (3 * LINE_WINDOW) + b" late\nnext late\n"
    write(store, data, range(0, len(data), 900_000))
    assert [m.line for m in (await store.search(STREAM, "early", regex=False)).matches] == [0]
    assert [m.line for m in (await store.search(STREAM, "late", regex=False)).matches] == [1]
