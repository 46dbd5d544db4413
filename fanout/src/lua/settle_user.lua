-- A user's time to come back is over.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 user  4 info  5 seconds the keys are kept
--      6 1: answer also where nobody lingered
-- Returns 1 if the user is gone and had not come back, else 0; asked again, the same until it is forgotten
local base, inc, user = ARGV[1], ARGV[2], ARGV[3]
local waits = redis.call('HDEL', base .. 'l:' .. inc, user) == 1
  or redis.call('HEXISTS', base .. 't:' .. inc, user) == 1 or ARGV[6] == '1'
local gone = waits and 1 or 0
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 or redis.call('HEXISTS', base .. 'l:' .. other, user) == 1 then
    gone = 0
  end
end
if gone == 1 then
  redis.call('HSET', base .. 't:' .. inc, user, ARGV[4])
  redis.call('EXPIRE', base .. 't:' .. inc, ARGV[5])
  redis.call('SADD', KEYS[1], inc)
  redis.call('EXPIRE', KEYS[1], ARGV[5])
elseif redis.call('EXISTS', base .. 'm:' .. inc, base .. 'l:' .. inc, base .. 't:' .. inc) == 0 then
  redis.call('SREM', KEYS[1], inc)
end
return gone
