-- One row for each room that has messages: the last number given in it. Updating it is what puts messages
-- of a room in one order, whoever stores them.
CREATE TABLE chat_rooms (
    room_id TEXT PRIMARY KEY,
    last_seq BIGINT NOT NULL
);

CREATE TABLE chat_messages (
    id TEXT PRIMARY KEY,
    room_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    user_id TEXT NOT NULL,
    user_name TEXT NOT NULL,
    user_avatar TEXT,
    content TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (room_id, seq)
);
