-- The kill switch: what each organisation has frozen, by whom and why; lifted ones stay, to tell who lifted them.
CREATE TABLE freezes (
    id TEXT PRIMARY KEY,
    org_id TEXT NOT NULL REFERENCES organisations (id),
    entity_type TEXT NOT NULL CHECK (entity_type IN ('org', 'user', 'api_key', 'tag', 'customer', 'model')),
    entity_id TEXT NOT NULL,
    reason TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at_ms BIGINT NOT NULL,
    lifted_by TEXT,
    lifted_at_ms BIGINT,
    revision BIGINT NOT NULL
);
CREATE UNIQUE INDEX freezes_place ON freezes (org_id, entity_type, entity_id) WHERE lifted_at_ms IS NULL;
CREATE INDEX freezes_revision ON freezes (revision);

-- Identical calls that one key may make in a minute; absent: any number.
ALTER TABLE budgets ADD COLUMN loop_max_calls BIGINT;
