"""Option values of jobs, steps and workflows. Each may also be written as a mapping with the same keys."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from msgspec import Struct

from kici.sdk.context import ConcurrencyContext
from kici.sdk.values import Duration, Maybe, Patterns

RetryIf = type[Exception] | tuple[type[Exception], ...] | Callable[[Exception], bool]


class Runner(Struct, frozen=True, kw_only=True):
    """Which agents may take a job: all `labels`, none of `exclude` (AU-18).

    >>> Runner(labels=["kici:os:linux", "gpu-*"], exclude="!slow", pick="any")
    """

    labels: Patterns
    exclude: Patterns = ()
    pick: Literal["deterministic", "any"] = "deterministic"


class Retry(Struct, frozen=True, kw_only=True):
    """How often and when a failed step runs again (AU-30). `attempts` counts the first one.

    >>> Retry(attempts=3, delay="2s", retry_if=ConnectionError)
    """

    attempts: int
    delay: Duration = 1
    max_delay: Duration = 30
    backoff: Literal["exponential", "fixed"] = "exponential"
    retry_if: RetryIf | None = None


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """A `Retry` after validation."""

    attempts: int
    delay_ms: int = 1_000
    max_delay_ms: int = 30_000
    backoff: Literal["exponential", "fixed"] = "exponential"
    retry_if: RetryIf | None = None

    def wait_ms(self, attempt: int) -> int:
        """The pause after failed attempt `attempt`, counted from 1."""
        if self.backoff == "fixed":
            return min(self.delay_ms, self.max_delay_ms)
        return min(self.delay_ms << min(attempt - 1, 40), self.max_delay_ms)

    def wants(self, error: Exception) -> bool:
        """Whether this failure may be tried again."""
        match self.retry_if:
            case None:
                return True
            case type() | tuple() as kinds:
                return isinstance(error, kinds)
            case decide:
                return bool(decide(error))


class CacheKey(Struct, frozen=True, kw_only=True):
    """A cache key that is completed on the agent: prefix, parts and the digest of `files`.

    >>> key: CacheKey = cache_key("uv", "3.12", files=["uv.lock"])
    """

    prefix: str
    parts: tuple[str, ...] = ()
    files: tuple[str, ...] = ()


class Cache(Struct, frozen=True, kw_only=True):
    """Files kept between runs (AU-58). `paths` are relative to the repository, or begin with `~`.

    >>> Cache(key=cache_key("pip", files=["uv.lock"]), paths=["~/.cache/uv"], restore_keys=["pip-"])
    """

    key: str | CacheKey
    paths: Sequence[str]
    restore_keys: Sequence[str] = ()


class Container(Struct, frozen=True, kw_only=True):
    """The image a job runs in; `env` wins over the job's (AU-55).

    >>> Container(image="python:3.12-slim", env={"TZ": "UTC"})
    """

    image: str
    env: Mapping[str, str] = {}


class Amount(Struct, frozen=True, kw_only=True):
    """`memory` as 512m, 4g, 2048k, or in bytes; `cpus` more than 0, at most 256.

    >>> Amount(memory="2g", cpus=1.5)
    """

    memory: str | int | None = None
    cpus: float | None = None


class Resources(Struct, frozen=True, kw_only=True):
    """What a job asks for and what it may take at most; one side mirrors the other (AU-56).

    >>> Resources(requests=Amount(memory="1g"), limits=Amount(memory="4g", cpus=2))
    """

    requests: Amount | None = None
    limits: Amount | None = None


class Init(Struct, frozen=True, kw_only=True):
    """A script that prepares the job after the clone and before its steps (AU-57).

    >>> Init(run="./install-tools.sh", timeout="5m", env={"QUIET": "1"})
    """

    run: str
    shell: str = "bash"
    cache: Cache | None = None
    timeout: Duration = "10m"
    env: Mapping[str, str] = {}


class Preset(Struct, frozen=True, kw_only=True):
    """A toolchain prepared by name. Made by `mise` and `uv`.

    >>> toolchain: Preset = mise()
    """

    name: Literal["auto", "mise", "uv"]
    cache: Cache | bool = True
    timeout: Duration = "10m"
    env: Mapping[str, str] = {}
    shell: str = "bash"
    python: str | None = None
    groups: tuple[str, ...] = ()


class Concurrency(Struct, frozen=True, kw_only=True):
    """At most `max` runs of one group at a time (AU-59); the newer one cancels, or queues.

    >>> Concurrency(group=lambda c: f"deploy-{c.ref}", cancel_in_progress=False)
    """

    group: str | Callable[[ConcurrencyContext], Maybe[str]]
    cancel_in_progress: bool = True
    max: int = 1


class Approver(Struct, frozen=True, kw_only=True):
    """One clause of an approval. Made by `team` and `user`.

    >>> either: list[Approver] = [team("sre"), user("ada")]
    """

    team: str = ""
    user: str = ""


class Approval(Struct, frozen=True, kw_only=True):
    """People who must agree before it runs (AU-60). Clauses are joined by AND.

    >>> Approval(approvers=[team("sre")], reason="production", timeout="1d")
    """

    approvers: Sequence[Approver] = ()
    reason: str = ""
    timeout: Duration | None = None
    when: Literal["always", "drift"] = "always"


class Registry(Struct, frozen=True, kw_only=True):
    """A private Python index for the dependencies of `.kici` (AU-61).

    >>> Registry(url="https://pypi.example.com/simple", token_secret="build:PYPI_TOKEN")
    """

    url: str
    token_secret: str
    name: str | None = None
    username: str = "__token__"


class Hosts(Struct, frozen=True, kw_only=True):
    """`runs_on_all`: an OR of AND groups of labels (AU-20).

    >>> Hosts(include=[["role:web", "zone:a"], "role:edge"], exclude="draining")
    """

    include: Sequence[Patterns]
    exclude: Patterns = ()
