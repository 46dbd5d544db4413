-- Returns the entries near a place whose time is not over, the nearest first.
--
-- KEYS 1 places (geo)  2 exact places (hash)  3 until when (sorted set)
-- ARGV 1 longitude  2 latitude  3 metres  4 how many at most  5 1: all there are, for where geo sets do not reach
-- Returns {id, text, …}
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found
if ARGV[5] == '1' then
  found = redis.call('ZRANGEBYSCORE', KEYS[3], now, '+inf')
else
  found = redis.call('GEOSEARCH', KEYS[1], 'FROMLONLAT', ARGV[1], ARGV[2], 'BYRADIUS', ARGV[3], 'm', 'ASC',
    'COUNT', ARGV[4])
end
local near = {}
for _, id in ipairs(found) do
  local till = redis.call('ZSCORE', KEYS[3], id)
  local text = redis.call('HGET', KEYS[2], id)
  if till and text and tonumber(till) > now then
    table.insert(near, id)
    table.insert(near, text)
  end
end
return near
