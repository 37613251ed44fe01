"""The lines at the foot of a terminal that change: one per running job, with what it does and since when."""

import shutil
import time
from collections.abc import Sequence
from typing import BinaryIO

from msgspec import Struct

_SPINNER = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_FRAMES_PER_S = 10
_ERASE = b"\r\x1b[%dA\x1b[J"


class _Job(Struct):
    started: float
    step: str = ""
    last: str = ""  # an unfinished line of its output


class LiveLines:
    """Draws at the cursor, erases itself before anything else is written. Holds no clock of its own."""

    def __init__(self, stream: BinaryIO, *, colored: bool) -> None:
        self._stream = stream
        self._colored = colored
        self._jobs: dict[str, _Job] = {}
        self._drawn = 0
        self._done = 0
        self._total = 0

    @property
    def busy(self) -> bool:
        return bool(self._jobs)

    def expect(self, count: int) -> None:
        self._total += count

    def begin(self, name: str) -> None:
        self._jobs[name] = _Job(time.monotonic())

    def step(self, name: str, step: str) -> None:
        if name in self._jobs:
            self._jobs[name].step = step

    def last(self, name: str, text: str) -> None:
        if name in self._jobs:
            self._jobs[name].last = text

    def end(self, name: str) -> None:
        self._jobs.pop(name, None)
        self._done += 1

    def erase(self) -> None:
        if self._drawn:
            self._stream.write(_ERASE % self._drawn)
            self._drawn = 0

    def draw(self) -> None:
        """Anew, where the cursor is; it must stand at the start of a line."""
        self.erase()
        if not self._jobs:
            self._stream.flush()
            return
        from rich.cells import cell_len, set_cell_size  # terminals only

        width, height = shutil.get_terminal_size()
        lines = self._lines(max(1, height // 2 - 1))
        for line in lines:
            shown = line if cell_len(line) < width else set_cell_size(line, max(1, width - 2)) + "…"
            self._stream.write(shown.encode("utf-8", "replace") + b"\n")
        self._drawn = len(lines)
        self._stream.flush()

    def _lines(self, most: int) -> Sequence[str]:
        now = time.monotonic()
        spinner = _SPINNER[int(now * _FRAMES_PER_S) % len(_SPINNER)]
        longest = min(32, max(map(len, self._jobs)))
        lines = [
            f"{spinner} {name:<{longest}}  {took(now - job.started):>7}  {job.step}"
            + (f" │ {job.last}" if job.last else "")
            for name, job in list(self._jobs.items())[:most]
        ]
        hidden = len(self._jobs) - len(lines)
        more = f", {hidden} not shown" if hidden else ""
        foot = f"{len(self._jobs)} running{more}, {self._done} of {self._total} done"
        return [*lines, f"\x1b[90m{foot}\x1b[0m" if self._colored else foot]


def took(seconds: float) -> str:
    """`0.4 s`, `1 m 05 s`, `2 h 03 m`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} m {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} m"
