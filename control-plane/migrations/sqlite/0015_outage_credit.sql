-- What each data plane may spend of the budget while the ledger does not answer.
ALTER TABLE budgets ADD COLUMN outage_credit_nanos BIGINT NOT NULL DEFAULT 0;
