"""The compiler's side of the child process: starts it, limits it, reads what it says."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
from msgspec import Struct

from kici.compiler.exchange import Loading, Reply, Request, decode_from_child, encode
from kici.sdk.problems import Problem
from kici.sdk.source import SourceLocation
from kici.spec.durations import in_words

IMPORT_LIMIT_S = 30
# Author code sees no secret at compile time, and nothing that differs between machines but these.
_ENVIRONMENT = ("PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR")
_MAX_OUTPUT_SHOWN = 64 << 10

# The workflows' own environment may lack kici; then ours is lent to it.
_BOOTSTRAP = """\
import sys
try:
    from kici.compiler.child import main
except ImportError:
    sys.path += {lent!r}
    from kici.compiler.child import main
main()
"""


class ChildAnswer(Struct, frozen=True, kw_only=True):
    """`reply` is None when the child ended early; then `problem` says why. `output` is what it printed."""

    reply: Reply | None
    problem: Problem | None
    output: str


class Child:
    """One child process at work. It runs from construction on, so that the caller can do something else."""

    def __init__(self, request: Request, *, python: str | None = None) -> None:
        package = Path(__file__).parents[2]
        lent = sorted({str(package), str(Path(msgspec.__file__).parents[1])})
        environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
        self._request = request
        self._process = subprocess.Popen(
            [python or sys.executable, "-s", "-P", "-B", "-c", _BOOTSTRAP.format(lent=lent)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=request.root,
            env={**environment, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1"},
            start_new_session=True,
        )

    def answer(self, *, limit_s: float = IMPORT_LIMIT_S) -> ChildAnswer:
        """Wait for the end. Everything that author code started dies with the child."""
        late = False
        try:
            answers, printed = self._process.communicate(encode(self._request), timeout=limit_s)
        except subprocess.TimeoutExpired:
            late = True
            self.kill()
            answers, printed = self._process.communicate()
        finally:
            self.kill()
        output = printed[-_MAX_OUTPUT_SHOWN:].decode(errors="replace")
        last: Loading | None = None
        for line in answers.splitlines():
            try:
                message = decode_from_child(line)
            except msgspec.DecodeError:
                continue  # cut off by the kill
            if isinstance(message, Reply):  # written after the last import
                return ChildAnswer(reply=message, problem=None, output=output)
            if isinstance(message, Loading):
                last = message
        return ChildAnswer(
            reply=None, problem=self._why(last, late=late, limit_s=limit_s, output=output), output=output
        )

    def kill(self) -> None:
        """End the child and all that it started. Safe to repeat."""
        if self._process.poll() is None:
            self._process.kill()
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            pass

    def _why(self, last: Loading | None, *, late: bool, limit_s: float, output: str) -> Problem:
        where = SourceLocation(file=last.file, line=1) if last else None
        if late:
            return Problem(
                code="E005",
                message=f"importing this file took longer than {in_words(limit_s * 1000)}",
                help="move work from the top of the file into a step",
                source=where,
            )
        if last is None:
            lines = output.strip().splitlines()
            return Problem(
                code="E003",
                message=f"the workflows' Python could not start: {lines[-1] if lines else 'no reason given'}",
                help=f"run `uv sync` in .kici; the interpreter is {self._process.args[0]}",  # type: ignore[index]
            )
        code = self._process.returncode
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return Problem(
            code="E003",
            message=f"importing this file ended the interpreter with {how}",
            help="a workflow file only defines things; do the work in a step",
            source=where,
        )
