-- Which control plane makes the books again, and until when nobody else does.
ALTER TABLE ledger_rebuilds ADD COLUMN claimed_by TEXT;
ALTER TABLE ledger_rebuilds ADD COLUMN claimed_until_ms BIGINT NOT NULL DEFAULT 0;
-- 1: the books are being opened, and what was delivered is used up.
ALTER TABLE ledger_rebuilds ADD COLUMN opening BIGINT NOT NULL DEFAULT 0;
