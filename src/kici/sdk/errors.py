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
    """Raised by a constructor when nobody collects problems, as in a test or a REPL.

    >>> try:
    ...     job("empty", runs_on="linux", steps=[])
    ... except DefinitionError as wrong:
    ...     print(wrong.problem.code, wrong.problem.help)
    """

    code: ClassVar[str] = "definition_error"
    status: ClassVar[int] = 400

    def __init__(self, problem: "Problem") -> None:
        super().__init__(problem.text())
        self.problem = problem


class CommandError(KiciError):
    """`command` is masked; `stderr_tail` holds at most the last 20 lines.

    >>> try:
    ...     await ctx.sh("systemctl is-active nginx")
    ... except CommandError as failed:
    ...     ctx.log.warning("code %d: %s", failed.returncode, failed.stderr_tail)
    """

    code: ClassVar[str] = "command_failed"

    def __init__(self, command: str, returncode: int, stderr_tail: Sequence[str] = ()) -> None:
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"
        lines = "".join(f"\n  {line}" for line in stderr_tail)
        super().__init__(f"{command} {how}{lines}")
        self.command = command
        self.returncode = returncode
        self.stderr_tail = tuple(stderr_tail)


class OutputError(KiciError):
    """An output is missing, has another type than declared, or was asked for in the wrong way.

    >>> try:
    ...     version = ctx.outputs_of(build)
    ... except OutputError:
    ...     version = "unknown"
    """

    code: ClassVar[str] = "output_error"


class LimitExceededError(KiciError):
    """A documented limit was reached, such as 1 MiB of outputs per job.

    >>> try:
    ...     await deploy.steps[0](ctx)
    ... except LimitExceededError as reached:
    ...     ctx.log.error("%s", reached)
    """

    code: ClassVar[str] = "limit_exceeded"
