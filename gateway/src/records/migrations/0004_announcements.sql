-- Events that are owed to clients: written with what they tell of, gone when they are told.
CREATE TABLE announcements (
    id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    audience TEXT NOT NULL,
    recipient TEXT NOT NULL,
    except_socket TEXT,
    except_user TEXT,
    -- Where an app delivers it itself, on every node.
    sequence BIGINT,
    event TEXT NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE INDEX announcements_left_over ON announcements (created_at);
