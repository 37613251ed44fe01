-- The orchestrator's truth about execution. Ids are UUIDv7 made by us; durations integer ms; every
-- status column is written by kici.orchestrator.runs.state alone (OR-4).

CREATE TABLE org_settings (
    org_id text PRIMARY KEY,
    name text NOT NULL DEFAULT '',
    dispatch_ack_timeout_ms int,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- ── sources and deliveries ───────────────────────────────────────────────────────────────────────

CREATE TABLE sources (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('local', 'generic')),
    subtype text NOT NULL CHECK (subtype IN ('local', 'generic_webhook', 'universal_git', 'github_app')),
    name text NOT NULL,
    routing_key text NOT NULL UNIQUE,
    config jsonb NOT NULL DEFAULT '{}',
    git_config jsonb,
    verification_method text NOT NULL
        CHECK (verification_method IN ('hmac_sha256', 'bearer_token', 'api_key', 'ip_allowlist', 'none')),
    secrets bytea,                       -- sealed verification config; see kici.orchestrator.sources
    max_payload_bytes int NOT NULL DEFAULT 1048576 CHECK (max_payload_bytes > 0),
    rate_limit_rpm int NOT NULL DEFAULT 600,
    dedup_window_seconds int NOT NULL DEFAULT 300,
    enabled boolean NOT NULL DEFAULT true,
    deleted_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX sources_name ON sources (org_id, name) WHERE deleted_at IS NULL;

-- One row per accepted delivery; the dedup key makes acceptance idempotent (OR-34). Leased by workers.
CREATE TABLE inbox (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    source_id uuid NOT NULL,
    routing_key text NOT NULL,
    dedup_key text NOT NULL,
    dedup_until timestamptz NOT NULL,
    delivery_id text NOT NULL,
    event text NOT NULL,
    action text,
    headers jsonb NOT NULL,
    body bytea NOT NULL,                 -- as received; in the row, so that one commit makes it durable
    body_size int NOT NULL,
    request_id text NOT NULL,
    via text NOT NULL CHECK (via IN ('relay', 'direct')),
    received_at timestamptz NOT NULL DEFAULT now(),
    processed_at timestamptz,
    claimed_at timestamptz,
    claimed_by text,
    attempts int NOT NULL DEFAULT 0,
    next_retry_at timestamptz,
    last_error text,
    dlq_at timestamptz,
    UNIQUE (org_id, dedup_key)
);
CREATE INDEX inbox_due ON inbox (received_at) WHERE processed_at IS NULL AND dlq_at IS NULL;
CREATE INDEX inbox_done ON inbox (processed_at) WHERE processed_at IS NOT NULL;

-- What became of each delivery, with the decision for every workflow (OR-36, OR-50).
CREATE TABLE event_log (
    id uuid PRIMARY KEY,                 -- the inbox row's id
    org_id text NOT NULL,
    delivery_id text NOT NULL,
    routing_key text NOT NULL,
    source_name text NOT NULL,
    event text NOT NULL,
    action text,
    via text NOT NULL,
    repo_identifier text,
    ref text,
    sha text,
    request_id text NOT NULL,
    status text NOT NULL CHECK (status IN ('received', 'processed', 'duplicate', 'filtered',
                                           'lockfile_missing', 'lockfile_corrupt', 'failed')),
    matched_count int NOT NULL DEFAULT 0,
    decisions jsonb NOT NULL DEFAULT '[]',
    error text,
    headers jsonb NOT NULL DEFAULT '{}',
    payload_size int NOT NULL DEFAULT 0,
    received_at timestamptz NOT NULL,
    processed_at timestamptz
);
CREATE INDEX event_log_recent ON event_log (org_id, received_at DESC);
CREATE INDEX event_log_delivery ON event_log (org_id, delivery_id);

CREATE TABLE workflow_registrations (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    routing_key text NOT NULL,
    repo_identifier text NOT NULL,
    workflow_name text NOT NULL,
    lock_entry json NOT NULL,            -- kici.spec.lock.LockWorkflow
    sdk_version text NOT NULL,           -- that compiled it
    default_branch text NOT NULL,
    trigger_types text[] NOT NULL,
    commit_sha text NOT NULL,
    commit_message text,
    pushed_at timestamptz NOT NULL,      -- receipt of the push; an older one never overwrites (OR-70)
    source_file text NOT NULL,
    disabled boolean NOT NULL DEFAULT false,
    last_triggered_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (routing_key, repo_identifier, workflow_name)
);
CREATE INDEX workflow_registrations_org ON workflow_registrations (org_id);

-- The push that a repository's registrations stand for: a row lock per repository, and the order of pushes.
CREATE TABLE registry_heads (
    routing_key text NOT NULL,
    repo_identifier text NOT NULL,
    org_id text NOT NULL,
    commit_sha text NOT NULL,
    pushed_at timestamptz NOT NULL,
    PRIMARY KEY (routing_key, repo_identifier)
);

CREATE TABLE registry_versions (
    org_id text PRIMARY KEY,
    version bigint NOT NULL,
    listens text[] NOT NULL DEFAULT '{}',  -- trigger types of all its enabled workflows
    updated_at timestamptz NOT NULL DEFAULT now()
);

-- ── runs ─────────────────────────────────────────────────────────────────────────────────────────

CREATE TABLE execution_runs (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    routing_key text NOT NULL,
    source_name text NOT NULL,
    source_subtype text NOT NULL,
    provider text NOT NULL,
    workflow_name text NOT NULL,
    workflow_file text NOT NULL,
    workflow_export text NOT NULL,
    content_hash text NOT NULL,
    compile_schema_version int NOT NULL DEFAULT 1,
    sdk_version text NOT NULL DEFAULT '',   -- that compiled the lock file
    resolved_hash_files text[] NOT NULL DEFAULT '{}',
    status text NOT NULL CHECK (status IN ('pending', 'queued', 'running', 'held', 'cancelling', 'success',
                                           'failed', 'cancelled', 'skipped')),
    repo_identifier text NOT NULL,
    repo_url text,
    ref text NOT NULL,
    branch text,
    sha text NOT NULL,
    commit_message text,
    trigger_event text NOT NULL,
    trigger_decision jsonb NOT NULL,     -- DeliveryDecision
    event jsonb NOT NULL,                -- kici.spec.events.Event
    delivery_id text,
    inbox_id uuid,
    dedup_key text NOT NULL,             -- exactly one run per (delivery, workflow) (OR-35)
    request_id text NOT NULL,
    chain_depth int NOT NULL DEFAULT 0,
    triggered_by text,
    cancelled_by text,
    cancel_reason text,
    parent_run_id uuid,
    original_run_id uuid,
    failure_reason text,
    init_failure jsonb,
    timeout_reason text,
    workflow_timeout_ms int,
    deadline_at timestamptz,
    check_mode text NOT NULL DEFAULT 'apply' CHECK (check_mode IN ('apply', 'check', 'check-fail-on-drift')),
    is_test_run boolean NOT NULL DEFAULT false,
    inputs json NOT NULL DEFAULT '{}',   -- of a dispatch, defaults applied
    rules jsonb NOT NULL DEFAULT '[]',   -- RuleResult of the workflow's rules
    workflow_hooks text[] NOT NULL DEFAULT '{}',  -- which it has: onSuccess, onFailure, onCancel, cleanup
    concurrency_group text,
    concurrency_max int NOT NULL DEFAULT 1,
    cancel_in_progress boolean NOT NULL DEFAULT true,
    blocked boolean NOT NULL DEFAULT false,  -- waits for a slot of its group; no job of it is queued
    waiting_reason text,
    lock_digest text,                    -- of its workflow's entry in workflow_locks
    jobs_open int NOT NULL,              -- jobs not yet terminal; 0 ends the run
    job_count int NOT NULL,
    log_bytes bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    completed_at timestamptz,
    CHECK ((status IN ('success', 'failed', 'cancelled', 'skipped')) = (completed_at IS NOT NULL)),
    CHECK (jobs_open >= 0),
    UNIQUE (org_id, dedup_key)
);
CREATE INDEX execution_runs_recent ON execution_runs (org_id, id DESC);
CREATE INDEX execution_runs_open ON execution_runs (id) WHERE completed_at IS NULL;
CREATE INDEX execution_runs_deadline ON execution_runs (deadline_at)
    WHERE completed_at IS NULL AND deadline_at IS NOT NULL;

-- The queue is this table where status is 'queued' and nothing is dispatched (OR-145).
CREATE TABLE execution_jobs (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL REFERENCES execution_runs (id),
    org_id text NOT NULL,
    position int NOT NULL,
    job_name text NOT NULL,
    base_job_name text NOT NULL,
    variant_kind text CHECK (variant_kind IN ('matrix', 'host')),
    variant_label text,
    matrix_values json,                  -- as the author wrote them: in an order that means something
    kind text NOT NULL DEFAULT 'job' CHECK (kind IN ('job', 'init', 'build', 'dynamic', 'hooks')),
    target_job text,                     -- init: whose functions it evaluates, NULL of the workflow; dynamic: the group;
                                         -- build: <lockfile hash>/<labels of its agents>
    generator_index int,
    group_name text,                     -- of generated jobs
    fanout_index int NOT NULL DEFAULT 0, -- among the children of its base job
    fanout_total int NOT NULL DEFAULT 1,
    rules jsonb NOT NULL DEFAULT '[]',   -- RuleResult
    rules_from int NOT NULL DEFAULT 0,   -- earlier rules were decided before dispatch
    environments text[] NOT NULL DEFAULT '{}',
    concurrency_group text,
    waiting_reason text,
    failure_category text,               -- init: what its failure is called in the job that needed it; build: its own
    request_cpus float8,                 -- an agent must have so much; NULL: no matter
    request_memory_mb int,
    status text NOT NULL CHECK (status IN ('pending', 'held', 'waiting', 'queued', 'running', 'recovering',
                                           'cancelling', 'success', 'failed', 'cancelled', 'skipped',
                                           'timed_out_stale', 'drift_dropped')),
    needs_pending int NOT NULL DEFAULT 0 CHECK (needs_pending >= 0),
    max_parallel int,                    -- window over the children of one base job
    fail_fast boolean NOT NULL DEFAULT false,
    priority int NOT NULL DEFAULT 0,
    ready_at timestamptz,
    runs_on text[] NOT NULL,             -- exact labels, lower case
    exclude_labels text[] NOT NULL DEFAULT '{}',
    runs_on_patterns jsonb,              -- regex matchers {include: [...], exclude: [...]}; NULL when none
    pick text NOT NULL DEFAULT 'deterministic',
    attempt int NOT NULL DEFAULT 0,      -- 0 until first dispatched; carried in every agent message
    infra_failures int NOT NULL DEFAULT 0,
    agent_id text,
    agent_session text,
    dispatched_at timestamptz,
    ack_deadline timestamptz,
    acked_at timestamptz,
    recovery_deadline timestamptz,
    last_heartbeat_at timestamptz,
    queue_expires_at timestamptz,
    timeout_ms int,
    cancel_force boolean NOT NULL DEFAULT false,
    cancel_sent_at timestamptz,
    error_message text,
    init_failure jsonb,
    timeout_reason text,
    outputs json,                        -- keys stay in the author's order
    secret_output_keys text[] NOT NULL DEFAULT '{}',
    secret_outputs jsonb,                -- key → sealed for the run's public key, base64
    drifted boolean NOT NULL DEFAULT false,  -- check mode found something to change
    context jsonb,
    log_bytes bigint NOT NULL DEFAULT 0,
    started_at timestamptz,
    completed_at timestamptz,
    CHECK ((status IN ('success', 'failed', 'cancelled', 'skipped', 'timed_out_stale', 'drift_dropped'))
           = (completed_at IS NOT NULL)),
    UNIQUE (run_id, job_name)
) WITH (fillfactor = 70);
CREATE INDEX execution_jobs_queue ON execution_jobs (priority DESC, ready_at, id)
    WHERE status = 'queued' AND dispatched_at IS NULL;
CREATE INDEX execution_jobs_agent ON execution_jobs (agent_id) WHERE completed_at IS NULL AND agent_id IS NOT NULL;
CREATE INDEX execution_jobs_ack ON execution_jobs (ack_deadline)
    WHERE ack_deadline IS NOT NULL AND completed_at IS NULL;
CREATE INDEX execution_jobs_open ON execution_jobs (status) WHERE completed_at IS NULL;
CREATE INDEX execution_jobs_builds ON execution_jobs (org_id, target_job) WHERE kind = 'build';
-- One builds, whoever else wants it waits (OR-139).
CREATE UNIQUE INDEX execution_jobs_building ON execution_jobs (org_id, target_job)
    WHERE kind = 'build' AND status IN ('queued', 'running', 'recovering', 'cancelling');

-- What a dispatch needs, kept out of the hot row; never a token or secret (OR-153).
CREATE TABLE execution_job_specs (
    job_id uuid PRIMARY KEY REFERENCES execution_jobs (id),
    run_id uuid NOT NULL,
    spec json NOT NULL                   -- kici.spec.lock.LockJob
);

CREATE TABLE execution_job_needs (
    run_id uuid NOT NULL,
    job_id uuid NOT NULL REFERENCES execution_jobs (id),
    upstream_job_id uuid NOT NULL REFERENCES execution_jobs (id),
    run_on text[] NOT NULL,
    group_name text,                     -- needed as one of this group, which counts as a whole
    group_run_on text[],                 -- on a generator: what satisfies the edges to the jobs it makes
    PRIMARY KEY (job_id, upstream_job_id)
);
CREATE INDEX execution_job_needs_upstream ON execution_job_needs (upstream_job_id);

CREATE TABLE execution_steps (
    job_id uuid NOT NULL REFERENCES execution_jobs (id),
    attempt int NOT NULL,
    step_index int NOT NULL,
    run_id uuid NOT NULL,
    step_name text NOT NULL,
    step_type text NOT NULL,
    status text NOT NULL CHECK (status IN ('pending', 'running', 'success', 'failed', 'skipped', 'cancelled')),
    exit_code int,
    error_message text,
    log_lines bigint,
    log_bytes bigint,
    concurrency_kind text NOT NULL DEFAULT 'sequential',
    group_id text,
    secrets_accessed text[] NOT NULL DEFAULT '{}',
    check_outcome text,
    drift_summary text,
    rules jsonb NOT NULL DEFAULT '[]',   -- RuleResult
    summary text,                        -- Markdown
    annotations jsonb NOT NULL DEFAULT '[]',
    started_at timestamptz,
    completed_at timestamptz,
    duration_ms bigint,
    PRIMARY KEY (job_id, attempt, step_index)
);
CREATE INDEX execution_steps_run ON execution_steps (run_id);

-- What runs were started from, once per text: kici.spec.lock.LockWorkflow. A re-run begins here (OR-205).
CREATE TABLE workflow_locks (
    digest text PRIMARY KEY,
    document json NOT NULL,
    sdk_version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What a run brought along that is not in its repository; the job's dispatch says where it is (AU-124).
CREATE TABLE execution_run_remotes (
    run_id uuid PRIMARY KEY,
    overlay_key text,                    -- of the object that holds the sealed work tree
    secrets bytea                        -- sealed by kici.orchestrator, never shown
);

-- Who holds a place in a concurrency group and who waits for one (OR-180, OR-181). A row goes in the
-- transaction that ends its holder; admission happens under an advisory lock per group.
CREATE TABLE concurrency_slots (
    holder_id uuid PRIMARY KEY,          -- the run, or the job
    scope text NOT NULL CHECK (scope IN ('run', 'job')),
    run_id uuid NOT NULL,
    org_id text NOT NULL,
    routing_key text NOT NULL,
    repo_identifier text NOT NULL,
    group_name text NOT NULL,
    seq bigint GENERATED ALWAYS AS IDENTITY,  -- order of arrival
    max int NOT NULL DEFAULT 1 CHECK (max > 0),
    cancel_in_progress boolean NOT NULL DEFAULT false,
    acquired_at timestamptz,             -- NULL: waits
    expires_at timestamptz               -- of the wait; NULL: none
);
CREATE INDEX concurrency_slots_group ON concurrency_slots
    (org_id, routing_key, repo_identifier, scope, group_name, seq);
CREATE INDEX concurrency_slots_waiting ON concurrency_slots (expires_at) WHERE acquired_at IS NULL;

CREATE TABLE run_events (
    id uuid PRIMARY KEY,
    run_id uuid NOT NULL,
    job_id uuid,
    step_index int,
    event_type text NOT NULL,
    source_service text NOT NULL,
    at timestamptz NOT NULL,
    duration_ms bigint,
    metadata jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX run_events_run ON run_events (run_id, id);

-- ── internal events (OR-90…102) ──────────────────────────────────────────────────────────────────

-- Completions are written with the state change that causes them, emitted events with their job's request.
-- Leased by routers; claimed_by and attempts fence every write about a row.
CREATE TABLE kici_events (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    event_name text NOT NULL,
    origin text NOT NULL DEFAULT 'system' CHECK (origin IN ('system', 'job', 'operator')),
    payload jsonb NOT NULL,
    source_repo text,
    source_routing_key text,
    source_run_id uuid,
    source_job_id uuid,
    target_repos text[],                 -- NULL: whoever may have it
    dedup_key text,                      -- of the request that emitted it: asked twice, there is one event
    chain_depth int NOT NULL DEFAULT 0,  -- internal events before it (OR-100)
    processed boolean NOT NULL DEFAULT false,
    processed_at timestamptz,
    decisions jsonb,                     -- DeliveryDecision of every workflow asked; NULL: nobody listened
    claimed_at timestamptz,
    claimed_by text,
    attempts int NOT NULL DEFAULT 0,
    last_error text,
    next_retry_at timestamptz,
    dlq_at timestamptz,
    dlq_reason text CHECK (dlq_reason IN ('exhausted_retries', 'non_retryable')),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX kici_events_dedup ON kici_events (org_id, dedup_key) WHERE dedup_key IS NOT NULL;
CREATE INDEX kici_events_due ON kici_events (coalesce(next_retry_at, created_at))
    WHERE NOT processed AND dlq_at IS NULL;
CREATE INDEX kici_events_claimed ON kici_events (claimed_at) WHERE NOT processed AND claimed_at IS NOT NULL;
CREATE INDEX kici_events_dlq ON kici_events (dlq_at DESC) WHERE dlq_at IS NOT NULL;
CREATE INDEX kici_events_emitted ON kici_events (org_id, source_repo, event_name, created_at)
    WHERE origin <> 'system';            -- what the rate is counted over
CREATE INDEX kici_events_recent ON kici_events (org_id, id DESC) WHERE decisions IS NOT NULL;

-- What an event has started: a retry leaves these alone (OR-97).
CREATE TABLE kici_event_deliveries (
    event_id uuid NOT NULL REFERENCES kici_events (id) ON DELETE CASCADE,
    registration_id uuid NOT NULL,
    run_id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, registration_id)
);

-- Who may send events to whom besides itself (OR-101); one direction each.
CREATE TABLE cross_repo_trust (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    source_repo text NOT NULL,
    source_routing_key text NOT NULL,
    target_repo text NOT NULL,
    target_routing_key text NOT NULL,
    allowed_events text[],               -- globs over event names; NULL: all
    enabled boolean NOT NULL DEFAULT true,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, source_repo, source_routing_key, target_repo, target_routing_key)
);

-- When registered schedules fire next (OR-111). NULL: never, because of `problem`, a date that does not
-- exist, or a workflow that is disabled.
CREATE TABLE schedules (
    registration_id uuid NOT NULL REFERENCES workflow_registrations (id) ON DELETE CASCADE,
    trigger_index int NOT NULL,
    org_id text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    next_fire_at timestamptz,
    last_fired_at timestamptz,
    problem text,
    PRIMARY KEY (registration_id, trigger_index)
);
CREATE INDEX schedules_due ON schedules (next_fire_at) WHERE next_fire_at IS NOT NULL;

-- ── agents and the way out ───────────────────────────────────────────────────────────────────────

CREATE TABLE agent_tokens (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    token_sha256 bytea NOT NULL UNIQUE,
    display text NOT NULL,               -- first characters, for people
    kind text NOT NULL CHECK (kind IN ('static', 'ephemeral')),
    labels text[],                       -- NULL: any
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz,
    revoked_at timestamptz
);

CREATE TABLE agents (
    agent_id text PRIMARY KEY,
    org_id text NOT NULL,
    token_id uuid NOT NULL,
    session_id text NOT NULL,
    instance_id text,                    -- the orchestrator that holds its socket; NULL when gone
    connection_id text,
    labels text[] NOT NULL,
    hostname text NOT NULL,
    platform text NOT NULL,
    arch text NOT NULL,
    version text NOT NULL,
    facts jsonb NOT NULL DEFAULT '{}',
    connected_at timestamptz,
    disconnected_at timestamptz,
    last_seen_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE admin_tokens (
    token_sha256 bytea PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('owner', 'admin', 'auditor')),
    created_at timestamptz NOT NULL DEFAULT now()
);

-- What must reach somebody else, committed with its cause; rows go when acknowledged.
CREATE TABLE outbox (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic text NOT NULL,                 -- platform
    key text NOT NULL,                   -- run id: one run's rows are sent in order
    payload jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX outbox_topic ON outbox (topic, seq);

CREATE TABLE cluster_meta (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    cluster_id uuid NOT NULL,
    cluster_name text NOT NULL
);

-- ── caches and secret outputs of jobs ────────────────────────────────────────────────────────────

-- Archives that jobs share (AG-78, AG-79). `scope`: shared, or the id of the run that alone reads it. A doomed
-- row stays until its object is deleted.
CREATE TABLE user_cache_entries (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    repo_identifier text NOT NULL,
    scope text NOT NULL,
    run_id uuid NOT NULL,                -- whose job saved it
    key text NOT NULL,
    object_key text NOT NULL,
    state text NOT NULL CHECK (state IN ('uploading', 'ready', 'doomed')),
    size_bytes bigint,
    sha256 text,
    created_at timestamptz NOT NULL DEFAULT now(),
    last_used_at timestamptz NOT NULL DEFAULT now(),
    CHECK (state <> 'ready' OR (size_bytes IS NOT NULL AND sha256 IS NOT NULL))
);
CREATE UNIQUE INDEX user_cache_entries_key ON user_cache_entries (org_id, repo_identifier, scope, key)
    WHERE state = 'ready';
CREATE INDEX user_cache_entries_used ON user_cache_entries (org_id, last_used_at) WHERE state = 'ready';
CREATE INDEX user_cache_entries_unready ON user_cache_entries (created_at) WHERE state <> 'ready';

-- What secret outputs of a run are sealed to; gone with its end, and every sealed value with it (SE-39, SE-43).
CREATE TABLE execution_run_keys (
    run_id uuid PRIMARY KEY,
    public_key bytea NOT NULL,           -- X25519, raw
    private_key bytea NOT NULL,          -- sealed by KICI_SECRET_KEY
    created_at timestamptz NOT NULL DEFAULT now()
);

-- ── remote runs ──────────────────────────────────────────────────────────────────────────────────

-- Working trees that authors sent, sealed for a key of this row; kept for a day (AU-125).
CREATE TABLE remote_uploads (
    id uuid PRIMARY KEY,
    org_id text NOT NULL,
    object_key text NOT NULL UNIQUE,
    sha text NOT NULL,                   -- HEAD of the author's work tree
    private_key bytea NOT NULL,          -- X25519, sealed by KICI_SECRET_KEY
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX remote_uploads_age ON remote_uploads (created_at);
CREATE INDEX remote_uploads_org ON remote_uploads (org_id);
CREATE INDEX execution_run_remotes_overlay ON execution_run_remotes (overlay_key);
