"""What the generated pages say and code does not: order, introductions, a word about each option."""

from typing import Any

# Where this repository can be read. Links in bundles for models begin with it.
BASE_URL = "https://kici.example.org/"

# ── SDK ───────────────────────────────────────────────────────────────────────────────────────────

SDK_INTRODUCTION = """\
Everything is imported from `kici`: `from kici import Context, job, push, step, workflow`. What tests need is in
`kici.testing`. The package depends on msgspec alone, has types for editors and checkers, and does no work when imported.

Definitions are frozen values. Constructors report an author's mistakes with an [error code](errors.md) at the place of
the definition; `kici compile` shows all of them at once."""

_EVENTS = [
    "Event",
    "Payload",
    "CommentEvent",
    "CreateEvent",
    "DeleteEvent",
    "DispatchEvent",
    "ForkEvent",
    "GenericWebhookEvent",
    "JobCompleteEvent",
    "KiciEvent",
    "LifecycleEvent",
    "ManualScheduleEvent",
    "PullRequestEvent",
    "PushEvent",
    "ReleaseEvent",
    "RerunEvent",
    "ReviewCommentEvent",
    "ReviewEvent",
    "ScheduleEvent",
    "StarEvent",
    "StatusEvent",
    "TagEvent",
    "UnknownEvent",
    "WatchEvent",
    "WebhookEvent",
    "WorkflowCompleteEvent",
    "WorkflowRunEvent",
]

# Title, introduction, names. Every public name stands in exactly one group.
SDK_GROUPS: list[tuple[str, str, list[str]]] = [
    (
        "Workflows, jobs and steps",
        (
            "A step is a function, a job is one or more steps on one agent, a workflow binds jobs to triggers. A workflow "
            "exists because a module-level name, or a list bound to one, holds it."
        ),
        [
            "workflow",
            "job",
            "step",
            "parallel",
            "hook",
            "need",
            "group",
            "dynamic_jobs",
            "rule",
            "skip",
            "only_on_first_host",
            "only_on_last_host",
            "only_on_fanout_index",
            "idempotent",
            "wait_for",
            "wait_for_step",
            "wait_for_host_alive",
            "restart_host",
            "Workflow",
            "Job",
            "MultiJob",
            "DynamicJobs",
            "Step",
            "ParallelGroup",
            "Need",
            "Rule",
            "Hook",
            "Applied",
            "InSync",
        ],
    ),
    (
        "Triggers",
        (
            "Filters are joined by AND, the values inside one by OR; a filter that is left out means any. Patterns may be "
            "globs (`*` inside a segment, `**` across, `?`, `[]`, `{a,b}`), `re.compile(…)` in RE2's syntax, and `!` excludes. "
            "Triggers are tried in order, and the first that fits starts the workflow. `repos` makes a workflow answer to "
            "other repositories. Those after `generic_webhook` act once the lock file has reached the default branch."
        ),
        [
            "push",
            "pr",
            "tag",
            "comment",
            "review",
            "review_comment",
            "release",
            "dispatch",
            "create",
            "delete",
            "status",
            "workflow_run",
            "fork",
            "star",
            "watch",
            "webhook",
            "generic_webhook",
            "kici_event",
            "workflow_complete",
            "job_complete",
            "schedule",
            "lifecycle",
            "HmacAuth",
            "ApiKeyAuth",
            "Trigger",
            "Inputs",
            "EventPayload",
            "Meta",
            "fixture",
            "Fixture",
        ],
    ),
    (
        "ctx",
        (
            "What running code may ask for. A step takes a `Context`, a hook a `HookContext`, a rule a `RuleContext`, a "
            "generator or matrix function a `GenerateContext`, a concurrency group a `ConcurrencyContext`. Calls that are "
            "shown with `await` must be awaited: one that is not fails the step. A `def` step that is annotated with "
            "`SyncContext` gets the same members without `await`."
        ),
        [
            "Context",
            "HookContext",
            "RuleContext",
            "GenerateContext",
            "ConcurrencyContext",
            "SyncContext",
            "Completed",
            "JobOutputs",
            "MatrixOutputs",
            "HostOutputs",
            "NeedResult",
            "Outcome",
            "RunInfo",
            "WorkflowInfo",
            "JobInfo",
            "StepInfo",
            "RepoInfo",
            "Fanout",
            "AgentInfo",
            "HostFacts",
            "SecretMeta",
            "CacheHit",
            "Delivery",
            "OidcToken",
            "Provenance",
        ],
    ),
    (
        "Options",
        "Values of options. Each may also be written as a mapping with the same keys.",
        [
            "Runner",
            "Hosts",
            "Retry",
            "Cache",
            "CacheKey",
            "cache_key",
            "Container",
            "Resources",
            "Amount",
            "Init",
            "Preset",
            "uv",
            "mise",
            "Concurrency",
            "Approval",
            "Approver",
            "team",
            "user",
            "Registry",
        ],
    ),
    (
        "Events",
        (
            "`ctx.event` has a class per type of event, for `match` statements. `payload` reads the event's body: an "
            "attribute that is absent is None, `payload[key]` raises KeyError, `payload.raw` is what was received. Keys of "
            "provider events are as the provider writes them; those of KiCI's own events are camelCase."
        ),
        _EVENTS,
    ),
    (
        "Errors",
        "What steps may catch. All are `KiciError`s.",
        [
            "KiciError",
            "DefinitionError",
            "CommandError",
            "OutputError",
            "SecretNotFoundError",
            "LimitExceededError",
            "EventRejectedError",
            "WaitForTimeoutError",
            "NotAvailableLocallyError",
            "CapabilityMissingError",
        ],
    ),
    (
        "Testing",
        (
            "From `kici.testing`. The pytest plug-in comes with kici and brings the fixture `kici_ctx`, a fresh `FakeContext` "
            "whose `workspace` and `tmp` are folders below `tmp_path`."
        ),
        [
            "testing.FakeContext",
            "testing.FakeRuleContext",
            "testing.Command",
            "testing.LogLine",
            "testing.Emitted",
            "testing.Annotation",
            "testing.NotAwaitedError",
            "testing.UnexpectedCommand",
        ],
    ),
]

# Parts of ctx that have no public name of their own, after the names of that group.
PARTS: dict[str, list[tuple[str, str]]] = {
    "ctx": [
        ("ctx.log", "Log"),
        ("ctx.secrets", "Secrets"),
        ("ctx.cache", "CacheAccess"),
        ("ctx.kici", "Kici"),
        ("ctx.kici.inventory", "Inventory"),
        ("ctx.kici.infrastructure", "Infrastructure"),
        ("ctx.kici.oidc", "Oidc"),
        ("ctx.kici.host", "HostControl"),
    ]
}

# Shown by docstring alone: the twin of Context, and classes whose members authors do not touch.
WITHOUT_MEMBERS = {
    "SyncContext",
    "Rule",
    "Hook",
    "Need",
    "Trigger",
    "DynamicJobs",
    "Inputs",
    "EventPayload",
    "Payload",
}

# Members of contexts that have no docstring of their own.
CONTEXT_MEMBERS = {
    "log": "The [log](#ctxlog) of the step.",
    "provider": "Who the event came from: `github`, `local`, …",
    "run_info": "Ids, attempt, ref, commit and page of this run.",
    "workflow": "Its name.",
    "job": "Its id, name and attempt.",
    "step": "Its name, place and attempt.",
    "host": "The machine that the job runs on.",
    "agent": "The agent that runs the job.",
    "environments": "All environments of the job.",
    "check_mode": "`apply`, unless `--check` was given.",
    "secrets": "The [secrets](#ctxsecrets) of the job's environments, and of jobs it needs.",
    "cache": "[Caches](#ctxcache) by hand.",
    "kici": "[Inventory](#ctxkiciinventory), [infrastructure](#ctxkiciinfrastructure), [OIDC](#ctxkicioidc).",
    "job_outputs": "What a needed job returned; of a job with several steps: `.of(step)`.",
    "matrix_outputs": "What the combinations of a needed job returned.",
    "host_outputs": "What the hosts of a needed job returned.",
    "need": "How a needed job ended, with its result.",
    "emit": "Send an event that `kici_event` triggers wait for. Raises EventRejectedError.",
    "outcome": "How it went.",
    "env": "The environment so far.",
    "fanout": "Place among the children.",
    "ref": "Branch or tag.",
    "sha": "The commit.",
    "repository": "The repository.",
}

_JOB = {
    "runs_on": "labels that the agent has: one, several, or a `Runner`; `!` excludes. Exactly one of this and `runs_on_all`",
    "runs_on_all": "one child per host with these labels",
    "on_unreachable": "a durable host that is away: wait, leave it out, or fail",
    "include_uninitialized": "also hosts that a temporary runner must be brought to",
    "needs": "jobs that must have ended first; `need(job, when=…)` says how",
    "rules": "all must say yes, or the job is skipped",
    "description": "for people: the run page has it by the job's name",
    "matrix": "one job per combination: a list, a mapping of lists, or a function",
    "include": "combinations to add, after `exclude`",
    "exclude": "combinations to leave out: those that hold all keys of an entry",
    "max_parallel": "how many children run at a time",
    "fail_fast": "after a failure skip children that have not started; default False",
    "checkout": "False leaves the clone out; `.kici` is there anyway",
    "container": "image, or `Container`",
    "environment": "name, function of the event, or several that are merged in order",
    "env": "variables, or a function of the event",
    "concurrency_group": "a queue across runs: name, or function of the event; default: the first environment",
    "resources": "memory and CPUs",
    "init": "what prepares tools before the steps",
    "cache": "files kept between runs",
    "approval": "who must agree before it starts",
    "timeout": "preparation, steps and hooks together",
    "grace_period": "between SIGTERM and SIGKILL when it is stopped",
    "on_cancel": "hook after a cancel",
    "cleanup": "hook at the end, however it went",
    "on_success": "hook after success",
    "on_failure": "hook after failure",
    "before_step": "hook before every step",
    "after_step": "hook after every step",
}
_STEP = {
    "timeout": "of one attempt; default 30 minutes",
    "retry": "attempts in all, or `Retry`",
    "continue_on_error": "a failure of this step does not fail the job",
    "rules": "all must say yes, or the step is skipped",
    "cache": "files kept between runs, restored before this step",
    "approval": "who must agree before it runs",
    "on_cancel": "hook after a cancel",
    "cleanup": "hook at its end, however it went",
}
_WORKFLOW = {
    "jobs": "jobs and generators of jobs",
    "on": "triggers; none means never by an event",
    "rules": "all must say yes, or there is no run",
    "description": "for people",
    "hash_files": "files outside `.kici` that the steps depend on; they count for the source hash",
    "registries": "private indexes for the dependencies of `.kici`",
    "install_env": "secrets for the process that installs, as `<environment>:<secret>`",
    "concurrency": "how many runs of a group at a time",
    "timeout": "of the whole run",
    "approval": "who must agree before it starts",
    "on_cancel": "hook after a cancel",
    "cleanup": "hook at the end, however it went",
    "on_success": "hook after success",
    "on_failure": "hook after failure",
}
# Public name → module and name of what lists the options, and a word about each.
OPTIONS: dict[str, tuple[str, str, dict[str, str]]] = {
    "workflow": ("kici.sdk.workflows", "workflow", _WORKFLOW),
    "job": ("kici.sdk.jobs", "JobOptions", _JOB),
    "step": ("kici.sdk.steps", "StepOptions", _STEP),
}

TYPES_INTRODUCTION = "Names that signatures use. They are not imported; they say what an option takes."
TYPES = [
    ("kici.sdk.values", "Scalar", "a matrix value"),
    (
        "kici.sdk.values",
        "Duration",
        'seconds, a `timedelta`, or `"500ms"`, `"90s"`, `"10m"`, `"2h"`, `"1d"`',
    ),
    ("kici.sdk.values", "Pattern", "exact text, a glob when it holds `* ? [ ] { }`, or a compiled regex"),
    ("kici.sdk.values", "Patterns", "one or several; a leading `!` excludes"),
    ("kici.sdk.values", "Maybe", "of a `def` or of an `async def`"),
    ("kici.sdk.values", "StaticMatrix", "dimensions, or values of the one dimension `value`"),
    ("kici.sdk.jobs", "Dynamic", "a value, or a function of the event"),
    ("kici.sdk.variants", "Matrix", ""),
    ("kici.sdk.selection", "RunsOn", ""),
    ("kici.sdk.selection", "RunsOnAll", ""),
    ("kici.sdk.edges", "JobLike", ""),
    ("kici.sdk.edges", "NeedLike", "a name is that of a job"),
    ("kici.sdk.edges", "When", "how an upstream job must have ended"),
    ("kici.sdk.steps", "StepLike", "a bare function becomes a step"),
    ("kici.sdk.steps", "HookLike", ""),
    ("kici.sdk.readers", "CacheLike", ""),
    ("kici.sdk.readers", "InitLike", ""),
    ("kici.sdk.readers", "ContainerLike", ""),
    ("kici.sdk.readers", "ResourcesLike", ""),
    ("kici.sdk.readers", "ApprovalLike", "`True`: anybody who may approve"),
    ("kici.sdk.workflows", "ConcurrencyLike", ""),
    ("kici.sdk.workflows", "RegistryLike", ""),
]

# ── command line ──────────────────────────────────────────────────────────────────────────────────

CLI_INTRODUCTION = """\
`kici` is the author's and newcomer's command, `kici-admin` the operator's. Every command has `--help` with an example.
Results go to stdout, everything else to stderr. `--json` prints one document and nothing else. There are no questions
when `CI` is set or nobody is at the terminal. `kici --install-completion` sets up completion for bash, zsh and fish.

The programs of a server, `kici-platform`, `kici-orchestrator` and `kici-agent`, take
[settings from the environment](settings.md)."""
ADMIN_INTRODUCTION = "It speaks to one orchestrator: `KICI_ADMIN_URL` with `KICI_ADMIN_TOKEN`, or the `kici up` of this machine."
EXIT_CODES = {
    "FAILED": "the run, the compilation or the verification failed, or the server refused",
    "USAGE": "wrong usage or bad input",
    "DRIFT": "something would change, with `--fail-on-drift`",
    "NOT_SIGNED_IN": "not signed in, or not allowed",
    "UNREACHABLE": "the server cannot be reached",
    "INTERRUPTED": "Ctrl-C",
}
VARIABLES = {
    "KICI_PLATFORM_URL": ("the signed-in Platform, else the local `kici up`", "URL of the Platform"),
    "KICI_TOKEN": ("–", "token for this call, as CI has it; never stored"),
    "KICI_ORG": ("the active one", "id of the organization"),
    "KICI_CONFIG_DIR": ("`~/.kici`", "configuration, and the history of local runs"),
    "KICI_OIDC_ISSUER": ("the Platform says", "authorization server for `kici login`"),
    "KICI_OIDC_CLIENT_ID": ("`kici-cli`", "client id there"),
    "KICI_BROWSER_CMD": ("the system's browser", "command that opens `{url}`; `none` prints it"),
    "KICI_CALLBACK_PORT": ("a free one", "port that the browser answers to"),
    "KICI_RUN_DIR": ("a temporary directory", "where local runs put their copies of the tree"),
    "KICI_LOCAL_LOCK_KILL_GRACE_MS": ("30000", "how long a superseded local run may clean up"),
    "KICI_ADMIN_URL": ("the local `kici up`", "URL of the orchestrator, for `kici-admin`"),
    "KICI_ADMIN_TOKEN": ("the local `kici up`", "its token; `KICI_ADMIN_TOKEN_FILE` reads it from a file"),
    "KICI_ADMIN_TOKEN_FILE": ("–", "file that holds the token"),
    "KICI_DEBUG": ("–", "`true` shows tracebacks, as `--debug` does"),
    "CI": ("–", "set: no questions"),
    "NO_COLOR": ("–", "set: no colours, as `--no-color`"),
}

STEP_VARIABLES = {
    "KICI": "`true`",
    "CI": "`true`",
    "KICI_RUN_ID": "id of the run",
    "KICI_JOB_ID": "id of the job",
    "KICI_WORKFLOW": "name of the workflow",
    "KICI_JOB": "name of the job",
    "KICI_ATTEMPT": "number of the attempt, from 1",
    "KICI_REPO": "repository",
    "KICI_SHA": "commit",
    "KICI_REF": "ref that was pushed",
    "KICI_BRANCH": "branch, or name of the tag",
    "KICI_EVENT": "type of the event",
    "KICI_ORG_ID": "id of the organization; on agents only",
    "KICI_REQUEST_ID": "what the logs of all servers carry for this delivery; on agents only",
    "KICI_ENV": "file: a line `KEY=value` sets a variable for later steps",
    "KICI_PATH": "file: a line is a directory that comes first on PATH for later steps",
}


def metavar(parameter: Any, context: Any) -> str:
    """What stands for the value of an option."""
    given = parameter.metavar or parameter.type.get_metavar(parameter, context) or parameter.type.name
    word = str(given).strip("<>")
    return {"str": "TEXT", "text": "TEXT", "int": "N", "integer": "N", "path": "PATH"}.get(
        word, "N" if word.startswith(("int", "integer")) else word
    )


# ── codes ─────────────────────────────────────────────────────────────────────────────────────────

ERRORS_INTRODUCTION = """\
What `kici compile` reports, as `path:line:column: error[CODE]: message` with a line of help. `kici explain CODE` prints
the same as this page. Codes are never reused. Warnings (W) fail a compile only with `--strict`; those that are called a
note never do. Examples stand after `from kici import *`, with two steps `build(ctx)` and `scan(ctx, *, target)`."""
CODE_GROUPS = [
    ("Files and imports", "E0"),
    ("Structure", "E1"),
    ("Where jobs run", "E2"),
    ("Options", "E3"),
    ("Triggers and inputs", "E4"),
    ("Fixtures", "E5"),
    ("What runs", "E6"),
    ("Lock file", "E7"),
    ("Warnings", "W"),
]

# ── bundles for models ────────────────────────────────────────────────────────────────────────────

SUMMARY = (
    "Self-hosted CI/CD whose workflows are plain, typed Python. Workflows live in .kici/workflows/*.py, are compiled to "
    "a lock file that is committed, and run by the same runner on a laptop and on agents."
)
INDEX_INTRODUCTION = (
    "Everything here is also on the machine, without a network: `kici docs llm` prints this index, `kici docs llm NAME` "
    "a bundle. Begin with getting-started; take sdk for signatures, patterns for how things are done."
)
BUNDLE_TITLES = {
    "getting-started": "begin",
    "sdk": "every public name of the SDK, and every error code",
    "cli": "every command, exit codes, environment variables",
    "patterns": "how to write workflows",
    "features": "caches, schedules, secrets, check mode and more",
    "providers": "where events come from",
    "architecture": "how it works, how it is run, why it is so",
    "full": "all of it",
}
# Bundle → patterns of pages below docs, in this order. AGENTS.md is what `kici init` writes.
BUNDLES = {
    "getting-started": ["README.md", "tutorials/*.md", "AGENTS.md"],
    "sdk": ["reference/sdk.md", "reference/errors.md"],
    "cli": ["reference/cli.md"],
    "patterns": [
        f"how-to/{name}.md"
        for name in (
            "matrix",
            "outputs",
            "parallel-steps",
            "monorepo",
            "dynamic-jobs",
            "retries-and-timeouts",
            "hooks",
            "rules",
            "release",
            "deploy-with-approval",
            "shared-steps",
            "test-your-steps",
            "without-async",
            "fixtures",
            "from-github-actions",
        )
    ],
    "features": [
        f"how-to/{name}.md"
        for name in (
            "caches",
            "concurrency",
            "schedules",
            "events-between-workflows",
            "dispatch-inputs",
            "secrets",
            "check-mode",
            "toolchains",
            "container-job",
            "run-remote",
            "private-index",
            "commit-hook",
            "why-did-it-not-start",
        )
    ],
    "providers": ["how-to/connect-a-source.md"],
    "architecture": [
        "explanation/*.md",
        "how-to/operate.md",
        "reference/protocol.md",
        "reference/settings.md",
        "adr/*.md",
    ],
}
# Page → why.
IN_NO_BUNDLE = {"reference/conformance.md": "a list of tests, for people who change KiCI"}
