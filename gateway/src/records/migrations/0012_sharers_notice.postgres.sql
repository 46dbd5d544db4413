-- Sharers wait for each other's changes instead of looking for them again and again.
CREATE FUNCTION muster_sharers_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('muster_sharers', '');
    RETURN NULL;
END
$$;

CREATE TRIGGER sharers_changed AFTER INSERT OR UPDATE OR DELETE ON sharers
    FOR EACH STATEMENT EXECUTE FUNCTION muster_sharers_changed();
