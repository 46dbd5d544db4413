-- A user's time to come back is over.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 user  4 1: answer also where nobody lingered
-- Returns 1 if the user is gone and had not come back, else 0
local base, inc, user = ARGV[1], ARGV[2], ARGV[3]
local lingered = redis.call('HDEL', base .. 'l:' .. inc, user)
local gone = 1
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 or redis.call('HEXISTS', base .. 'l:' .. other, user) == 1 then
    gone = 0
  end
end
if redis.call('EXISTS', base .. 'm:' .. inc, base .. 'l:' .. inc) == 0 then redis.call('SREM', KEYS[1], inc) end
if lingered == 0 and ARGV[4] ~= '1' then return 0 end
return gone
