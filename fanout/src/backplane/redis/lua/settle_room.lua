-- Removes a dead incarnation's members from a room.
--
-- ARGV 3 seconds the keys are kept
-- Returns user, info, user, info, …: users who are in the room no more; asked again, the same until they are
-- forgotten, less who has come back
local users = {}
for _, value in ipairs(redis.call('HVALS', base .. 'm:' .. inc)) do
  local user, info = string.match(value, '^([^\n]*)\n(.*)$')
  if user then users[user] = info end
end
local lingering = redis.call('HGETALL', base .. 'l:' .. inc)
for i = 1, #lingering, 2 do users[lingering[i]] = lingering[i + 1] end
redis.call('DEL', base .. 'm:' .. inc, base .. 'u:' .. inc, base .. 'l:' .. inc)
local others = incarnations()
for user, info in pairs(users) do
  if not is_here(others, user, true) then put('t:', user, info, ARGV[3]) end
end
tidy()
return redis.call('HGETALL', base .. 't:' .. inc)
