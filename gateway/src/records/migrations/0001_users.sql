CREATE TABLE users (
    id TEXT PRIMARY KEY,
    email TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    role TEXT,
    avatar TEXT,
    password_hash TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
