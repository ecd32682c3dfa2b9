-- What a ledger's books are made again from and compared with, found without reading everything that is over.
CREATE INDEX cost_events_lapsed ON cost_events (org_id, ended_at_ms) WHERE measurement = 'lapsed';
CREATE INDEX budget_windows_end ON budget_windows (budget_id, generation, COALESCE(window_end_ms, 9223372036854775807));
