-- What must still be done because a record says so: stored in the transaction that changes the record, deleted when it is done.
CREATE TABLE jobs (
    id TEXT PRIMARY KEY,
    -- Empty: an event to be delivered, whatever app stored it.
    app TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- The entity that it is about: jobs of one subject are run one after the other.
    subject TEXT NOT NULL,
    payload TEXT NOT NULL,
    -- When it is due, in milliseconds since the epoch, by the clock of the node that stored it.
    due_at BIGINT NOT NULL,
    -- The node that runs it; another one takes it over when that node is gone. Empty: any node.
    claimed_by TEXT NOT NULL,
    -- The order in which a node stored its jobs.
    position BIGINT NOT NULL,
    attempts BIGINT NOT NULL
);

CREATE INDEX jobs_of_node ON jobs (claimed_by, position, id);
