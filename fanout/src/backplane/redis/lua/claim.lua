-- Claims the cleanup after an incarnation whose lease has lapsed, or whose earlier claim has expired.
--
-- KEYS 1 leases  2 claimed estates  3 addresses of nodes
-- ARGV 1 incarnation  2 ms the claim lasts  3 1: even if the lease has not lapsed (its own node gives it up)
-- Returns 1 if the caller has the claim, else 0
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local lapses = redis.call('ZSCORE', KEYS[1], ARGV[1])
local claimed = redis.call('ZSCORE', KEYS[2], ARGV[1])
if lapses and tonumber(lapses) > now and ARGV[3] ~= '1' then return 0 end
if not lapses and not (claimed and tonumber(claimed) <= now) and ARGV[3] ~= '1' then return 0 end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
redis.call('ZADD', KEYS[2], now + ARGV[2], ARGV[1])
return 1
