-- Incidents that were made here; participations may be of others.
CREATE TABLE sos_incidents (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    latitude DOUBLE PRECISION,
    longitude DOUBLE PRECISION,
    description TEXT,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX sos_incidents_nearby ON sos_incidents (status, latitude);

CREATE TABLE sos_participants (
    id TEXT PRIMARY KEY,
    sos_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    user_type TEXT NOT NULL,
    display_name TEXT NOT NULL,
    actor_type TEXT NOT NULL,
    status TEXT NOT NULL,
    joined_at BIGINT NOT NULL,
    left_at BIGINT
);

-- A user takes part once at a time, whoever writes it.
CREATE UNIQUE INDEX sos_participants_active ON sos_participants (sos_id, user_id) WHERE status = 'ACTIVE';
CREATE INDEX sos_participants_of_incident ON sos_participants (sos_id, joined_at, id);
CREATE INDEX sos_participants_of_user ON sos_participants (user_id, joined_at, id);
