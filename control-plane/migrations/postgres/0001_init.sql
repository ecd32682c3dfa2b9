-- The same schema as the SQLite one; every text sorts by its bytes there, so here too (COLLATE "C").
-- Ids: bare UUID text. Money: nano-dollars. Times: Unix milliseconds. JSON: TEXT, never looked into by SQL.
-- Rows with a revision are policy: the revision of their last change, and soft deletion, make deltas readable.

CREATE TABLE policy_state (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    revision BIGINT NOT NULL,
    history_id TEXT COLLATE "C" NOT NULL
);

-- The node whose in-process ledger holds this database's counters.
CREATE TABLE node (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    node_id TEXT COLLATE "C" NOT NULL,
    claimed_at_ms BIGINT NOT NULL
);

CREATE TABLE organisations (
    id TEXT COLLATE "C" PRIMARY KEY,
    name TEXT COLLATE "C" NOT NULL,
    slug TEXT COLLATE "C" NOT NULL UNIQUE,
    unpriced_hold_nanos BIGINT,
    created_at_ms BIGINT NOT NULL,
    deleted_at_ms BIGINT,
    revision BIGINT NOT NULL
);
CREATE INDEX organisations_revision ON organisations (revision);

CREATE TABLE users (
    id TEXT COLLATE "C" PRIMARY KEY,
    email TEXT COLLATE "C" UNIQUE,
    display_name TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL
);

CREATE TABLE memberships (
    org_id TEXT COLLATE "C" NOT NULL REFERENCES organisations (id),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    role TEXT COLLATE "C" NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
    created_at_ms BIGINT NOT NULL,
    PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id);

CREATE TABLE api_keys (
    id TEXT COLLATE "C" PRIMARY KEY,
    org_id TEXT COLLATE "C" NOT NULL REFERENCES organisations (id),
    user_id TEXT COLLATE "C" NOT NULL REFERENCES users (id),
    name TEXT COLLATE "C" NOT NULL,
    key_sha256 TEXT COLLATE "C" NOT NULL UNIQUE,
    key_prefix TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C" NOT NULL CHECK (role IN ('agent', 'viewer', 'member', 'admin', 'owner')),
    default_tags TEXT COLLATE "C" NOT NULL,
    locked_tags TEXT COLLATE "C" NOT NULL,
    required_tags TEXT COLLATE "C" NOT NULL,
    allowed_models TEXT COLLATE "C",
    allowed_providers TEXT COLLATE "C",
    api_version TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    last_used_at_ms BIGINT,
    revoked_at_ms BIGINT,
    revision BIGINT NOT NULL
);
CREATE INDEX api_keys_list ON api_keys (org_id, created_at_ms, id);
CREATE INDEX api_keys_revision ON api_keys (revision);

CREATE TABLE budgets (
    id TEXT COLLATE "C" PRIMARY KEY,
    org_id TEXT COLLATE "C" NOT NULL REFERENCES organisations (id),
    entity_type TEXT COLLATE "C" NOT NULL CHECK (entity_type IN ('org', 'user', 'api_key', 'tag', 'customer')),
    entity_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    limit_nanos BIGINT NOT NULL CHECK (limit_nanos > 0),
    policy TEXT COLLATE "C" NOT NULL CHECK (policy IN ('strict_block', 'soft_block', 'warn')),
    reset_interval TEXT COLLATE "C" NOT NULL CHECK (reset_interval IN ('daily', 'weekly', 'monthly', 'yearly', 'none')),
    time_zone TEXT COLLATE "C" NOT NULL,
    thresholds TEXT COLLATE "C" NOT NULL,
    velocity_limit_nanos BIGINT,
    velocity_window_s BIGINT NOT NULL,
    velocity_cooldown_s BIGINT NOT NULL,
    session_limit_nanos BIGINT,
    finalization_reserve_nanos BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    generation_started_at_ms BIGINT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    deleted_at_ms BIGINT,
    revision BIGINT NOT NULL
);
CREATE UNIQUE INDEX budgets_place ON budgets (org_id, entity_type, entity_id, name) WHERE deleted_at_ms IS NULL;
CREATE INDEX budgets_revision ON budgets (revision);

-- Settled spend of each window, kept in the transaction of the event that spent it; ledgers load from here.
CREATE TABLE budget_windows (
    budget_id TEXT COLLATE "C" NOT NULL,
    generation BIGINT NOT NULL,
    window_start_ms BIGINT NOT NULL,
    window_end_ms BIGINT,
    settled_nanos BIGINT NOT NULL,
    PRIMARY KEY (budget_id, generation, window_start_ms)
);

-- No foreign keys: an event is never refused because something it names is gone.
CREATE TABLE cost_events (
    id TEXT COLLATE "C" PRIMARY KEY,
    org_id TEXT COLLATE "C" NOT NULL,
    request_id TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C",
    user_id TEXT COLLATE "C",
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    served_model TEXT COLLATE "C",
    api TEXT COLLATE "C",
    upstream TEXT COLLATE "C",
    source TEXT COLLATE "C" NOT NULL,
    event_type TEXT COLLATE "C" NOT NULL,
    input_tokens BIGINT NOT NULL,
    output_tokens BIGINT NOT NULL,
    cached_input_tokens BIGINT NOT NULL,
    cache_write_tokens BIGINT NOT NULL,
    reasoning_tokens BIGINT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    has_parts BOOLEAN NOT NULL,
    input_nanos BIGINT NOT NULL,
    cached_nanos BIGINT NOT NULL,
    output_nanos BIGINT NOT NULL,
    fees_nanos BIGINT NOT NULL,
    reasoning_nanos BIGINT NOT NULL,
    tool_definition_nanos BIGINT NOT NULL,
    held_nanos BIGINT,
    duration_ms BIGINT,
    upstream_ms BIGINT,
    ttfb_ms BIGINT,
    overhead_us BIGINT,
    started_at_ms BIGINT NOT NULL,
    ended_at_ms BIGINT NOT NULL,
    ingested_at_ms BIGINT NOT NULL,
    trace_id TEXT COLLATE "C",
    session_id TEXT COLLATE "C",
    customer_id TEXT COLLATE "C",
    action_id TEXT COLLATE "C",
    tags TEXT COLLATE "C" NOT NULL,
    budget_status TEXT COLLATE "C",
    stop_reason TEXT COLLATE "C",
    measurement TEXT COLLATE "C" NOT NULL,
    ending TEXT COLLATE "C",
    status_code BIGINT,
    stream BOOLEAN NOT NULL,
    unpriced BOOLEAN NOT NULL,
    revision BIGINT NOT NULL,
    price_id TEXT COLLATE "C",
    price_version TEXT COLLATE "C",
    tool_name TEXT COLLATE "C",
    tool_server TEXT COLLATE "C",
    charges TEXT COLLATE "C" NOT NULL,
    dataplane_id TEXT COLLATE "C"
);
CREATE INDEX cost_events_list ON cost_events (org_id, ended_at_ms, id);
CREATE INDEX cost_events_key ON cost_events (org_id, key_id, ended_at_ms, id);
CREATE INDEX cost_events_trace ON cost_events (org_id, trace_id);
CREATE INDEX cost_events_session ON cost_events (org_id, session_id, ended_at_ms, id);
CREATE INDEX cost_events_request ON cost_events (org_id, request_id);
CREATE INDEX cost_events_follow ON cost_events (ingested_at_ms, id);
-- Reporters name their requests and may repeat themselves; the proxy's events are unique by id alone.
CREATE UNIQUE INDEX cost_events_reported ON cost_events (org_id, request_id, provider) WHERE source = 'api';

-- Tags of events and of denials, for filters.
CREATE TABLE cost_event_tags (
    event_id TEXT COLLATE "C" NOT NULL,
    name TEXT COLLATE "C" NOT NULL,
    value TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (event_id, name)
);
CREATE INDEX cost_event_tags_find ON cost_event_tags (name, value, event_id);

-- Refused requests: kept for explaining, for days, not for ever.
CREATE TABLE denials (
    id TEXT COLLATE "C" PRIMARY KEY,
    org_id TEXT COLLATE "C" NOT NULL,
    key_id TEXT COLLATE "C",
    at_ms BIGINT NOT NULL,
    code TEXT COLLATE "C" NOT NULL,
    provider TEXT COLLATE "C" NOT NULL,
    model TEXT COLLATE "C" NOT NULL,
    trace_id TEXT COLLATE "C",
    session_id TEXT COLLATE "C",
    customer_id TEXT COLLATE "C",
    tags TEXT COLLATE "C" NOT NULL,
    estimated_nanos BIGINT NOT NULL,
    details TEXT COLLATE "C" NOT NULL,
    suppressed BIGINT NOT NULL,
    ingested_at_ms BIGINT NOT NULL
);
CREATE INDEX denials_list ON denials (org_id, at_ms, id);
CREATE INDEX denials_age ON denials (at_ms);

-- Records that could not be understood: never lost, never in the way.
CREATE TABLE quarantine (
    dataplane_id TEXT COLLATE "C" NOT NULL,
    seq BIGINT NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    payload TEXT COLLATE "C" NOT NULL,
    quarantined_at_ms BIGINT NOT NULL,
    PRIMARY KEY (dataplane_id, seq)
);

CREATE TABLE dataplanes (
    id TEXT COLLATE "C" PRIMARY KEY,
    acked_seq BIGINT NOT NULL,
    first_seen_at_ms BIGINT NOT NULL,
    last_seen_at_ms BIGINT NOT NULL
);

CREATE TABLE idempotency (
    org_id TEXT COLLATE "C" NOT NULL,
    method TEXT COLLATE "C" NOT NULL,
    idempotency_key TEXT COLLATE "C" NOT NULL,
    request_sha256 TEXT COLLATE "C" NOT NULL,
    finished BOOLEAN NOT NULL,
    response BYTEA,
    http_status BIGINT NOT NULL,
    begun_at_ms BIGINT NOT NULL,
    PRIMARY KEY (org_id, method, idempotency_key)
);
CREATE INDEX idempotency_age ON idempotency (begun_at_ms);
