"""Search in one log: blocks stream through RE2, nothing is kept but matches. Runs in a thread.

A pattern sees text as people do: ANSI escapes gone, line by line (it never matches across a line end,
`^` and `$` are a line's), CR before LF gone. A literal matches any case; so does a regular
expression unless it says `(?-i)`. Of one line the first LINE_WINDOW bytes are searched.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable
from typing import Protocol

import re2

from kici.orchestrator.logs.reader import View
from kici.orchestrator.logs.streams import BadPattern
from kici.protocol.dashboard_v1 import LogMatch, LogSearchResult

MAX_MATCHES = 10_000  # a search that finds as many ends there
MAX_PATTERN = 1000
LINE_WINDOW = 1 << 20
PREVIEW = 120  # characters on each side of a match

_MAX_EMPTY = 100_000

# CSI, OSC (ended by BEL or ST) and two-byte escapes; never across a line end.
_ANSI = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")


class Found(Protocol):
    def span(self) -> tuple[int, int]: ...


Finder = Callable[[bytes], Iterable[Found]]


def compile_pattern(query: str, *, regex: bool) -> Finder:
    """Finds matches in a text of whole lines. Raises BadPattern."""
    if not query or len(query) > MAX_PATTERN:
        raise BadPattern(f"a search needs 1 to {MAX_PATTERN} characters")
    if "\n" in query:
        raise BadPattern("a search looks at one line at a time: the pattern has a line end")
    options = re2.Options()
    options.never_nl = True
    options.never_capture = True
    options.log_errors = False
    options.case_sensitive = False
    pattern = query if regex else re2.escape(query)
    try:
        re2.compile(pattern, options)  # alone first, so that an error names what was typed
        return re2.compile("(?m)" + pattern, options).finditer
    except re2.error as error:
        said = error.args[0] if error.args else ""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
        raise BadPattern(f"not a regular expression (RE2): {text}") from error


class Search:
    """One run over one log."""

    def __init__(
        self, view: View, query: str, *, regex: bool, limit: int, deadline: float, stop: threading.Event
    ) -> None:
        """`deadline` is on the monotonic clock. Raises BadPattern."""
        self._view = view
        self._find = compile_pattern(query, regex=regex)
        self._limit = max(1, min(limit, MAX_MATCHES))
        self._deadline = deadline
        self._stop = stop
        self._matches: list[LogMatch] = []
        self._total = 0
        self._empty = 0

    def run(self) -> LogSearchResult:
        """What was found until the end, the deadline, `stop` or MAX_MATCHES matches, whichever comes
        first; `truncated` tells a full scan from the others."""
        at = self._view.at
        carry = bytearray()
        carry_line = 0
        scanned = 0
        whole = True
        for span in self._view.spans(0):
            if self._stop.is_set() or time.monotonic() > self._deadline or self._total >= MAX_MATCHES:
                whole = False
                break
            header = span.header
            if header.raw_len == 0 or (header.line_count == 0 and len(carry) >= LINE_WINDOW):
                continue
            if carry and header.first_line > carry_line:
                self._scan(bytes(carry), carry_line)  # the sender dropped the rest of this line
                carry.clear()
            raw = self._view.raw(span)
            if not carry:
                carry_line = header.first_line
            cut = raw.rfind(b"\n") + 1
            if cut:
                if carry:
                    # A line that began in an earlier block: its end is the first in this one.
                    first = raw.index(b"\n") + 1
                    self._add(carry, raw[:first])
                    self._scan(bytes(carry), carry_line)
                    carry.clear()
                    self._scan(raw[first:cut], header.first_line + 1)
                else:
                    self._scan(raw[:cut], carry_line)
                carry_line = header.first_line + header.line_count
                raw = raw[cut:]
            self._add(carry, raw)
            scanned = header.first_line + header.line_count
        if whole and carry:
            self._scan(bytes(carry), carry_line)
            scanned += 1
        return LogSearchResult(
            matches=self._matches,
            total=self._total,
            truncated=not whole or self._total > len(self._matches),
            scanned_lines=min(scanned, at.total_lines),
        )

    @staticmethod
    def _add(carry: bytearray, piece: bytes) -> None:
        carry += piece[: max(0, LINE_WINDOW - len(carry))]

    def _scan(self, text: bytes, first_line: int) -> None:
        """`text` is whole lines, the first of them number `first_line`."""
        if not text:
            return
        if b"\x1b" in text:
            text = _ANSI.sub(b"", text)
        if b"\r" in text:
            text = text.replace(b"\r\n", b"\n")
        line = first_line
        counted = 0
        for found in self._find(text):
            start, end = found.span()
            if start == end:
                self._empty += 1
                if self._empty > _MAX_EMPTY:
                    raise BadPattern("the pattern matches the empty text, so it would match everywhere")
                continue
            self._total += 1
            if self._total >= MAX_MATCHES:
                return
            if len(self._matches) >= self._limit:
                continue
            line += text.count(b"\n", counted, start)
            counted = start
            self._matches.append(_match(text, line, start, end))


def _match(text: bytes, line: int, start: int, end: int) -> LogMatch:
    line_start = text.rfind(b"\n", 0, start) + 1
    line_end = text.find(b"\n", end)
    if line_end < 0:
        line_end = len(text)
    before = text[line_start:start].decode("utf-8", "replace")
    found = text[start:end].decode("utf-8", "replace")
    after = text[end : min(line_end, end + 4 * PREVIEW)].decode("utf-8", "replace")
    return LogMatch(
        line=line,
        start=len(before),
        end=len(before) + len(found),
        preview=before[-PREVIEW:] + found[: 2 * PREVIEW] + after[:PREVIEW],
    )
