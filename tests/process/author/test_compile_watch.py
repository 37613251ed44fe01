"""`kici compile --watch` as a process that people start and interrupt (AU-95)."""

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import IO

import pytest

from tests.support.repository import Repository

pytestmark = pytest.mark.process

FINE = 'a = job("a", runs_on="linux", steps=[build])'


class Watching:
    """A running `kici compile --watch`; every line it prints, in order, whatever stream it is on."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self._lines: Queue[str | None] = Queue()
        assert process.stdout is not None
        Thread(target=self._read, args=(process.stdout,), daemon=True).start()

    def _read(self, stream: IO[str]) -> None:
        for line in stream:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def line(self) -> str | None:
        return self._lines.get(timeout=60)


@contextmanager
def watching(root: Path, *flags: str) -> Generator[Watching]:
    with subprocess.Popen(
        [sys.executable, "-m", "kici.cli.main", "compile", "--watch", "--no-sync", *flags],
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as process:
        try:
            yield Watching(process)
        finally:
            process.kill()


def test_each_change_is_compiled_and_ctrl_c_ends_it_well(tmp_path: Path) -> None:
    """AU-95: all of .kici is watched, a helper too; one line per compilation; exit 0."""
    repository = Repository(tmp_path).workflow("import helper\n" + FINE).write({"helper.py": "VALUE = 1\n"})
    with watching(tmp_path) as kici:
        assert kici.line() == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow)"
        first = (repository.kici_dir / "kici.lock.json").read_bytes()
        repository.write({"helper.py": "VALUE = 2222\n"})
        assert kici.line() == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow)"
        assert (repository.kici_dir / "kici.lock.json").read_bytes() != first
        repository.write({"workflows/other.py": "x ="})
        assert kici.line() == ".kici/workflows/other.py:1:4: error[E002]: syntax error: invalid syntax"
        assert kici.line() == f"  help: Python {sys.version_info[0]}.{sys.version_info[1]} reads it"
        assert kici.line() == "✗ 1 error"
        (repository.kici_dir / "workflows/other.py").unlink()
        assert kici.line() == "✓ Compiled workflows → .kici/kici.lock.json (1 workflow, unchanged)"
        kici.process.send_signal(signal.SIGINT)
        assert kici.line() is None
        assert kici.process.wait(30) == 0


@pytest.mark.parametrize("flag", ["--check", "--json"])
def test_watching_is_for_people(tmp_path: Path, flag: str) -> None:
    """AU-136: nonsense on the command line is exit 2."""
    Repository(tmp_path).workflow(FINE)
    with watching(tmp_path, flag) as kici:
        assert kici.line() == "error: --watch goes with neither --check nor --json"
        assert kici.process.wait(30) == 2
