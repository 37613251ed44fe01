"""`ctx.log`: lines of ours in the step's log."""

from collections.abc import Generator
from contextlib import contextmanager

from kici.protocol.runner_v1 import AddMask
from kici.runner.activity import Activity

_COLORS = {"debug": "\033[2m", "info": "", "warning": "\033[33m", "error": "\033[31m"}


class StepLog:
    def __init__(self, activity: Activity) -> None:
        self._activity = activity

    def debug(self, msg: str, /, *args: object) -> None:
        self._write("debug", msg, args)

    def info(self, msg: str, /, *args: object) -> None:
        self._write("info", msg, args)

    def warning(self, msg: str, /, *args: object) -> None:
        self._write("warning", msg, args)

    def error(self, msg: str, /, *args: object) -> None:
        self._write("error", msg, args)

    @contextmanager
    def group(self, title: str, /) -> Generator[None]:
        """Readers of the log fold what stands between the two markers."""
        self._activity.print(f"##[group]{' '.join(title.split())}")
        try:
            yield
        finally:
            self._activity.print("##[endgroup]")

    def add_mask(self, value: str, /) -> None:
        self._activity.services.link.send(AddMask(value=value))

    def _write(self, level: str, msg: str, args: tuple[object, ...]) -> None:
        text = msg % args if args else msg
        if level == "info":
            self._activity.print(text)
        else:
            self._activity.print(f"{_COLORS[level]}{level}: {text}\033[0m")
