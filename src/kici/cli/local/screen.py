"""What the author sees: lines as `job │ line` while it runs, a tree of everything at the end (AU-117).

On a terminal, running jobs have a line each at its foot; a job that ended leaves one line. Piped, or with
`--quiet`, nothing moves. Bulk output is prefixed by one `replace` per chunk; nothing here walks lines.
"""

import asyncio
import os
import re
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import BinaryIO

from kici.cli.local.live import LiveLines, took
from kici.cli.local.results import RunReport
from kici.cli.local.tree import MARKS, Tree
from kici.spec.states import JobStatus

_SEQUENCE = (
    rb"(?:\[[0-?]*[ -/]*[@-~]"  # cursor, colours
    rb"|\][^\x07\x1b\n]*(?:\x07|\x1b\\)?"  # titles, links
    rb"|[PX^_][^\x1b\n]*(?:\x1b\\)?"  # what only the terminal reads
    rb"|[ -/]+[0-~]|[0-Z\\^-~])"
)
_COLOR = rb"\[[0-9;:]*m"
ESCAPES = re.compile(rb"\x1b" + _SEQUENCE)
_BUT_COLORS = re.compile(rb"\x1b(?!" + _COLOR + rb")" + _SEQUENCE)
_UNFINISHED = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*|[\]PX^_][^\x07\x1b]*\x1b?)?\Z")
_OVERWRITTEN = re.compile(rb"^[^\n]*\r", re.MULTILINE)  # greedy: up to the last one of a line
_ENDING = re.compile(rb"\r+$", re.MULTILINE)
_PARTIAL_S = 0.2  # an unfinished line is shown after this long
_REDRAW_S = 0.1
_COLORS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)


class Screen:
    """Writes to one stream. `quiet` leaves out everything but notices, the live lines and the tree."""

    def __init__(self, stream: BinaryIO, *, quiet: bool, live: bool | None = None) -> None:
        """`live`: with lines that move; by default on a terminal that can."""
        self._stream = stream
        self._quiet = quiet
        terminal = stream.isatty()
        self._colored = "NO_COLOR" not in os.environ and terminal
        self._live: LiveLines | None = None
        if live if live is not None else terminal and os.environ.get("TERM", "dumb") != "dumb":
            self._live = LiveLines(stream, colored=self._colored)
        self._width = 0
        self._partial: dict[str, bytes] = {}
        self._cut_off: set[str] = set()  # whose open line gave way to somebody else
        self._open: str | None = None  # whose unfinished line the cursor stands in
        self._flusher: asyncio.TimerHandle | None = None
        self._redrawer: asyncio.TimerHandle | None = None
        self._suspended = False
        self._color_of: dict[str, int] = {}
        self._told = False
        self.lost: OSError | None = None  # why nothing can be shown any more
        self._on_lost: Callable[[OSError], None] | None = None

    @contextmanager
    def telling_of_loss(self, on_lost: Callable[[OSError], None]) -> Generator[None]:
        """When the stream takes no more, `on_lost` is called, once; from then on whatever is shown vanishes.
        Outside of this, what shows something raises the OSError."""
        self._on_lost = on_lost
        try:
            yield
        finally:
            self._on_lost = None

    def announce(self, names: Sequence[str]) -> None:
        """Jobs that are to come. Prefixes are aligned to the longest."""
        self._width = max(self._width, min(max(map(len, names), default=0), 32))
        if self._live is not None:
            self._live.expect(len(names))

    # ── jobs ────────────────────────────────────────────────────────────────────────────────────

    def begin(self, who: str) -> None:
        """A job is at work from here on."""
        if self._live is not None:
            self._live.begin(who)
            self._redraw_soon()

    def step(self, who: str, step: str) -> None:
        """What it does now."""
        if self._live is not None:
            self._live.step(who, step)

    def end(self, who: str, status: JobStatus, duration_ms: int | None) -> None:
        """It is done; on a terminal one line stays of it."""
        if self._live is None:
            return
        self._live.end(who)
        mark, color = MARKS.get(status, ("?", 31))
        time_taken = "" if duration_ms is None else self._paint(f"  {took(duration_ms / 1000)}", 90)
        self.notice(f"{self._paint(mark, color)} {who}{time_taken}")

    def unstarted(self, who: str) -> None:
        """It ended without having been at work; the tree will say why."""
        if self._live is not None:
            self._live.end(who)

    # ── lines ───────────────────────────────────────────────────────────────────────────────────

    def notice(self, text: str) -> None:
        """A line of ours, shown even when quiet."""
        self._end_line()
        self._write(text.encode("utf-8", "replace") + b"\n")

    def line(self, who: str, text: str) -> None:
        """Something whole of ours among the job's lines."""
        if not self._quiet:
            self._finish(who)
            self._end_line()
            prefix = self._prefix(who)
            data = text.encode("utf-8", "replace").replace(b"\n", b"\n" + prefix)
            self._write(prefix + data + b"\n")

    def output(self, who: str, data: bytes) -> None:
        """Bytes of a job, as they come."""
        if self._quiet:
            return
        if who in self._cut_off:  # its line was ended for it
            self._cut_off.discard(who)
            data = data.removeprefix(b"\n")
        data = self._partial.pop(who, b"") + data
        cut = data.rfind(b"\n") + 1
        whole, rest = data[:cut], _latest(data[cut:])
        if whole:
            self._show(who, self._tame(whole)[:-1])
            self._write(b"\n")
            self._open = None
        if rest:
            self._partial[who] = rest
            if self._live is not None:
                self._live.last(who.partition(" › ")[0], plain(rest[-200:]).decode("utf-8", "replace"))
            elif self._flusher is None:
                loop = asyncio.get_running_loop()
                self._flusher = loop.call_later(_PARTIAL_S, self._show_partials)

    def finish(self, who: str) -> None:
        """No more output of this one for now: its last line ends here."""
        if not self._quiet:
            self._finish(who)

    def _finish(self, who: str) -> None:
        if self._live is not None:
            self._live.last(who.partition(" › ")[0], "")
        rest = self._partial.pop(who, b"")
        if rest:
            self._show(who, self._tame(rest))
        if self._open == who:
            self._end_line()
        self._cut_off.discard(who)

    def _tame(self, data: bytes) -> bytes:
        """What moves the cursor, names the window or overwrites is not for a screen that others share."""
        return plain(data, escapes=_BUT_COLORS if self._colored else ESCAPES)

    def _show(self, who: str, text: bytes) -> None:
        """Lines without their last line feed; goes on with the line that is open when it is the same job's."""
        prefix = self._prefix(who)
        if self._open != who:
            self._end_line()
            self._write(prefix)
        self._write(text.replace(b"\n", b"\n" + prefix))
        self._open = who

    def _show_partials(self) -> None:
        self._flusher = None
        with suppress(OSError):  # it is remembered, and raised by the next call that somebody waits for
            for who in list(self._partial):
                # A line that is being overwritten is shown once it has come to its end.
                if b"\r" not in self._partial[who] and not _UNFINISHED.search(self._partial[who]):
                    self._show(who, self._partial.pop(who))

    def _end_line(self) -> None:
        if self._open is not None:
            self._write(b"\n")
            self._cut_off.add(self._open)
            self._open = None

    def _prefix(self, who: str) -> bytes:
        color = self._color_of.setdefault(
            who.partition(" › ")[0], _COLORS[len(self._color_of) % len(_COLORS)]
        )
        return (self._paint(f"{who:<{self._width}} │", color) + " ").encode("utf-8", "replace")

    def _write(self, data: bytes) -> None:
        with self._guarded() as writable:
            if not writable:
                return
            if self._live is not None:
                self._live.erase()
                self._redraw_soon()
            self._stream.write(data)
            if len(data) < 4096:
                self._stream.flush()

    @contextmanager
    def _guarded(self) -> Generator[bool]:
        """Whether there is a stream to write to. Raises OSError when there is none and nobody was told."""
        if self.lost is not None:
            if not self._told:
                raise self.lost
            yield False
            return
        try:
            yield True
        except OSError as error:
            self.lost = error
            if self._on_lost is None:
                raise
            self._told = True
            self._on_lost(error)

    def _paint(self, text: str, color: int) -> str:
        return f"\033[{color}m{text}\033[0m" if self._colored else text

    # ── the lines that move ─────────────────────────────────────────────────────────────────────

    def _redraw_soon(self) -> None:
        if self._redrawer is None and self._live is not None and self._live.busy:
            self._redrawer = asyncio.get_running_loop().call_later(_REDRAW_S, self._redraw)

    def _redraw(self) -> None:
        self._redrawer = None
        if self._live is None or self._suspended:
            return
        with suppress(OSError), self._guarded() as writable:
            if writable and self._open is None:
                self._live.draw()
        if self.lost is None:
            self._redraw_soon()

    @contextmanager
    def suspended(self) -> Generator[None]:
        """Nothing moves meanwhile: a question is being asked."""
        self._suspended = True
        try:
            yield
        finally:
            self._suspended = False
            self._redraw_soon()

    def close(self) -> None:
        """Nothing moves any more."""
        if self._redrawer is not None:
            self._redrawer.cancel()
        if self._flusher is not None:
            self._flusher.cancel()
        if self._live is not None and self.lost is None:
            with suppress(OSError), self._guarded():
                self._live.erase()
                self._stream.flush()
        self._live = None

    # ── the tree ────────────────────────────────────────────────────────────────────────────────

    def tree(self, report: RunReport) -> None:
        self._end_line()
        self.notice("\n" + "\n".join(Tree(self._paint).lines(report)))


def plain(data: bytes, *, escapes: re.Pattern[bytes] = ESCAPES) -> bytes:
    """Lines as a terminal shows them in the end, without these escape sequences."""
    if b"\x1b" in data:
        data = escapes.sub(b"", data)
    if b"\r" in data:
        data = _OVERWRITTEN.sub(b"", _ENDING.sub(b"", data))
    return data


def _latest(line: bytes) -> bytes:
    """A line without its end, and without what has been overwritten; a mark stays that something was."""
    inner = line.rstrip(b"\r")
    at = inner.rfind(b"\r")
    return line[at:] if at > 0 else line
