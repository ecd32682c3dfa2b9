-- An event's adjustments are numbered by their revision: two runs at once cannot both book the same one.
CREATE UNIQUE INDEX cost_events_adjusted ON cost_events (adjusts_event_id, revision) WHERE adjusts_event_id IS NOT NULL;
