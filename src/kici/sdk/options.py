"""Reads what an author gave to a constructor: takes each option, reports what is wrong with it.

Every method returns a usable value even then, so that one import shows all mistakes of a file.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar, cast

from kici.sdk.definitions import Hook
from kici.sdk.problems import nearest, report
from kici.sdk.source import SourceLocation, caller, of_function
from kici.sdk.values import duration_ms

T = TypeVar("T")

DEFAULT_HOOK_TIMEOUT_MS = 300_000
MAX_NAME_LENGTH = 100


def check_name(name: object, what: str, source: SourceLocation) -> str:
    """A name as authors write it (AU-10)."""
    if not isinstance(name, str):
        report("E117", f"the name of a {what} is text, not {type(name).__name__}", source=source)
        return ""
    reason = ""
    if not 1 <= len(name) <= MAX_NAME_LENGTH:
        reason = f"has {len(name)} characters; 1 to {MAX_NAME_LENGTH} are allowed"
    elif name.startswith("__"):
        reason = "starts with `__`, which is reserved for setup rows"
    elif not name.isprintable() or name != name.strip():
        reason = "has control characters or blanks around it"
    if reason:
        shown = name if len(name) <= MAX_NAME_LENGTH else name[:40] + "…"
        report("E117", f"{what} name {shown!r} {reason}", "choose another name", source=source)
    return name


def name_of_function(fn: object) -> str:
    """`run_tests` → `run-tests`; empty for lambdas and callables without a name."""
    name = getattr(getattr(fn, "func", fn), "__name__", "")
    return name.replace("_", "-") if isinstance(name, str) and name.isidentifier() else ""


def make_hook(fn: object, timeout_ms: int, source: SourceLocation) -> Hook | None:
    if not callable(fn):
        report(
            "E119",
            f"a hook is a function that takes ctx, not {type(fn).__name__}",
            "pass the function itself, or hook(fn, timeout='5m')",
            source=source,
        )
        return None
    return Hook(
        name=name_of_function(fn) or "hook",
        fn=cast("Callable[..., Any]", fn),
        timeout_ms=timeout_ms,
        source=of_function(fn) or source,
    )


def regex_flags(pattern: re.Pattern[str], given: "Options | None" = None, name: str = "") -> str:
    """The flags as letters; with `given`, those that RE2 lacks are reported."""
    if given is not None and pattern.flags & (re.VERBOSE | re.LOCALE):
        given.report(
            "E204", f"`{name}`: /{pattern.pattern}/ uses re.VERBOSE", "write it without blanks and comments"
        )
    letters = (("i", re.IGNORECASE), ("m", re.MULTILINE), ("s", re.DOTALL))
    return "".join(letter for letter, flag in letters if pattern.flags & flag)


class Pending:
    """What a constructor returns that still waits for the function it decorates."""

    name: str | None = None


class Options:
    """The keyword arguments of one constructor call. `subject` is `job 'build'` and the like."""

    def __init__(
        self,
        subject: str,
        given: Mapping[str, Any],
        known: Collection[str],
        source: SourceLocation | None = None,
    ) -> None:
        self.subject = subject
        self.given = given
        self.source = source or caller()
        for name in given:
            if name not in known:
                guess = nearest(name, known)
                remedy = (
                    f"did you mean `{guess}`?" if guess else f"known options: {', '.join(sorted(known))}"
                )
                self.report("E119", f"unknown option `{name}`", remedy)

    def report(self, code: str, message: str, help: str = "") -> None:
        report(code, f"{self.subject}: {message}", help, source=self.source)

    def wrong_type(self, name: str, wanted: str, value: object, help: str = "") -> None:
        self.report("E119", f"`{name}` is {wanted}, not {type(value).__name__}", help)

    def flag(self, name: str, *, default: bool) -> bool:
        value = self.given.get(name, default)
        if not isinstance(value, bool):
            self.wrong_type(name, "True or False", value)
            return default
        return value

    def text(self, name: str) -> str:
        value = self.given.get(name, "")
        if not isinstance(value, str):
            self.wrong_type(name, "text", value)
            return ""
        return value

    def duration(self, name: str) -> int | None:
        """Milliseconds, more than zero; None when absent."""
        value = self.given.get(name)
        if value is None:
            return None
        milliseconds = self.as_duration(name, value)
        if milliseconds == 0:
            self.report("E309", f"`{name}` must be more than zero")
            return None
        return milliseconds

    def as_duration(self, name: str, value: object) -> int | None:
        try:
            return duration_ms(value)
        except ValueError as wrong:
            self.report("E309", f"`{name}`: {wrong}")
            return None

    def at_least_one(self, name: str) -> int | None:
        value = self.given.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int):
            self.wrong_type(name, "a whole number", value)
            return None
        if value < 1:
            self.report("E205", f"`{name}` is {value}", "use 1 or more, or leave it out for no limit")
            return None
        return value

    def choice(self, name: str, known: Sequence[str], default: Any) -> Any:
        value = self.given.get(name, default)
        if value not in known:
            guess = nearest(value, known) if isinstance(value, str) else None
            remedy = f"did you mean {guess!r}?" if guess else f"one of {', '.join(known)}"
            self.report("E119", f"unknown `{name}` {value!r}", remedy)
            return default
        return value

    def hook(self, name: str) -> Hook | None:
        value = self.given.get(name)
        if value is None or isinstance(value, Hook):
            return value
        return make_hook(value, DEFAULT_HOOK_TIMEOUT_MS, self.source)

    def sequence(self, name: str, value: object) -> tuple[Any, ...]:
        """The entries of a list; a lone string is the classic slip."""
        if isinstance(value, Sequence) and not isinstance(value, str | bytes):
            return tuple(cast("Sequence[Any]", value))
        if value is not None:
            self.report("E119", f"`{name}` is a list, not {type(value).__name__}", f"write {name}=[...]")
        return ()

    def struct(self, name: str, kind: type[T], value: object) -> T | None:
        """An option Struct, or a mapping with the same keys."""
        if isinstance(value, kind):
            return value
        if isinstance(value, Mapping):
            try:
                return kind(**cast("Mapping[str, Any]", value))
            except TypeError as wrong:
                self.report("E119", f"`{name}`: {wrong}")
                return None
        self.wrong_type(name, f"a {kind.__name__} or a mapping", value)
        return None
