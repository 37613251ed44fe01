-- The Platform's own data: people, orgs, who may connect, what waits for an orchestrator, and a
-- projection of run metadata. Never secret values, source code or log text (PD-2). Every tenant table
-- carries org_id and is read through it (PD-11). Tokens are stored as SHA-256 (PD-49).

CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- ── people and orgs ──────────────────────────────────────────────────────────────────────────────

CREATE TABLE orgs (
    id text PRIMARY KEY CHECK (id ~ '^org_[a-z0-9]{12}$'),
    alias text NOT NULL UNIQUE CHECK (alias ~ '^oal_[a-z0-9]{12}$'),
    name text NOT NULL CHECK (name <> ''),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL CHECK (email = lower(email)),
    display_name text NOT NULL,
    password_hash text,                  -- argon2id; NULL: signs in by link or token only
    created_at timestamptz NOT NULL DEFAULT now(),
    suspended_at timestamptz
);
CREATE UNIQUE INDEX users_email ON users (email);

CREATE TABLE org_members (
    org_id text NOT NULL REFERENCES orgs (id),
    user_id uuid NOT NULL REFERENCES users (id),
    role text NOT NULL CHECK (role IN ('owner', 'member')),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX org_members_user ON org_members (user_id);

CREATE TABLE sessions (
    token_sha256 bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    user_agent text NOT NULL,
    ip text,
    created_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,   -- written at most once a minute
    expires_at timestamptz NOT NULL      -- absolute
);
CREATE INDEX sessions_user ON sessions (user_id);

-- One-time links: `setup` makes the first account, `sign_in` opens a session of `user_id`.
CREATE TABLE sign_in_links (
    token_sha256 bytea PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('setup', 'sign_in')),
    user_id uuid REFERENCES users (id),
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CHECK ((kind = 'sign_in') = (user_id IS NOT NULL))
);

CREATE TABLE sign_in_failures (
    key text NOT NULL,                   -- account:<email> or ip:<address>
    at timestamptz NOT NULL
);
CREATE INDEX sign_in_failures_key ON sign_in_failures (key, at);

CREATE TABLE pats (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    name text NOT NULL,
    token_sha256 bytea NOT NULL UNIQUE,
    display text NOT NULL,
    kind text NOT NULL DEFAULT 'user' CHECK (kind IN ('user', 'agent')),
    agent_label text,                    -- whose doing it is, on every audit row
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz,
    CHECK ((kind = 'agent') = (agent_label IS NOT NULL))
);
CREATE INDEX pats_user ON pats (user_id, created_at);

-- ── sign-in of the command line (PD-48): every secret is hashed, short-lived and good for one use ──

CREATE TABLE oauth_codes (
    code_sha256 bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    redirect_uri text NOT NULL,
    challenge text NOT NULL,             -- PKCE, S256
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);

CREATE TABLE oauth_devices (
    device_sha256 bytea PRIMARY KEY,
    user_code_sha256 bytea NOT NULL UNIQUE,
    challenge text,                      -- PKCE, S256; NULL when the client sent none
    ip text,                             -- who asked: shown to the person who approves
    user_id uuid REFERENCES users (id),  -- who decided
    approved boolean,                    -- NULL while nobody decided
    interval_s int NOT NULL,             -- grows with each poll that comes too soon
    polled_at timestamptz,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    CHECK ((approved IS NULL) = (user_id IS NULL))
);

-- Good for one exchange against a personal access token and for nothing else.
CREATE TABLE oauth_grants (
    token_sha256 bytea PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users (id),
    origin_sha256 bytea NOT NULL,        -- the code it came from: shown twice, both end
    pat_id uuid REFERENCES pats (id),    -- what it was exchanged for
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz
);
CREATE INDEX oauth_grants_origin ON oauth_grants (origin_sha256);

CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    org_id text,                         -- NULL: about an account, not an org
    actor_kind text NOT NULL,
    actor_id text NOT NULL,
    action text NOT NULL,
    target_type text NOT NULL,
    target_id text NOT NULL,
    details jsonb NOT NULL DEFAULT '{}', -- never secrets or tokens
    ip text,
    request_id text,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_org ON audit_log (org_id, id DESC);

-- ── orchestrators ────────────────────────────────────────────────────────────────────────────────

CREATE TABLE orchestrator_keys (
    id uuid PRIMARY KEY,
    org_id text NOT NULL REFERENCES orgs (id),
    name text NOT NULL,
    token_sha256 bytea NOT NULL UNIQUE,
    display text NOT NULL,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX orchestrator_keys_org ON orchestrator_keys (org_id, created_at);

-- One row per orchestrator process that ever connected; `replica` is the Platform that holds its socket.
CREATE TABLE platform_connections (
    org_id text NOT NULL REFERENCES orgs (id),
    cluster_name text NOT NULL,
    instance_id text NOT NULL,
    connection_id uuid NOT NULL,
    key_id uuid NOT NULL REFERENCES orchestrator_keys (id),
    replica text,                        -- NULL: not connected
    version text NOT NULL,
    mode text NOT NULL CHECK (mode IN ('platform', 'hybrid', 'independent')),
    hostname text NOT NULL,
    connected_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, cluster_name, instance_id)
);

CREATE TABLE sources (
    org_id text NOT NULL REFERENCES orgs (id),
    routing_key text NOT NULL,
    name text NOT NULL,
    provider text NOT NULL,
    subtype text NOT NULL,
    max_payload_bytes int NOT NULL,
    cluster_name text NOT NULL,
    registered_at timestamptz NOT NULL,
    removed_at timestamptz,
    PRIMARY KEY (org_id, routing_key)
);
CREATE INDEX sources_name ON sources (org_id, name);

-- ── webhooks ─────────────────────────────────────────────────────────────────────────────────────

-- Deliveries that nobody acknowledged yet; replayed in order of id per routing key, kept until
-- acknowledged or expired. Head and body are sealed (AES-256-GCM): headers carry signatures.
CREATE TABLE webhook_inbox (
    id uuid PRIMARY KEY,
    org_id text NOT NULL REFERENCES orgs (id),
    routing_key text NOT NULL,
    request_id text NOT NULL,
    sealed bytea NOT NULL,
    size_bytes int NOT NULL,             -- of the body
    received_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
ALTER TABLE webhook_inbox ALTER COLUMN sealed SET STORAGE EXTERNAL;
CREATE INDEX webhook_inbox_order ON webhook_inbox (org_id, routing_key, id);
CREATE INDEX webhook_inbox_expiry ON webhook_inbox (expires_at);

-- The inbox's bounds, kept in the same transaction as its rows.
CREATE TABLE webhook_inbox_usage (
    org_id text PRIMARY KEY REFERENCES orgs (id),
    entries bigint NOT NULL CHECK (entries >= 0),
    bytes bigint NOT NULL CHECK (bytes >= 0)
);

-- What came in and what became of it, without bodies (PD-76). Written in batches after the answer: the
-- orchestrator's own log is the record, this one serves while it is away.
CREATE TABLE event_log (
    org_id text NOT NULL,
    request_id text NOT NULL,
    routing_key text NOT NULL,
    source_name text NOT NULL,
    event text,
    delivery_id text,
    status text NOT NULL CHECK (status IN ('received', 'duplicate', 'queued', 'replayed', 'expired',
                                           'rejected', 'failed')),
    http_status int NOT NULL,
    reason text,
    size_bytes int NOT NULL,
    client_ip text,
    received_at timestamptz NOT NULL,
    settled_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, request_id)
);
CREATE INDEX event_log_recent ON event_log (org_id, received_at DESC);
CREATE INDEX event_log_age ON event_log USING brin (received_at);

-- ── the projection ───────────────────────────────────────────────────────────────────────────────
-- `doc` is the orchestrator's snapshot as it came; the columns beside it exist to filter and sort.
-- `rev` is the orchestrator's outbox sequence: an older one never overwrites a newer one (PD-33).

CREATE TABLE execution_runs (
    org_id text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    rev bigint NOT NULL,
    cluster_name text NOT NULL,
    created_at timestamptz NOT NULL,
    duration_ms bigint,
    source_key bigint NOT NULL,          -- 64-bit digest of the routing key
    status text COLLATE "C" NOT NULL,
    display_status text COLLATE "C" NOT NULL,
    workflow_name text COLLATE "C" NOT NULL,
    branch text COLLATE "C" NOT NULL,    -- '' when the event has none
    repo_identifier text COLLATE "C" NOT NULL,
    trigger_event text COLLATE "C" NOT NULL,
    ref text COLLATE "C" NOT NULL,
    sha text COLLATE "C" NOT NULL,
    doc jsonb NOT NULL,                  -- RunProjection
    PRIMARY KEY (org_id, run_id)
) WITH (fillfactor = 85, autovacuum_vacuum_insert_scale_factor = 0.02,
        autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);

-- Each filter has an index in list order that also holds the other filters, so that any combination is
-- one index-only scan over the rarest of its values; see kici.platform.runs.queries.
CREATE INDEX execution_runs_recent ON execution_runs (org_id, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event, source_key, sha);
CREATE INDEX execution_runs_status ON execution_runs (org_id, status, created_at, run_id)
    INCLUDE (display_status, workflow_name, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_shown ON execution_runs (org_id, display_status, created_at, run_id)
    INCLUDE (status, workflow_name, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_workflow ON execution_runs (org_id, workflow_name, created_at, run_id)
    INCLUDE (status, display_status, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_branch ON execution_runs (org_id, branch, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_repository ON execution_runs (org_id, repo_identifier, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, trigger_event, source_key);
CREATE INDEX execution_runs_trigger ON execution_runs (org_id, trigger_event, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, source_key);
CREATE INDEX execution_runs_source ON execution_runs (org_id, source_key, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event);
CREATE INDEX execution_runs_sha ON execution_runs (org_id, sha, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_ref ON execution_runs (org_id, ref, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_shortest ON execution_runs (org_id, duration_ms, created_at, run_id)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event, source_key);
CREATE INDEX execution_runs_longest ON execution_runs
    (org_id, duration_ms DESC NULLS LAST, created_at DESC, run_id DESC)
    INCLUDE (status, display_status, workflow_name, branch, repo_identifier, trigger_event, source_key);

-- Words of a run that never change, for the search box: written once per run.
CREATE TABLE run_search (
    org_id text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    words text COLLATE "C" NOT NULL,     -- lower case
    PRIMARY KEY (org_id, run_id)
);
CREATE INDEX run_search_words ON run_search USING gin (words gin_trgm_ops);

CREATE TABLE execution_jobs (
    org_id text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    job_id uuid NOT NULL,
    rev bigint NOT NULL,
    doc jsonb NOT NULL,                  -- JobProjection
    PRIMARY KEY (org_id, run_id, job_id)
) WITH (fillfactor = 80);

CREATE TABLE execution_steps (
    org_id text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    job_id uuid NOT NULL,
    attempt int NOT NULL,
    step_index int NOT NULL,
    rev bigint NOT NULL,
    doc jsonb NOT NULL,                  -- StepProjection
    PRIMARY KEY (org_id, run_id, job_id, attempt, step_index)
) WITH (fillfactor = 80);

-- Events have no id of their own: the outbox row that brought one and its place there make it unique.
CREATE TABLE run_events (
    org_id text COLLATE "C" NOT NULL,
    run_id uuid NOT NULL,
    rev bigint NOT NULL,
    place int NOT NULL,
    doc jsonb NOT NULL,                  -- RunEventView
    PRIMARY KEY (org_id, run_id, rev, place)
);
