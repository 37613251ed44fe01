"""`--pick`: the author chooses a trigger from a list (AU-111)."""

import os
import signal
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from kici.cli.events import Named, details_of, word_of
from kici.spec.errors import InvalidInput
from kici.spec.triggers import Trigger


class NothingPicked(InvalidInput):
    """There is nobody to choose, or nothing was chosen."""


def pick(triggers: Sequence[Named]) -> tuple[str, Trigger]:
    """(workflow, trigger). Raises NothingPicked; without a terminal with the list in its message."""
    if not triggers:
        raise NothingPicked("no workflow has a trigger")
    lines = [
        f"  {number:>3}  {workflow}: {word_of(workflow, trigger)}  {details_of(trigger)}".rstrip()
        for number, (workflow, trigger) in enumerate(triggers, 1)
    ]
    if not sys.stdin.isatty() or os.environ.get("CI", "").lower() in {"1", "true"}:
        raise NothingPicked("\n".join(["--pick needs a terminal; triggers:", *lines]))
    with _interruptible():  # before the question is there to be interrupted
        print("\n".join(lines), file=sys.stderr)
        print("Which? ", end="", file=sys.stderr, flush=True)
        answer = sys.stdin.readline().strip()
    if not answer.isdecimal() or not 1 <= int(answer) <= len(triggers):
        raise NothingPicked(f"{answer or 'nothing'} is none of 1 to {len(triggers)}")
    return triggers[int(answer) - 1]


@contextmanager
def _interruptible() -> Generator[None]:
    """Ctrl-C ends what blocks in here at once. The handler of an event loop would only make a note of it, for
    when the loop has its turn again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
