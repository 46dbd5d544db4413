-- A change of the file is seen from outside (records/bell.rs); PostgreSQL needs a trigger.
SELECT 1;
