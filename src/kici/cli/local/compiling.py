"""The workflows of the working tree as of now. The lock file on disk is neither read nor written."""

import sys
from pathlib import Path

from kici.compiler import rendering
from kici.compiler.exchange import ShapedFixture
from kici.compiler.pipeline import compile_repository
from kici.runtime.buildinfo import build_info
from kici.spec.lock import CompilerInfo, LockFile


class CompileFailed(Exception):
    """Problems were printed; nothing runs."""


def compiled(folder: Path) -> tuple[LockFile, list[ShapedFixture]]:
    """With the fixtures of `.kici/tests`. Blocking. Problems go to stderr. Raises CompileFailed, SyncFailed."""
    build = build_info()
    result = compile_repository(
        folder,
        compiler=CompilerInfo(
            sdk_version=build.sdk_version, sdk_bundle_hash=build.sdk_bundle_hash, requires_python=""
        ),
        announce=lambda line: print(line, file=sys.stderr),
    )
    if result.output:
        sys.stderr.write(result.output)
    for problem in result.problems:
        if problem.severity == "note":
            continue  # about pushing, not about running here
        print(rendering.as_text(problem), file=sys.stderr)
    if result.document is None:
        print(f"✗ {rendering.summary(result.problems)}", file=sys.stderr)
        raise CompileFailed
    return result.document, result.fixtures
