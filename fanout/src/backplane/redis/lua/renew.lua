-- Renews a lease that has not lapsed, and returns all leases and claims. Times are in ms of Redis' clock.
--
-- KEYS 1 leases (sorted set: incarnation -> when it lapses)  2 claimed estates (the same)
-- ARGV 1 incarnation, empty: only ask  2 ms a lease lasts
-- Returns {1 if it was renewed, else 0; now; {incarnation, lapses, …}; {incarnation, claimed until, …}}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local held = 0
if ARGV[1] ~= '' then
  local lapses = redis.call('ZSCORE', KEYS[1], ARGV[1])
  if lapses and tonumber(lapses) > now then
    redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
    held = 1
  end
end
return {held, tostring(now), redis.call('ZRANGE', KEYS[1], 0, 9999, 'WITHSCORES'),
  redis.call('ZRANGE', KEYS[2], 0, 9999, 'WITHSCORES')}
