"""Errors as their author wants to read them: without the frames of the machinery in between."""

import os
import traceback
from collections.abc import Iterator

import kici
from kici.spec.messages import shortened

_OUR_FILES = os.path.dirname(os.path.abspath(kici.__file__)) + os.sep
_MACHINERY = (
    _OUR_FILES,
    os.path.dirname(os.path.abspath(os.__file__)) + os.sep + "asyncio" + os.sep,
    os.path.dirname(os.path.abspath(os.__file__)) + os.sep + "threading.py",
    "<frozen importlib",
)
# More than is shown: the host shortens it further once secrets are masked, of which a cut may leave one half.
_SHORT_CHARACTERS = 64 << 10


def long_form(error: BaseException, workspace: str) -> str:
    """A whole traceback with causes, from the author's first frame on, its files named as in the repository;
    ends in a line feed."""
    report = traceback.TracebackException.from_exception(error, compact=True)
    for part in _chain(report):
        part.stack[:] = _author_frames(part.stack, workspace)
    return "".join(report.format())


def short_form(error: BaseException, workspace: str) -> str:
    """One message: the type, what it says, and the author's line it came from."""
    text = str(error).strip()
    name = type(error).__name__
    place = _place(error, workspace)
    first, *more = (f"{name}: {text}" if text else name).split("\n")
    return shortened("\n".join([f"{first} ({place})" if place else first, *more]), _SHORT_CHARACTERS)


def _chain(report: traceback.TracebackException) -> Iterator[traceback.TracebackException]:
    pending = [report]
    while pending:
        part = pending.pop()
        yield part
        pending += [other for other in (part.__cause__, part.__context__) if other is not None]
        pending += part.exceptions or []


def _author_frames(frames: list[traceback.FrameSummary], workspace: str) -> list[traceback.FrameSummary]:
    """From the first frame in the workspace on, without ours; without any such frame, all but ours. Where a
    checkout lies on the agent's disk is nobody's business: its files are shown from the repository's root."""
    inside = workspace.rstrip(os.sep) + os.sep
    first = next((at for at, frame in enumerate(frames) if frame.filename.startswith(inside)), 0)
    shown = [frame for frame in frames[first:] if not frame.filename.startswith(_MACHINERY)]
    for frame in shown:
        if frame.filename.startswith(inside):
            _ = frame.line  # read while the name still leads to the file
            frame.filename = frame.filename.removeprefix(inside)
    return shown


def _place(error: BaseException, workspace: str) -> str | None:
    inside = workspace.rstrip(os.sep) + os.sep
    if isinstance(error, SyntaxError) and error.filename and error.filename.startswith(inside):
        return f"{error.filename.removeprefix(inside)}:{error.lineno}"
    last: str | None = None
    for frame, line in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename.startswith(inside):
            last = f"{frame.f_code.co_filename.removeprefix(inside)}:{line}"
    return last
