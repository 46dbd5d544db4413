-- Which records these are: one row, a name that no others have.
CREATE TABLE records_identity (name TEXT PRIMARY KEY NOT NULL);
INSERT INTO records_identity (name) VALUES (md5(random()::text || clock_timestamp()::text));

-- Who uses them: each cluster, and each node without a Redis. More than one at a time is a mistake (records/sharing.rs).
CREATE TABLE sharers (
    name TEXT PRIMARY KEY NOT NULL,
    since BIGINT NOT NULL,
    asked BIGINT NOT NULL,
    answered BIGINT NOT NULL
);
