-- Writes members of an incarnation that already are in the room.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 seconds the keys are kept  then socket, user, info, …
-- Returns user, info, user, info, …: users of whom no socket was in the room and who did not linger
local base, inc = ARGV[1], ARGV[2]
local others = redis.call('SMEMBERS', KEYS[1])
local firsts = {}
for i = 4, #ARGV, 3 do
  local user, info = ARGV[i + 1], ARGV[i + 2]
  local first = redis.call('HEXISTS', base .. 'u:' .. inc, user) == 0
  for _, other in ipairs(others) do
    if redis.call('HDEL', base .. 'l:' .. other, user) == 1 then first = false end
    redis.call('HDEL', base .. 't:' .. other, user)
    if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 then first = false end
  end
  if redis.call('HSET', base .. 'm:' .. inc, ARGV[i], user .. '\n' .. info) == 1 then
    redis.call('HINCRBY', base .. 'u:' .. inc, user, 1)
  end
  if first then
    firsts[#firsts + 1] = user
    firsts[#firsts + 1] = info
  end
end
redis.call('SADD', KEYS[1], inc)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', base .. 'm:' .. inc, ARGV[3])
redis.call('EXPIRE', base .. 'u:' .. inc, ARGV[3])
return firsts
