-- When a data plane ended with nothing under way; NULL while it may have something that only it knows of.
ALTER TABLE dataplanes ADD COLUMN left_at_ms BIGINT;

-- Books of the ledger that are being made again, and what data planes have told of what they have under way.
CREATE TABLE ledger_rebuilds (
    org_id TEXT PRIMARY KEY,
    rebuild_id TEXT COLLATE "C" NOT NULL UNIQUE,
    began_at_ms BIGINT NOT NULL
);

CREATE TABLE ledger_deliveries (
    rebuild_id TEXT NOT NULL,
    dataplane_id TEXT NOT NULL,
    attempts BYTEA NOT NULL,
    PRIMARY KEY (rebuild_id, dataplane_id)
);
