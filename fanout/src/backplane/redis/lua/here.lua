-- Whether a user is in a room on any node, including nodes that are not cleaned up yet.
--
-- ARGV 3 user
-- Returns 1 if so, else 0
return is_here(incarnations(), ARGV[3]) and 1 or 0
