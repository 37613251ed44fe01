"""The workflows of the working tree as of now. The lock file on disk is neither read nor written."""

import re
import sys
from collections.abc import Collection
from fnmatch import fnmatchcase
from pathlib import Path

from kici.compiler import rendering
from kici.compiler.exchange import ShapedFixture
from kici.compiler.pipeline import compile_repository, is_of_fixtures
from kici.runtime.buildinfo import build_info
from kici.sdk.problems import Problem
from kici.spec.lock import CompilerInfo, LockFile


class CompileFailed(Exception):
    """Problems were printed; nothing runs."""


_EVERY = "*"
_ID = re.compile(r"fixture '([^']+)'")


def compiled(folder: Path, *, chosen: str | None = _EVERY) -> tuple[LockFile, list[ShapedFixture]]:
    """With the fixtures of `.kici/tests`; errors of others than `chosen` (an id or a glob, None for none) are
    counted and stop nothing. Blocking. Problems go to stderr. Raises CompileFailed, SyncFailed."""
    build = build_info()
    result = compile_repository(
        folder,
        compiler=CompilerInfo(
            sdk_version=build.sdk_version, sdk_bundle_hash=build.sdk_bundle_hash, requires_python=""
        ),
        announce=lambda line: print(line, file=sys.stderr),
        fixtures_may_fail=True,
    )
    good = {fixture.id for fixture in result.fixtures}
    others = [
        problem
        for problem in result.errors
        if is_of_fixtures(problem) and not _concerns(problem, chosen, good)
    ]
    if result.output:
        sys.stderr.write(result.output)
    shown = [problem for problem in result.problems if problem not in others]
    for problem in shown:
        if problem.severity == "note":
            continue  # about pushing, not about running here
        print(rendering.as_text(problem), file=sys.stderr)
    if result.document is None or any(problem.severity == "error" for problem in shown):
        print(f"✗ {rendering.summary(shown)}", file=sys.stderr)
        raise CompileFailed
    if others:
        print(
            f"warning: other fixtures of .kici/tests have {rendering.summary(others)}: "
            "`kici compile --check` shows them",
            file=sys.stderr,
        )
    return result.document, result.fixtures


def _concerns(problem: Problem, chosen: str | None, good: Collection[str]) -> bool:
    """Whether a fixture with this error was chosen, or may have been: a file that cannot be imported hides its
    ids."""
    if chosen is None:
        return False
    named = _ID.search(problem.message)
    if named is None:
        return chosen not in good
    return named[1] == chosen or (chosen not in good and fnmatchcase(named[1], chosen))
