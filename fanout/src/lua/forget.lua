-- Users have been told to be gone.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 user, or empty for all
local base, inc = ARGV[1], ARGV[2]
if ARGV[3] == '' then redis.call('DEL', base .. 't:' .. inc) else redis.call('HDEL', base .. 't:' .. inc, ARGV[3]) end
if redis.call('EXISTS', base .. 'm:' .. inc, base .. 'l:' .. inc, base .. 't:' .. inc) == 0 then
  redis.call('SREM', KEYS[1], inc)
end
return 1
