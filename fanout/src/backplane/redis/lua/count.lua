-- Counts the sockets and users of each incarnation in a room.
--
-- Returns incarnation, sockets, users, …
local found = {}
for _, other in ipairs(incarnations()) do
  found[#found + 1] = other
  found[#found + 1] = tostring(redis.call('HLEN', base .. 'm:' .. other))
  found[#found + 1] = tostring(redis.call('HLEN', base .. 'u:' .. other))
end
return found
