CREATE TABLE emergencies (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    user_avatar TEXT,
    kind TEXT NOT NULL,
    category TEXT,
    description TEXT,
    latitude DOUBLE PRECISION NOT NULL,
    longitude DOUBLE PRECISION NOT NULL,
    address TEXT,
    priority TEXT NOT NULL,
    severity BIGINT,
    anonymous BIGINT NOT NULL,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    ended_at BIGINT,
    ended_by TEXT,
    resolution_type TEXT,
    resolution_notes TEXT,
    -- 0: helpers have not been told of it yet.
    alerted BIGINT NOT NULL
);

CREATE INDEX emergencies_nearby ON emergencies (status, latitude);
CREATE INDEX emergencies_of_user ON emergencies (user_id, status);
CREATE INDEX emergencies_unalerted ON emergencies (created_at) WHERE alerted = 0;

CREATE TABLE emergency_helpers (
    emergency_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    trust_score TEXT,
    rating_average TEXT,
    rating_count TEXT,
    status TEXT NOT NULL,
    notes TEXT,
    joined_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    -- 1: the emergency is open, and they respond.
    is_open BIGINT NOT NULL,
    PRIMARY KEY (emergency_id, user_id)
);

CREATE INDEX emergency_helpers_open ON emergency_helpers (user_id) WHERE is_open = 1;

CREATE TABLE emergency_messages (
    id TEXT PRIMARY KEY,
    emergency_id TEXT NOT NULL,
    sender_id TEXT NOT NULL,
    sender_role TEXT NOT NULL,
    recipient_id TEXT,
    message TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX emergency_messages_of ON emergency_messages (emergency_id, id);
