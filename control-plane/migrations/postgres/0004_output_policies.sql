-- What a budget does with answers that may cost more than is left.
ALTER TABLE budgets ADD COLUMN clamp_output BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE budgets ADD COLUMN incremental_hold BOOLEAN NOT NULL DEFAULT FALSE;
