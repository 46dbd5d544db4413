-- Whom backends let into rooms.
CREATE TABLE care_room_members (
    room_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    PRIMARY KEY (room_id, user_id)
);

-- Updating a room's row is what puts changes of whom it lets in one after the other.
CREATE TABLE care_granted_rooms (
    room_id TEXT PRIMARY KEY,
    revision BIGINT NOT NULL
);

-- Updating a conversation's row is what puts its messages in one order, whoever stores them.
CREATE TABLE care_conversations (
    id TEXT PRIMARY KEY,
    last_seq BIGINT NOT NULL,
    last_message_id TEXT NOT NULL
);

-- Who has written in a conversation or been written to.
CREATE TABLE care_conversation_users (
    user_id TEXT NOT NULL,
    conversation_id TEXT NOT NULL,
    PRIMARY KEY (user_id, conversation_id)
);

CREATE TABLE care_messages (
    id TEXT PRIMARY KEY,
    conversation_id TEXT NOT NULL,
    seq BIGINT NOT NULL,
    sender_id TEXT NOT NULL,
    sender_name TEXT NOT NULL,
    sender_role TEXT,
    recipient_id TEXT,
    room_id TEXT,
    visit_id TEXT,
    message TEXT NOT NULL,
    attachments TEXT NOT NULL,
    metadata TEXT NOT NULL,
    client_message_id TEXT,
    status TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (conversation_id, seq)
);

-- A message that is sent twice is stored once.
CREATE UNIQUE INDEX care_messages_of_client ON care_messages (sender_id, client_message_id)
    WHERE client_message_id IS NOT NULL;
CREATE INDEX care_messages_unread ON care_messages (recipient_id, conversation_id) WHERE status <> 'read';

CREATE TABLE care_calls (
    id TEXT PRIMARY KEY,
    caller_id TEXT NOT NULL,
    caller_name TEXT NOT NULL,
    recipient_id TEXT NOT NULL,
    call_type TEXT NOT NULL,
    visit_id TEXT,
    state TEXT NOT NULL,
    caller_socket TEXT,
    recipient_socket TEXT,
    created_at BIGINT NOT NULL,
    accepted_at BIGINT,
    ended_at BIGINT,
    ended_by TEXT,
    -- When any node looks after it.
    check_at BIGINT NOT NULL,
    lost_since BIGINT,
    lost_user TEXT,
    -- 1: it is over, and nothing is left to be done.
    settled BIGINT NOT NULL
);

CREATE INDEX care_calls_ringing ON care_calls (check_at) WHERE state = 'ringing';
CREATE INDEX care_calls_due ON care_calls (check_at) WHERE settled = 0 AND state <> 'ringing';

-- Nobody is in two calls.
CREATE TABLE care_call_parties (
    user_id TEXT PRIMARY KEY,
    call_id TEXT NOT NULL
);

CREATE INDEX care_call_parties_of ON care_call_parties (call_id);

CREATE TABLE care_notifications (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    title TEXT NOT NULL,
    message TEXT NOT NULL,
    kind TEXT,
    data TEXT,
    is_read BIGINT NOT NULL,
    idempotency_key TEXT,
    created_at BIGINT NOT NULL
);

CREATE INDEX care_notifications_of_user ON care_notifications (user_id, id);
CREATE INDEX care_notifications_unread ON care_notifications (user_id) WHERE is_read = 0;
CREATE UNIQUE INDEX care_notifications_once ON care_notifications (user_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
