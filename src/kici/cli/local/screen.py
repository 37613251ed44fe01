"""What the author sees: lines as `job │ line` while it runs, a tree of everything at the end (AU-117).

Bulk output is prefixed by one `replace` per chunk; nothing here walks lines.
"""

import asyncio
import os
from collections.abc import Sequence
from typing import BinaryIO

from kici.cli.local.results import JobReport, RunReport
from kici.spec.states import JobStatus, StepStatus

_PARTIAL_S = 0.2  # an unfinished line is shown after this long
_COLORS = (36, 33, 35, 32, 34, 96, 93, 95, 92, 94)
_MARKS = {
    "success": ("✓", 32),
    "failed": ("✗", 31),
    "cancelled": ("■", 33),
    "skipped": ("○", 90),
    "pending": ("○", 90),
}


class Screen:
    """Writes to one stream. `quiet` leaves out everything but notices and the tree."""

    def __init__(self, stream: BinaryIO, *, quiet: bool) -> None:
        self._stream = stream
        self._quiet = quiet
        self._colored = "NO_COLOR" not in os.environ and stream.isatty()
        self._width = 0
        self._partial: dict[str, bytes] = {}
        self._open: str | None = None  # whose unfinished line the cursor stands in
        self._flusher: asyncio.TimerHandle | None = None
        self._color_of: dict[str, int] = {}

    def announce(self, names: Sequence[str]) -> None:
        """Prefixes are aligned to the longest of these."""
        self._width = min(max(map(len, names), default=0), 32)

    def notice(self, text: str) -> None:
        """A line of ours, shown even when quiet."""
        self._end_line()
        self._write(text.encode("utf-8", "replace") + b"\n")

    def line(self, who: str, text: str) -> None:
        """A whole line of ours among the job's."""
        if not self._quiet:
            self._finish(who)
            self._end_line()
            self._write(self._prefix(who) + text.encode("utf-8", "replace") + b"\n")

    def output(self, who: str, data: bytes) -> None:
        """Bytes of a job, as they come."""
        if self._quiet:
            return
        data = self._partial.pop(who, b"") + data
        cut = data.rfind(b"\n") + 1
        whole, rest = data[:cut], data[cut:]
        if whole:
            self._show(who, whole[:-1])
            self._write(b"\n")
            self._open = None
        if rest:
            self._partial[who] = rest
            if self._flusher is None:
                loop = asyncio.get_running_loop()
                self._flusher = loop.call_later(_PARTIAL_S, self._show_partials)

    def finish(self, who: str) -> None:
        """No more output of this one for now: its last line ends here."""
        if not self._quiet:
            self._finish(who)

    def _finish(self, who: str) -> None:
        rest = self._partial.pop(who, b"")
        if rest:
            self._show(who, rest)
        if self._open == who:
            self._end_line()

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
        for who in list(self._partial):
            self._show(who, self._partial.pop(who))

    def _end_line(self) -> None:
        if self._open is not None:
            self._write(b"\n")
            self._open = None

    def _prefix(self, who: str) -> bytes:
        color = self._color_of.setdefault(
            who.partition(" › ")[0], _COLORS[len(self._color_of) % len(_COLORS)]
        )
        return (self._paint(f"{who:<{self._width}} │", color) + " ").encode("utf-8", "replace")

    def _write(self, data: bytes) -> None:
        self._stream.write(data)
        if len(data) < 4096:
            self._stream.flush()

    def _paint(self, text: str, color: int) -> str:
        return f"\033[{color}m{text}\033[0m" if self._colored else text

    # ── the tree ────────────────────────────────────────────────────────────────────────────────

    def tree(self, report: RunReport) -> None:
        self._end_line()
        lines = [
            f"{self._mark(report.status)} {report.workflow}  {report.trigger}",
            *self._jobs(report.jobs),
        ]
        took = f"{report.duration_ms / 1000:.1f} s"
        self.notice("\n" + "\n".join(lines) + f"\n{self._paint(f'{report.status} in {took}', 90)}")

    def _jobs(self, jobs: Sequence[JobReport]) -> list[str]:
        lines: list[str] = []
        for number, job in enumerate(jobs):
            last = number == len(jobs) - 1
            lines.append(
                f"{'└─' if last else '├─'} {self._mark(job.status)} {job.name}{self._took(job.duration_ms)}"
                + self._why(job.error_message if not job.steps or job.status != JobStatus.FAILED else None)
            )
            bar = "   " if last else "│  "
            for at, step in enumerate(job.steps):
                branch = "└─" if at == len(job.steps) - 1 else "├─"
                lines.append(
                    f"{bar}{branch} {self._mark(step.status)} {step.name}{self._took(step.duration_ms)}"
                    + self._why(step.error_message)
                )
            if job.status == JobStatus.FAILED and not any(s.status == StepStatus.FAILED for s in job.steps):
                lines.append(f"{bar}{self._why(job.error_message)}")
            if job.workspace is not None:
                lines.append(f"{bar}{self._paint(f'kept at {job.workspace}', 90)}")
        return lines

    def _mark(self, status: str) -> str:
        mark, color = _MARKS.get(status, ("?", 31))
        return self._paint(mark, color)

    def _took(self, duration_ms: int | None) -> str:
        return "" if duration_ms is None else self._paint(f"  {duration_ms / 1000:.1f} s", 90)

    def _why(self, message: str | None) -> str:
        if not message:
            return ""
        first = message.strip().splitlines()[0]
        return "  " + self._paint(first if len(first) <= 200 else first[:199] + "…", 90)
