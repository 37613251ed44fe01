"""What workflow code may catch.

KiciError
├── DefinitionError       a workflow, job or step is defined wrongly
├── CommandError          a command ended with a non-zero code
├── OutputError           an output is missing, of the wrong type, or asked for in the wrong way
└── LimitExceededError    a documented limit was reached
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kici.spec.errors import KiciError

if TYPE_CHECKING:
    from kici.sdk.problems import Problem

__all__ = ["CommandError", "DefinitionError", "KiciError", "LimitExceededError", "OutputError"]


class DefinitionError(KiciError):
    """Raised by a constructor when nobody collects problems, as in a test or a REPL."""

    code: ClassVar[str] = "definition_error"
    status: ClassVar[int] = 400

    def __init__(self, problem: "Problem") -> None:
        super().__init__(problem.text())
        self.problem = problem


class CommandError(KiciError):
    """`command` is masked; `stderr_tail` holds at most the last 20 lines."""

    code: ClassVar[str] = "command_failed"

    def __init__(self, command: str, returncode: int, stderr_tail: Sequence[str] = ()) -> None:
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"
        lines = "".join(f"\n  {line}" for line in stderr_tail)
        super().__init__(f"{command} {how}{lines}")
        self.command = command
        self.returncode = returncode
        self.stderr_tail = tuple(stderr_tail)


class OutputError(KiciError):
    code: ClassVar[str] = "output_error"


class LimitExceededError(KiciError):
    code: ClassVar[str] = "limit_exceeded"
