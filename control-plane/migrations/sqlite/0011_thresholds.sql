-- Thresholds that a window's settled spend has reached: written in the transaction of the event that reached them, once.
CREATE TABLE threshold_events (
    budget_id TEXT NOT NULL,
    generation BIGINT NOT NULL,
    window_start_ms BIGINT NOT NULL,
    percent BIGINT NOT NULL,
    settled_nanos BIGINT NOT NULL,
    limit_nanos BIGINT NOT NULL,
    reached_at_ms BIGINT NOT NULL,
    PRIMARY KEY (budget_id, generation, window_start_ms, percent)
) WITHOUT ROWID;
