-- Operators' prices and the catalogue in force. Rates of a row never change; a change of its end is a new version.
CREATE TABLE price_rows (
    id TEXT COLLATE "C" PRIMARY KEY,
    version BIGINT NOT NULL,
    org_id TEXT COLLATE "C",
    from_ms BIGINT NOT NULL,
    until_ms BIGINT,
    terms TEXT COLLATE "C" NOT NULL,
    reason TEXT COLLATE "C" NOT NULL,
    created_by TEXT COLLATE "C" NOT NULL,
    created_at_ms BIGINT NOT NULL,
    updated_at_ms BIGINT NOT NULL,
    revision BIGINT NOT NULL
);
CREATE INDEX price_rows_revision ON price_rows (revision);

-- Every version of a row's end, since events name the version that priced them.
CREATE TABLE price_row_versions (
    price_id TEXT COLLATE "C" NOT NULL REFERENCES price_rows (id),
    version BIGINT NOT NULL,
    until_ms BIGINT,
    changed_by TEXT COLLATE "C" NOT NULL,
    changed_at_ms BIGINT NOT NULL,
    PRIMARY KEY (price_id, version)
);

-- Catalogues that were in force; the highest revision is.
CREATE TABLE price_catalogues (
    revision BIGINT PRIMARY KEY,
    version TEXT COLLATE "C" NOT NULL,
    body TEXT COLLATE "C" NOT NULL,
    loaded_at_ms BIGINT NOT NULL
);

-- The cost line by line, and which event an adjustment corrects.
ALTER TABLE cost_events ADD COLUMN detail TEXT COLLATE "C";
ALTER TABLE cost_events ADD COLUMN adjusts_event_id TEXT COLLATE "C";
CREATE INDEX cost_events_adjusts ON cost_events (adjusts_event_id);
