-- Writes a node's traits, and returns the traits of the other living nodes.
--
-- KEYS 1 leases  2 traits of nodes (hash: node -> start, traits)  3 the cluster's name
-- ARGV 1 node  2 its start in ms of Redis' clock; 0: now  3 its traits
--      4 a name for a cluster that has none
-- Returns {the cluster's name; this node's start; {node, start and traits, …} of the other living nodes}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local since = ARGV[2]
if since == '0' then since = string.format('%.0f', now) end
redis.call('SET', KEYS[3], ARGV[4], 'NX')
redis.call('HSET', KEYS[2], ARGV[1], since .. ' ' .. ARGV[3])
local living = {}
for _, inc in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now, '+inf')) do
  living[string.match(inc, '^[^-]*')] = true
end
local others = {}
local all = redis.call('HGETALL', KEYS[2])
for at = 1, #all, 2 do
  if living[all[at]] and all[at] ~= ARGV[1] then
    others[#others + 1] = all[at]
    others[#others + 1] = all[at + 1]
  elseif all[at] ~= ARGV[1] then
    redis.call('HDEL', KEYS[2], all[at])
  end
end
return {redis.call('GET', KEYS[3]), since, others}
