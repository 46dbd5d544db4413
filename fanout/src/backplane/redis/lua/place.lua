-- Stores a place, and removes some expired ones.
--
-- KEYS 1 places (geo)  2 exact places (hash: id -> text)  3 until when (sorted set)
-- ARGV 1 id  2 longitude, as geo sets take it  3 latitude likewise  4 text: the exact place and what belongs to it
--      5 ms it is good for, 0: forget it
-- Returns 1
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local over = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, 100)
if ARGV[5] == '0' then table.insert(over, ARGV[1]) end
for _, id in ipairs(over) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  redis.call('ZREM', KEYS[3], id)
end
if ARGV[5] ~= '0' then
  redis.call('GEOADD', KEYS[1], ARGV[2], ARGV[3], ARGV[1])
  redis.call('HSET', KEYS[2], ARGV[1], ARGV[4])
  redis.call('ZADD', KEYS[3], now + ARGV[5], ARGV[1])
end
return 1
