"""Commands that a step ran, and what they answer."""

import re
import shlex
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import TypeAlias

from msgspec import Struct

from kici.sdk.errors import CommandError
from kici.sdk.results import Completed

_TAIL_LINES = 20


class UnexpectedCommand(AssertionError):
    """A strict context was asked for a command that nobody gave an answer to."""


class Command(Struct, frozen=True, kw_only=True):
    """One call of `ctx.sh` or `ctx.run`. `text` is the script as written, or the quoted words of `run`."""

    text: str
    argv: tuple[str, ...] = ()  # of `run`
    variables: Mapping[str, object] = {}  # of `sh`
    cwd: str | None = None
    env: Mapping[str, str] = {}  # given to this call
    input: str | bytes | None = None
    check: bool = True


# Text is stdout of a success; a number is an exit code; a function gets the command.
Answer: TypeAlias = str | int | Completed | Callable[[Command], "str | int | Completed"]
Wanted: TypeAlias = str | re.Pattern[str]


class Answers:
    """Answers by pattern: a glob over the command's text, or a regex searched in it. The last one wins."""

    def __init__(self, *, strict: bool) -> None:
        self.strict = strict
        self._given: list[tuple[Wanted, Answer]] = []

    def add(self, wanted: Wanted, answer: Answer) -> None:
        self._given.append((wanted, answer))

    def __call__(self, command: Command) -> Completed:
        """Raises CommandError as the real one does, UnexpectedCommand when strict."""
        for wanted, answer in reversed(self._given):
            if _fits(wanted, command.text):
                found = _completed(answer(command) if callable(answer) else answer)
                break
        else:
            if self.strict:
                known = ", ".join(repr(_shown(wanted)) for wanted, _ in self._given) or "none"
                raise UnexpectedCommand(
                    f"unexpected command {command.text!r} (answers: {known}); "
                    f"give it one: ctx.answer({command.text!r}, 'output')"
                )
            found = _completed("")
        if command.check and found.returncode != 0:
            raise CommandError(command.text, found.returncode, found.stderr.splitlines()[-_TAIL_LINES:])
        return found


def quoted(argv: tuple[str, ...]) -> str:
    return shlex.join(argv)


def _fits(wanted: Wanted, text: str) -> bool:
    if isinstance(wanted, str):
        return wanted == text or fnmatchcase(text, wanted)
    return wanted.search(text) is not None


def _shown(wanted: Wanted) -> str:
    return wanted if isinstance(wanted, str) else f"/{wanted.pattern}/"


def _completed(answer: str | int | Completed) -> Completed:
    match answer:
        case Completed():
            return answer
        case str():
            return Completed(returncode=0, stdout=answer, stderr="", duration=0.0)
        case code:
            return Completed(returncode=code, stdout="", stderr="", duration=0.0)
