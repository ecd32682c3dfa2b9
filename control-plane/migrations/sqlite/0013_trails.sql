-- How each attempt was decided, beside its event or denial: the planes' own message, which only explanations read.
-- `closed`: told by a record of how the attempt ended, which a later record of a crash does not replace.
CREATE TABLE trails (
    attempt_id TEXT PRIMARY KEY,
    trail BLOB NOT NULL,
    closed BOOLEAN NOT NULL
) WITHOUT ROWID;

-- What events said before the truth replaced them.
CREATE TABLE event_revisions (
    event_id TEXT NOT NULL,
    revision BIGINT NOT NULL,
    measurement TEXT NOT NULL,
    cost_nanos BIGINT NOT NULL,
    ended_at_ms BIGINT NOT NULL,
    replaced_at_ms BIGINT NOT NULL,
    PRIMARY KEY (event_id, revision)
) WITHOUT ROWID;

CREATE INDEX denials_trace ON denials (org_id, trace_id);
