"""The compiler: read → import in a child → shape → graph → lock (AU-91). One call does it all.

Nothing is written here; `lockfile.write` does that with the bytes of a successful compilation.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from kici.compiler import lockfile
from kici.compiler.content import KICI_DIR, LOCK_NAME, read_contents, resolve_hash_files, source_paths
from kici.compiler.exchange import Request, ShapedFixture, ShapedWorkflow
from kici.compiler.known import KnownNames
from kici.compiler.project import Project, needs_sync, python_of, sync
from kici.compiler.reading import FileReading
from kici.compiler.worker import IMPORT_LIMIT_S, Child, ChildAnswer
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec import lock

WORKFLOWS = f"{KICI_DIR}/workflows"


class Compiled(Struct, frozen=True, kw_only=True):
    """`document` and `data` are there exactly when no problem is an error, except for errors of fixtures where
    those were asked to stop nothing. `output` is what author code printed while it was imported. `fixtures`
    are those without errors."""

    problems: list[Problem]
    document: lock.LockFile | None = None
    data: bytes | None = None
    output: str = ""
    fixtures: list[ShapedFixture] = []

    @property
    def errors(self) -> list[Problem]:
        return [problem for problem in self.problems if problem.severity == "error"]


def find_kici_dir(start: Path) -> Path | None:
    """The nearest `.kici` at or above `start`."""
    for folder in (start, *start.parents):
        if (folder / KICI_DIR).is_dir():
            return folder / KICI_DIR
    return None


def workflow_files(kici_dir: Path) -> list[Path]:
    """`workflows/*.py` but `_*.py`, sorted. Raises OSError."""
    with os.scandir(kici_dir / "workflows") as entries:
        names = [
            entry.name
            for entry in entries
            if entry.name.endswith(".py") and not entry.name.startswith(("_", ".")) and entry.is_file()
        ]
    return [kici_dir / "workflows" / name for name in sorted(names)]


def compile_repository(
    kici_dir: Path,
    *,
    compiler: lock.CompilerInfo,
    announce: Callable[[str], None] | None = None,
    import_limit_s: float = IMPORT_LIMIT_S,
    fixtures_may_fail: bool = False,
) -> Compiled:
    """Compile the workflows of one repository. `kici_dir` is `<root>/.kici`.

    `compiler` says which build does it; its `requires_python` is filled in here. With `announce` the
    dependencies are synced first when their lock changed (AU-96), told in one line; without it never.
    With `fixtures_may_fail` errors in `.kici/tests` are told, and the workflows compile all the same.
    Raises SyncFailed.
    """
    kici_dir = Path(os.path.realpath(kici_dir))
    root = kici_dir.parent
    project = Project(kici_dir)
    problems = list(project.check(compiler.sdk_version))
    newer = lockfile.written_by_newer(kici_dir / LOCK_NAME)
    if newer is not None:
        problems.append(
            Problem(
                code="E702",
                message=f"the lock file has schema version {newer}, this kici writes {lock.SCHEMA_VERSION}",
                help="upgrade kici",
                source=SourceLocation(file=lock.LOCK_PATH, line=1),
            )
        )
    readings = _read_files(kici_dir, root, problems)
    if not readings or _has_errors(problems):
        return Compiled(problems=_sorted(problems))
    sources = read_contents(root, source_paths(root))
    helpers = _read_helpers(root, sources, readings)
    for reading in helpers:
        problems.extend(problem for problem in reading.problems if problem.severity != "error")
    fixtures = _fixture_files(kici_dir, root)
    if announce is not None and needs_sync(kici_dir):
        announce("Syncing the dependencies of .kici")
        sync(kici_dir)
    child = Child(
        Request(
            root=str(root),
            kici_dir=str(kici_dir),
            files=[reading.file for reading in readings],
            uses=[use for reading in (*readings, *helpers) for use in reading.uses],
            fixture_files=fixtures,
        ),
        python=python_of(kici_dir),
    )
    try:
        from kici.compiler import checks  # while the child imports: it loads RE2

        answer = child.answer(limit_s=import_limit_s)
    finally:
        child.kill()
    shaped = _shaped(answer, problems)
    for workflow in shaped:
        problems.extend(checks.check(workflow))
    names = KnownNames.read(kici_dir)
    if names is not None:
        secrets = [use for reading in (*readings, *helpers) for use in reading.secrets]
        problems.extend(names.check(shaped, secrets))
    hash_files = _hash_files(root, shaped, problems)
    if _has_errors(problems, but_fixtures=fixtures_may_fail):
        return Compiled(problems=_sorted(problems), output=answer.output)
    document = lockfile.assemble(
        root,
        [workflow.lock for workflow in shaped],
        sources=sources,
        hash_files=hash_files,
        compiler=lock.CompilerInfo(
            sdk_version=compiler.sdk_version,
            sdk_bundle_hash=compiler.sdk_bundle_hash,
            requires_python=project.requires_python,
        ),
    )
    data = lockfile.encode(document)
    problems.extend(_too_large(document, data))
    if _has_errors(problems, but_fixtures=fixtures_may_fail):
        return Compiled(problems=_sorted(problems), output=answer.output)
    return Compiled(
        problems=_sorted(problems),
        document=document,
        data=data,
        output=answer.output,
        fixtures=answer.reply.fixtures if answer.reply else [],
    )


def check_against_disk(kici_dir: Path, compiled: Compiled) -> Problem | None:
    """E701 when the lock file on disk is not what `compiled` holds (AU-97)."""
    if compiled.document is None:
        return None
    why = lockfile.stale(kici_dir / LOCK_NAME, compiled.document)
    if why is None:
        return None
    return Problem(
        code="E701",
        message=f"the lock file is out of date: {why.text()}",
        help="run `kici compile` and commit .kici/kici.lock.json",
        source=SourceLocation(file=lock.LOCK_PATH, line=1),
    )


def _read_files(kici_dir: Path, root: Path, problems: list[Problem]) -> list[FileReading]:
    try:
        files = workflow_files(kici_dir)
        contents = [file.read_bytes() for file in files]
    except OSError as wrong:
        reason = wrong.strerror or str(wrong)
        problems.append(Problem(code="E001", message=f"{WORKFLOWS}: {reason}", help="run `kici init`"))
        return []
    if not files:
        problems.append(
            Problem(code="E001", message=f"{WORKFLOWS} holds no workflow file", help="run `kici init`")
        )
    readings = [
        FileReading(str(file), file.relative_to(root).as_posix(), content)
        for file, content in zip(files, contents, strict=True)
    ]
    for reading in readings:
        problems.extend(reading.problems)
    return readings


def _read_helpers(
    root: Path, sources: Sequence[tuple[str, bytes]], readings: Sequence[FileReading]
) -> list[FileReading]:
    """Modules that workflows may import: steps stand there, too. Those that import nothing may be anything."""
    workflows = {reading.shown for reading in readings}
    return [
        FileReading(str(root / path), path, content)
        for path, content in sources
        if path.endswith(".py") and path not in workflows
    ]


def _fixture_files(kici_dir: Path, root: Path) -> list[str]:
    """Python files below `tests` that make fixtures; others belong to pytest and are not imported."""
    found: list[str] = []
    for file in sorted((kici_dir / "tests").rglob("*.py")):
        try:
            reading = FileReading(str(file), file.relative_to(root).as_posix(), file.read_bytes())
        except OSError:
            continue
        if reading.mentions_fixtures or reading.problems_of("E002"):
            found.append(str(file))
    return found


def _shaped(answer: ChildAnswer, problems: list[Problem]) -> list[ShapedWorkflow]:
    if answer.reply is None:
        problems.extend([answer.problem] if answer.problem else [])
        return []
    problems.extend(answer.reply.problems)
    return answer.reply.workflows


def _hash_files(
    root: Path, shaped: Sequence[ShapedWorkflow], problems: list[Problem]
) -> dict[str, list[str]]:
    found = resolve_hash_files(
        root, {pattern for workflow in shaped for pattern in workflow.lock.hash_files}
    )
    for workflow in shaped:
        problems.extend(
            Problem(
                code="W606",
                message=f"workflow {workflow.lock.name!r}: `hash_files` pattern {pattern!r} matches nothing",
                help="correct it, or remove it",
                source=workflow.source,
                severity="warning",
            )
            for pattern in workflow.lock.hash_files
            if not found[pattern]
        )
    return found


def _too_large(document: lock.LockFile, data: bytes) -> list[Problem]:
    if len(data) <= lockfile.MAX_BYTES and len(document.workflows) <= lockfile.MAX_WORKFLOWS:
        return []
    return [
        Problem(
            code="E703",
            message=f"{len(document.workflows)} workflows make a lock file of {len(data)} bytes "
            f"(at most {lockfile.MAX_WORKFLOWS} and {lockfile.MAX_BYTES})",
            help="split the repository's workflows, or generate fewer",
        )
    ]


def is_of_fixtures(problem: Problem) -> bool:
    """Whether it stands in `.kici/tests`."""
    return problem.source is not None and problem.source.file.startswith(f"{KICI_DIR}/tests/")


def _has_errors(problems: Sequence[Problem], *, but_fixtures: bool = False) -> bool:
    return any(
        problem.severity == "error" and not (but_fixtures and is_of_fixtures(problem))
        for problem in problems
    )


def _sorted(problems: Sequence[Problem]) -> list[Problem]:
    """By place, each once: a helper that two files use reports its mistakes twice."""

    def place(problem: Problem) -> tuple[str, int, int, str, str]:
        where = problem.source or SourceLocation(file="", line=0)
        return (where.file, where.line, where.column, problem.code, problem.message)

    return sorted({place(problem): problem for problem in problems}.values(), key=place)
