"""The parts of `ctx` that are reached through a name of their own: `ctx.log`, `ctx.secrets`, outputs, …"""

from collections.abc import Coroutine, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from kici.sdk.results import CacheHit, HostFacts, OidcToken, SecretMeta
from kici.sdk.values import Duration, Patterns

if TYPE_CHECKING:
    from pathlib import Path

    from kici.sdk.definitions import Cache, Step

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class JobOutputs(Protocol):
    """Outputs of a job with several steps, one step at a time.

    >>> version = ctx.job_outputs(package).of(build)
    """

    def of(self, step: "Step[R]", /) -> R: ...


class MatrixOutputs(Protocol[R_co]):
    """Outputs of a fanned-out job. `merged` joins mappings and structs, the last name in order wins.

    >>> for combination, outputs in ctx.matrix_outputs(package).by_matrix.items():
    ...     ctx.log.info("%s: %s", combination, outputs.of(build))
    """

    @property
    def by_matrix(self) -> Mapping[str, R_co]: ...
    @property
    def merged(self) -> Mapping[str, Any]: ...


class HostOutputs(Protocol[R_co]):
    """Outputs of a job with `runs_on_all`, by agent id. `succeeded` and `failed` name hosts.

    >>> for host, value in ctx.host_outputs(deploy).by_host.items():
    ...     ctx.log.info("%s: %s", host, value)
    """

    @property
    def by_host(self) -> Mapping[str, R_co]: ...
    @property
    def succeeded(self) -> Sequence[str]: ...
    @property
    def failed(self) -> Sequence[str]: ...
    def column(self, key: str, /) -> Mapping[str, Any]:
        """One key of every host's output, by host."""
        ...


class Log(Protocol):
    """Lines of the step's log. `args` are applied with `%`, as in the logging module."""

    def debug(self, msg: str, /, *args: object) -> None: ...
    def info(self, msg: str, /, *args: object) -> None: ...
    def warning(self, msg: str, /, *args: object) -> None: ...
    def error(self, msg: str, /, *args: object) -> None: ...
    def group(self, title: str, /) -> AbstractContextManager[None]:
        """Everything logged inside folds under the title."""
        ...

    def add_mask(self, value: str, /) -> None:
        """Replace the value with *** in all that is logged from now on."""
        ...


class Secrets(Protocol):
    """Secrets of the job's environments and of jobs it needs. Nothing is injected unasked.

    Values are masked in logs; names that were read are reported. Files vanish however the step ends.
    """

    def get(self, key: str, /) -> Coroutine[Any, Any, str]:
        """The value. SecretNotFoundError lists the names there are."""
        ...

    def expose(self, key: str, /, *, as_: str | None = None) -> Coroutine[Any, Any, None]:
        """Set it in the environment of this step only, as `key` or `as_`."""
        ...

    def has(self, key: str, /) -> Coroutine[Any, Any, bool]: ...
    def list(self) -> Coroutine[Any, Any, list[str]]:
        """The names there are."""
        ...

    def get_meta(self, key: str, /) -> Coroutine[Any, Any, SecretMeta]:
        """Where it comes from; never the value."""
        ...

    def mount_file(
        self,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> Coroutine[Any, Any, "Path"]:
        """A file that holds the secrets, joined by `divider`."""
        ...

    def expose_file(
        self,
        env_var: str,
        sources: str | Sequence[str],
        /,
        *,
        divider: str = "",
        mode: int = 0o600,
        name: str | None = None,
    ) -> Coroutine[Any, Any, "Path"]:
        """`mount_file`, with the path in the step's environment."""
        ...


class CacheAccess(Protocol):
    """Caches by hand; most steps use the `cache` option instead (AU-58)."""

    def restore(self, spec: "Cache | Mapping[str, Any]", /) -> Coroutine[Any, Any, CacheHit]: ...
    def save(self, spec: "Cache | Mapping[str, Any]", /) -> Coroutine[Any, Any, bool]:
        """False when an entry of that key is there already: entries are written once."""
        ...


class Inventory(Protocol):
    """Hosts that agents registered. Labels are filtered on the server, properties in Python."""

    def query(self, include: Patterns = (), exclude: Patterns = ()) -> Coroutine[Any, Any, list[HostFacts]]:
        """Hosts that have all labels of `include` and none of `exclude`, by agent id."""
        ...

    def get(self, id: str, /) -> Coroutine[Any, Any, HostFacts]: ...


class Infrastructure(Protocol):
    def list(self) -> Coroutine[Any, Any, list[HostFacts]]:
        """Every host the orchestrator knows, online or not."""
        ...


class Oidc(Protocol):
    def token(self, *, audience: str) -> Coroutine[Any, Any, OidcToken]:
        """An identity of about ten minutes for a service that trusts this kici."""
        ...


class HostControl(Protocol):
    def request_reboot(self, *, deadline: Duration | None = None) -> Coroutine[Any, Any, None]:
        """Restart the machine when this job ended."""
        ...


class Kici(Protocol):
    """What kici itself offers to a step."""

    @property
    def inventory(self) -> Inventory: ...
    @property
    def infrastructure(self) -> Infrastructure: ...
    @property
    def oidc(self) -> Oidc: ...
    @property
    def host(self) -> HostControl: ...
