-- Control planes that data planes follow, and which policy all of those enforce: a change waits for the others' too.
CREATE TABLE control_planes (
    id TEXT COLLATE "C" PRIMARY KEY,
    enforced_revision BIGINT NOT NULL,
    -- By the database's clock.
    until_ms BIGINT NOT NULL
);
