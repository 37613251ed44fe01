"""What a person sees while things start: one line per step, with its time."""

import sys
import time
from collections.abc import Generator
from contextlib import contextmanager


class Console:
    """Lines on stderr, so that stdout stays free for what a machine reads."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.live = sys.stderr.isatty()

    def say(self, text: str = "") -> None:
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    @contextmanager
    def step(self, text: str) -> Generator[None]:
        """`◌ text` while it runs, `✓ text (1.2 s)` or `✗ text` after."""
        started = time.monotonic()
        if self.live and not self.quiet:
            print(f"  ◌ {text}…", end="\r", file=sys.stderr, flush=True)
        try:
            yield
        except BaseException:
            self.say(f"  ✗ {text}" + " " * 12)
            raise
        self.say(f"  ✓ {text} ({time.monotonic() - started:.1f} s)" + " " * 6)
