-- A node that stores jobs about an entity looks for those that others have stored about it.
CREATE INDEX jobs_of_subject ON jobs (subject);
