"""Approvals of a local run: asked for on the terminal, one at a time (AU-115)."""

import asyncio
import os
import sys

from kici.cli.local.screen import Screen
from kici.cli.local.services import ApprovalAsked

_MOST_DRIFT_LINES = 40


class Approvals:
    """`yes` says yes to all. Without a terminal nobody can be asked, and everything is rejected."""

    def __init__(self, screen: Screen, *, yes: bool) -> None:
        self._screen = screen
        self._yes = yes
        self._asking = asyncio.Lock()

    async def ask(self, title: str, asked: ApprovalAsked) -> tuple[str, str]:
        """(approved | rejected | expired, why)."""
        if self._yes:
            self._screen.line(title, "approved by --yes")
            return "approved", "--yes"
        if not can_ask():
            return "rejected", "it needs a terminal to ask on, or --yes"
        async with self._asking:
            with self._screen.suspended():
                self._screen.notice(_question(title, asked))
                try:
                    async with asyncio.timeout(
                        None if asked.timeout_ms is None else asked.timeout_ms / 1000
                    ):
                        answer = await _line()
                except TimeoutError:
                    return "expired", "nobody answered in time"
        approved = answer.strip().lower() in {"y", "yes"}
        return ("approved", "") if approved else ("rejected", "you said no")


def can_ask() -> bool:
    return sys.stdin.isatty() and os.environ.get("CI", "").lower() not in {"1", "true"}


def _question(title: str, asked: ApprovalAsked) -> str:
    what = f"{title}, step {asked.step_name}" if asked.step_name else title
    people = ", ".join(
        f"team {clause['team']}" if clause.get("team") else f"user {clause.get('user', '')}"
        for clause in asked.clauses
    )
    lines = [f"\n{what} needs approval" + (f" by {people}" if people else "")]
    if asked.reason:
        lines.append(f"  {asked.reason}")
    if asked.drift:
        lines += [f"  {line}" for line in asked.drift.splitlines()[:_MOST_DRIFT_LINES]]
    return "\n".join([*lines, "Approve? [y/N]"])


async def _line() -> str:
    """One line of the terminal. Nothing keeps waiting for it once this call is cancelled."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    fd = sys.stdin.fileno()
    loop.add_reader(fd, lambda: ready.done() or ready.set_result(None))
    try:
        await ready
    finally:
        loop.remove_reader(fd)
    return os.read(fd, 4096).decode("utf-8", "replace")
