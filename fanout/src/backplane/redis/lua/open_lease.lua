-- Opens a lease for a new incarnation.
--
-- KEYS 1 leases  2 how nodes are reached (hash: incarnation -> info)
-- ARGV 1 incarnation  2 ms a lease lasts  3 info  4 node id that no other node may have, or empty
-- Returns 1, or 0 if another living node has that id
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if ARGV[4] ~= '' then
  for _, inc in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
    if string.sub(inc, 1, #ARGV[4] + 1) == ARGV[4] .. '-' then return 0 end
  end
end
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[3])
return 1
