"""What workflow code may catch.

KiciError
├── DefinitionError       a workflow, job or step is defined wrongly
├── CommandError          a command ended with a non-zero code
├── SecretNotFoundError   no such secret; the message lists what there is
├── OutputError           an output is missing, of the wrong type, or asked for in the wrong way
├── LimitExceededError    a documented limit was reached
├── EventRejectedError    an emitted event was refused
├── WaitForTimeoutError   `wait_for` gave up
├── NotAvailableLocallyError   only an agent can do that
└── CapabilityMissingError     this kici, or its server, is too old or not set up for it
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from kici.spec.errors import KiciError

if TYPE_CHECKING:
    from kici.sdk.problems import Problem

__all__ = [
    "CapabilityMissingError",
    "CommandError",
    "DefinitionError",
    "EventRejectedError",
    "KiciError",
    "LimitExceededError",
    "NotAvailableLocallyError",
    "OutputError",
    "SecretNotFoundError",
    "WaitForTimeoutError",
]


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
    """`command` is masked; `stderr_tail` holds at most the last 20 lines; `duration` is in seconds.

    >>> try:
    ...     await ctx.sh("systemctl is-active nginx")
    ... except CommandError as failed:
    ...     ctx.log.warning("code %d: %s", failed.returncode, failed.stderr_tail)
    """

    code: ClassVar[str] = "command_failed"

    def __init__(
        self, command: str, returncode: int, stderr_tail: Sequence[str] = (), duration: float | None = None
    ) -> None:
        how = f"was killed by signal {-returncode}" if returncode < 0 else f"exited with code {returncode}"
        if duration is not None:
            how += f" after {duration:.1f} s"
        lines = "".join(f"\n  {line}" for line in stderr_tail)
        super().__init__(f"{command} {how}{lines}")
        self.command = command
        self.returncode = returncode
        self.stderr_tail = tuple(stderr_tail)
        self.duration = duration


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


class SecretNotFoundError(KiciError):
    """No secret of that name is within reach; `available` are the names that are.

    >>> try:
    ...     token = await ctx.secrets.get("NPM_TOKEN")
    ... except SecretNotFoundError as missing:
    ...     ctx.log.info("there are only %s", missing.available)
    """

    code: ClassVar[str] = "secret_not_found"

    def __init__(self, key: str, available: Sequence[str] = ()) -> None:
        names = ", ".join(sorted(available)) or "none"
        super().__init__(
            f"there is no secret {key!r} (available: {names}); add it to an environment of this job,"
            " or to .kici/.secrets for `kici run local`"
        )
        self.key = key
        self.available = tuple(sorted(available))


class EventRejectedError(KiciError):
    """An emitted event was refused: too large, too many, too long a chain, or not allowed there.

    >>> try:
    ...     await ctx.emit("deployed", {"env": "prod"})
    ... except EventRejectedError as refused:
    ...     ctx.log.warning("%s", refused)
    """

    code: ClassVar[str] = "event_rejected"


class WaitForTimeoutError(KiciError):
    """`wait_for` gave up: `elapsed` is in seconds, `attempts` counts the checks begun.

    >>> try:
    ...     await wait_for(lambda: probe("https://example.com/health"), timeout="2m")
    ... except WaitForTimeoutError as late:
    ...     ctx.log.error("%s is not up after %d checks", late.name, late.attempts)
    """

    code: ClassVar[str] = "wait_for_timeout"

    def __init__(self, name: str, elapsed: float, attempts: int, last_error: str = "") -> None:
        why = f"; the last check raised {last_error}" if last_error else ""
        checks = "1 check" if attempts == 1 else f"{attempts} checks"
        super().__init__(f"{name!r} was not ready after {elapsed:.1f} s and {checks}{why}")
        self.name = name
        self.elapsed = elapsed
        self.attempts = attempts


class NotAvailableLocallyError(KiciError):
    """Only an agent can do that; `kici run remote` runs on one.

    >>> try:
    ...     await ctx.attest_provenance("wheel", path="dist/app.whl")
    ... except NotAvailableLocallyError:
    ...     ctx.log.info("no attestation in a local run")
    """

    code: ClassVar[str] = "not_available_locally"


class CapabilityMissingError(KiciError):
    """The other side cannot do that: the message says which version has it and who must upgrade.

    >>> try:
    ...     identity = await ctx.kici.oidc.token(audience="sts.example.com")
    ... except CapabilityMissingError as missing:
    ...     ctx.log.warning("%s", missing)
    """

    code: ClassVar[str] = "capability_missing"
