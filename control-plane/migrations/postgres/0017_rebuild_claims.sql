-- Which control plane makes the books again, and until when nobody else does.
ALTER TABLE ledger_rebuilds ADD COLUMN claimed_by TEXT;
ALTER TABLE ledger_rebuilds ADD COLUMN claimed_until_ms BIGINT NOT NULL DEFAULT 0;
