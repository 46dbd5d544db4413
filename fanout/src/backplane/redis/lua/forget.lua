-- Forgets departures that have been reported.
--
-- ARGV 3 user, or empty for all
if ARGV[3] == '' then redis.call('DEL', base .. 't:' .. inc) else redis.call('HDEL', base .. 't:' .. inc, ARGV[3]) end
tidy()
return 1
