-- How many sockets and users each incarnation has in a room.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys
-- Returns incarnation, sockets, users, …
local found = {}
for _, inc in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  found[#found + 1] = inc
  found[#found + 1] = tostring(redis.call('HLEN', ARGV[1] .. 'm:' .. inc))
  found[#found + 1] = tostring(redis.call('HLEN', ARGV[1] .. 'u:' .. inc))
end
return found
