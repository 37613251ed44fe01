"""`.kici/kici.lock.json`: what the compiler writes and the orchestrator reads (AU-95…101).

Readers ignore unknown keys. A missing `schemaVersion` makes the document corrupt. Durations are
integer milliseconds; no secret value ever stands here.
"""

from typing import Any, Literal

from msgspec import Struct, field

from kici.spec.triggers import Trigger

LOCK_PATH = ".kici/kici.lock.json"
SCHEMA_VERSION = 1
MIN_SCHEMA_VERSION = 1
COMPILE_SCHEMA_VERSION = 1  # enters every contentHash (AU-99)


class SourceLocation(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    file: str  # relative to the repository root, "/" separators
    line: int = 0
    column: int = 0
    export: str | None = None  # "#ci": the module-level name that holds the workflow
    index: int | None = None


class LabelMatcher(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`exact` uses `value`; `regex` uses `source` and `flags` (globs compile to regex)."""

    kind: Literal["exact", "regex"]
    value: str = ""
    source: str = ""
    flags: str = ""


class Inline(Struct, frozen=True, kw_only=True, rename="camel", tag_field="_type", tag="inline"):
    """A pure function of the author's as an expression tree, run by `kici.engine.expressions` (AU-41)."""

    expression: Any


class Rule(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`negate` for skip(): True skips. Without `inline` only author code can tell: it runs on an agent."""

    label: str
    negate: bool = False
    inline: Inline | None = None


class StepRef(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A module-level step or hook of author code, and the parameters bound to it: how generated jobs
    travel (AU-44). `module` as Python imports it with `.kici` on the path; `name` is qualified."""

    module: str
    name: str
    params: dict[str, Any] = {}
    timeout: int | None = None  # of a hook


class Cache(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`key` literal, or `prefix`, `parts` and the digest of `files` joined on the agent (AU-58)."""

    paths: list[str]
    key: str = ""
    prefix: str = ""
    parts: list[str] = []
    files: list[str] = []
    restore_keys: list[str] = []


class Init(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`preset` (auto, mise, uv) with `options`, or a script `run`."""

    preset: Literal["", "auto", "mise", "uv"] = ""
    run: str = ""
    shell: str = "bash"
    cache: Cache | None = None
    use_cache: bool = True  # a preset may have its cache switched off
    timeout: int = 600_000
    env: dict[str, str] = {}
    options: dict[str, Any] = {}  # uv: python, groups


class Amount(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    memory_bytes: int | None = None
    cpus: float | None = None


class Resources(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    requests: Amount | None = None
    limits: Amount | None = None


class Container(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    image: str
    env: dict[str, str] = {}


class Approver(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """One clause: exactly one of both."""

    team: str = ""
    user: str = ""


class Approval(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    clauses: list[Approver] = []  # empty: anyone allowed to approve
    when: Literal["always", "drift"] = "always"
    reason: str = ""
    timeout_seconds: int | None = None


class Concurrency(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`has_group` with no `group`: an impure function, evaluated by an `__init__` job."""

    has_group: bool = True
    group: str | Inline | None = None
    cancel_in_progress: bool = True
    max: int = 1


class HostSelection(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`runs_on_all`: an OR of AND groups."""

    include: list[list["LabelMatcher"]] = []
    exclude: list["LabelMatcher"] = []


class Registry(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A private Python index; `token_secret` is `<environment>:<secret>` (AU-61)."""

    url: str
    token_secret: str
    name: str = ""
    username: str = "__token__"


class Need(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    run_on: list[str]  # job statuses that satisfy the edge
    name: str = ""  # base job name: a matrix counts once all its children ended
    group: str = ""


class Matrix(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    type: Literal["static", "dynamic"] = field(name="_type", default="static")
    values: dict[str, list[str | int | float | bool]] = {}  # the bare-list form uses the key "value"


class Retry(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    attempts: int
    delay: int = 1000
    max_delay: int = 30_000
    backoff: Literal["exponential", "fixed"] = "exponential"


class LockStep(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    source_location: SourceLocation
    has_outputs: bool = False
    timeout: int | None = None
    retry: Retry | None = None
    continue_on_error: bool = False
    parallel_group: str = ""  # name of the group; the list is flat, a step's index is its place in it
    parallel_fail_fast: bool = True
    parallel_max: int | None = None
    rules: list[Rule] = []
    cache: list[Cache] = []
    approval: Approval | None = None
    has_check: bool = False
    has_when_in_sync: bool = False
    restarts_host: bool = False
    has_on_cancel: bool = False
    has_cleanup: bool = False
    ref: StepRef | None = None  # steps of generated jobs only


class DynamicValue(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`value` when literal, `inline` when pure; `dynamic` alone: an `__init__` job works it out."""

    value: str = ""
    dynamic: bool = False
    inline: Inline | None = None


class LockJob(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`type` dynamic: a generator; `name` is its group (or `dynamic-N`), `source.index` its place among the
    workflow's generators, and `needs` what must end before it runs. `generated`: what a generator made,
    never in a lock file, with `ref` in every step and `hooks` by kind (`onSuccess`, `beforeStep`, …)."""

    type: Literal["static", "dynamic"] = field(name="_type", default="static")
    name: str
    source: SourceLocation
    runs_on: list[LabelMatcher] = []
    exclude_labels: list[LabelMatcher] = []
    runs_on_pick: Literal["deterministic", "any"] = "deterministic"
    needs: list[Need] = []
    matrix: Matrix | None = None
    include: list[dict[str, str | int | float | bool]] = []
    exclude: list[dict[str, str | int | float | bool]] = []
    max_parallel: int | None = None
    fail_fast: bool = False
    steps: list[LockStep] = []
    env: dict[str, str] = {}
    environments: list[DynamicValue] = []
    checkout: bool = True
    container: Container | None = None
    resources: Resources | None = None
    timeout: int | None = None
    grace_period: int | None = None
    description: str = ""
    has_on_cancel: bool = False
    has_cleanup: bool = False
    has_on_success: bool = False
    has_on_failure: bool = False
    has_before_step: bool = False
    has_after_step: bool = False
    rules: list[Rule] = []
    init: list[Init] = []
    init_off: bool = False  # init=False was written
    cache: list[Cache] = []
    approval: Approval | None = None
    runs_on_all: HostSelection | None = None
    on_unreachable: Literal["hold", "skip", "fail"] = "hold"
    include_uninitialized: bool = False
    inline_env: Inline | None = None  # a pure function; `env` is then empty
    dynamic_env: bool = False  # an impure one
    concurrency_group: str | Inline | None = None
    dynamic_concurrency_group: bool = False
    group: str = ""  # generators, and the jobs they made
    generated: bool = False
    hooks: dict[str, StepRef] = {}


class LockWorkflow(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    name: str
    source: SourceLocation
    content_hash: str
    compile_schema_version: int
    triggers: list[Trigger]
    jobs: list[LockJob]
    description: str = ""
    hash_files: list[str] = []
    resolved_hash_files: list[str] = []
    timeout: int | None = None
    rules: list[Rule] = []
    registries: list[Registry] = []
    install_env: list[str] = []
    concurrency: Concurrency | None = None
    approval: Approval | None = None
    has_on_cancel: bool = False
    has_cleanup: bool = False
    has_on_success: bool = False
    has_on_failure: bool = False


class SourceHash(Struct, frozen=True, kw_only=True, rename="camel"):
    path: str
    sha256: str


class CompilerInfo(Struct, frozen=True, kw_only=True, rename="camel"):
    sdk_version: str
    sdk_bundle_hash: str
    requires_python: str


class LockFile(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    schema_version: int
    source: str  # ".kici/workflows"
    compiler: CompilerInfo
    content_hash: str
    sources: list[SourceHash]
    workflows: list[LockWorkflow]
    lockfile_hash: str | None = None
