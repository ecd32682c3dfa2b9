-- What a ledger's books are made again from and compared with, found without reading everything that is over.
CREATE INDEX cost_events_lapsed ON cost_events (org_id, ended_at_ms) WHERE measurement = 'lapsed';
CREATE INDEX budget_windows_end ON budget_windows (budget_id, generation, COALESCE(window_end_ms, 9223372036854775807));

-- An index costs every event an entry, also one whose column is null: these are of the few that have something there.
-- `cost_events_adjusted` finds adjustments as well as `cost_events_adjusts` did.
DROP INDEX cost_events_adjusts;
DROP INDEX cost_events_session;
CREATE INDEX cost_events_session ON cost_events (org_id, session_id, ended_at_ms, id) WHERE session_id IS NOT NULL;
