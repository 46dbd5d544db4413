-- A socket leaves a room.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 socket  4 user  5 info  6 seconds the keys are kept
--      7 1 if the user may come back and is to linger, else 0
-- Returns 0 if the user is still in the room, 1 if that was the last socket, 2 if the user lingers now
local base, inc, user = ARGV[1], ARGV[2], ARGV[4]
if redis.call('HDEL', base .. 'm:' .. inc, ARGV[3]) == 1 then
  if redis.call('HINCRBY', base .. 'u:' .. inc, user, -1) <= 0 then redis.call('HDEL', base .. 'u:' .. inc, user) end
end
local result = 1
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 then result = 0 end
end
if result == 1 and ARGV[7] == '1' then
  redis.call('HSET', base .. 'l:' .. inc, user, ARGV[5])
  redis.call('EXPIRE', base .. 'l:' .. inc, ARGV[6])
  redis.call('SADD', KEYS[1], inc)
  redis.call('EXPIRE', KEYS[1], ARGV[6])
  result = 2
end
if result == 1 then
  -- Kept until it has been told: if the answer is lost, or who asked, somebody else tells.
  redis.call('HSET', base .. 't:' .. inc, user, ARGV[5])
  redis.call('EXPIRE', base .. 't:' .. inc, ARGV[6])
  redis.call('SADD', KEYS[1], inc)
  redis.call('EXPIRE', KEYS[1], ARGV[6])
elseif redis.call('EXISTS', base .. 'm:' .. inc, base .. 'l:' .. inc, base .. 't:' .. inc) == 0 then
  redis.call('SREM', KEYS[1], inc)
end
return result
