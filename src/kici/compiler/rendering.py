"""Problems as people, programs and GitHub annotations read them (AU-90)."""

from collections.abc import Sequence
from typing import Any

from kici.sdk.problems import Problem


def as_text(problem: Problem) -> str:
    """`path:line:col: error[E102]: message`, then `  help: …`."""
    return problem.text()


def as_annotation(problem: Problem) -> str:
    """One workflow command of GitHub Actions."""
    where = problem.source
    place = f" file={_property(where.file)},line={where.line},col={where.column}," if where else " "
    text = f"{problem.message}\n{problem.help}" if problem.help else problem.message
    level = "notice" if problem.severity == "note" else problem.severity
    return f"::{level}{place}title={problem.code}::{_data(text)}"


def as_object(problem: Problem) -> dict[str, Any]:
    """A row of the JSON document."""
    where = problem.source
    return {
        "code": problem.code,
        "severity": problem.severity,
        "message": problem.message,
        "help": problem.help,
        "file": where.file if where else None,
        "line": where.line if where else None,
        "column": where.column if where else None,
    }


def summary(problems: Sequence[Problem]) -> str:
    """`2 errors, 1 warning`."""
    counts = [
        (kind, sum(problem.severity == kind for problem in problems))
        for kind in ("error", "warning", "note")
    ]
    return ", ".join(f"{count} {kind}{'s' if count != 1 else ''}" for kind, count in counts if count)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
