-- Returns the timers that are due by Redis' clock, and schedules them again for later, so that they are not lost if the
-- asking node dies.
--
-- KEYS 1 timers (sorted set: id -> when it is due, ms)
-- ARGV 1 how many at most  2 ms until they are due again  3 an id to be scheduled, empty for none  4 ms until it is due
-- Returns the ids
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[3] ~= '' then
  redis.call('ZADD', KEYS[1], now + ARGV[4], ARGV[3])
  return {}
end
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(due) do redis.call('ZADD', KEYS[1], now + ARGV[2], id) end
return due
