-- Takes a dead incarnation's members out of a room.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 the dead incarnation  3 seconds the keys are kept
-- Returns user, info, user, info, …: users who are in the room no more; asked again, the same until they are
-- forgotten, less who has come back
local base, dead = ARGV[1], ARGV[2]
local told = base .. 't:' .. dead
local users = {}
for _, value in ipairs(redis.call('HVALS', base .. 'm:' .. dead)) do
  local user, info = string.match(value, '^([^\n]*)\n(.*)$')
  if user then users[user] = info end
end
local lingering = redis.call('HGETALL', base .. 'l:' .. dead)
for i = 1, #lingering, 2 do users[lingering[i]] = lingering[i + 1] end
redis.call('DEL', base .. 'm:' .. dead, base .. 'u:' .. dead, base .. 'l:' .. dead)
local others = redis.call('SMEMBERS', KEYS[1])
for user, info in pairs(users) do
  local here = false
  for _, other in ipairs(others) do
    if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 or redis.call('HEXISTS', base .. 'l:' .. other, user) == 1 then
      here = true
      break
    end
  end
  if not here then redis.call('HSET', told, user, info) end
end
if redis.call('EXISTS', told) == 0 then
  redis.call('SREM', KEYS[1], dead)
else
  redis.call('EXPIRE', told, ARGV[3])
end
return redis.call('HGETALL', told)
