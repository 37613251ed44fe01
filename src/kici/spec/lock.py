"""`.kici/kici.lock.json`: what the compiler writes and the orchestrator reads (AU-95…101).

Readers ignore unknown keys. A missing `schemaVersion` makes the document corrupt. Durations are
integer milliseconds; no secret value ever stands here.
"""

from typing import Any, Literal

from msgspec import Struct, field

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


class Pattern(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """A branch, tag, path or repository pattern. A leading `!` in `pattern` excludes."""

    type: Literal["glob", "regex"]
    pattern: str
    flags: str = ""


class LabelMatcher(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`exact` uses `value`; `regex` uses `source` and `flags` (globs compile to regex)."""

    kind: Literal["exact", "regex"]
    value: str = ""
    source: str = ""
    flags: str = ""


class PushTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="push"
):
    branches: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class TagTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="tag"
):
    patterns: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class PrTrigger(
    Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True, tag_field="_type", tag="pr"
):
    events: list[str] = []
    target: list[Pattern] = []
    source: list[Pattern] = []
    paths: list[Pattern] = []
    repos: list[Pattern] = []
    description: str = ""


class GenericWebhookTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="generic_webhook",
):
    source: str
    events: list[str] = []
    match: dict[str, Any] = {}
    not_: dict[str, Any] = field(default_factory=dict, name="not")
    path: str = ""
    description: str = ""


class WebhookTrigger(
    Struct,
    frozen=True,
    kw_only=True,
    rename="camel",
    omit_defaults=True,
    tag_field="_type",
    tag="webhook",
):
    events: list[str]
    actions: list[str] = []
    repos: list[Pattern] = []
    description: str = ""


Trigger = PushTrigger | TagTrigger | PrTrigger | GenericWebhookTrigger | WebhookTrigger


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


class DynamicValue(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """`value` when literal; `dynamic` when an `__init__` job must work it out."""

    value: str = ""
    dynamic: bool = False


class LockJob(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
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
    container: dict[str, Any] | None = None
    resources: dict[str, Any] | None = None
    timeout: int | None = None
    grace_period: int | None = None
    description: str = ""
    has_on_cancel: bool = False
    has_cleanup: bool = False
    has_on_success: bool = False
    has_on_failure: bool = False
    has_before_step: bool = False
    has_after_step: bool = False


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
