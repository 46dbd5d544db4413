-- Takes a dead incarnation's members out of a room.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 the dead incarnation
-- Returns user, info, user, info, …: users who are in the room no more
local base, dead = ARGV[1], ARGV[2]
local users = {}
local members = redis.call('HVALS', base .. 'm:' .. dead)
for _, value in ipairs(members) do
  local user, info = string.match(value, '^([^\n]*)\n(.*)$')
  if user then users[user] = info end
end
local lingering = redis.call('HGETALL', base .. 'l:' .. dead)
for i = 1, #lingering, 2 do users[lingering[i]] = lingering[i + 1] end
redis.call('DEL', base .. 'm:' .. dead, base .. 'u:' .. dead, base .. 'l:' .. dead)
redis.call('SREM', KEYS[1], dead)
local others = redis.call('SMEMBERS', KEYS[1])
local gone = {}
for user, info in pairs(users) do
  local here = false
  for _, other in ipairs(others) do
    if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 or redis.call('HEXISTS', base .. 'l:' .. other, user) == 1 then
      here = true
      break
    end
  end
  if not here then
    gone[#gone + 1] = user
    gone[#gone + 1] = info
  end
end
return gone
