-- What each session has spent of each budget that limits sessions, since it was last idle for a day; kept in the
-- transaction of the event that spent it; ledgers load from here.
CREATE TABLE budget_sessions (
    budget_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    session_id TEXT NOT NULL,
    settled_nanos BIGINT NOT NULL,
    first_used_ms BIGINT NOT NULL,
    last_used_ms BIGINT NOT NULL,
    PRIMARY KEY (budget_id, generation, session_id)
) WITHOUT ROWID;
CREATE INDEX budget_sessions_age ON budget_sessions (last_used_ms);
