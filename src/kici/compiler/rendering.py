"""Problems as people, programs and GitHub annotations read them (AU-90)."""

from collections.abc import Iterator, Sequence
from typing import Any

from kici.compiler.codes import explanations
from kici.sdk.problems import Problem
from kici.spec import lock, triggers


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
        # Who reads this has no `kici explain` at hand: the code's own remedy when the case brings none.
        "help": problem.help or explanations()[problem.code].remedy,
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


def contents(document: lock.LockFile) -> Iterator[str]:
    """The lock file in short, for `--verbose`: a line per workflow, and what went into all of them."""
    width = max((len(workflow.name) for workflow in document.workflows), default=0)
    for workflow in document.workflows:
        jobs = sum(job.type == "static" for job in workflow.jobs)
        generators = len(workflow.jobs) - jobs
        steps = sum(len(job.steps) for job in workflow.jobs)
        counts = f"{jobs} jobs, {steps} steps" + (f", {generators} generators" if generators else "")
        kinds = ", ".join(dict.fromkeys(kind_of(trigger) for trigger in workflow.triggers)) or "by hand"
        place = f"{workflow.source.file}:{workflow.source.line}"
        yield f"  {workflow.name:{width}}  {counts}; {kinds}; {place}; {workflow.content_hash[:12]}"
    yield (
        f"  {len(document.sources)} source files, Python {document.compiler.requires_python}, "
        f"dependencies {(document.lockfile_hash or 'none')[:12]}"
    )


def kind_of(trigger: triggers.Trigger) -> str:
    """The `_type` of a trigger in the lock file."""
    return str(trigger.__struct_config__.tag)


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
