-- Removes a socket from a room.
--
-- ARGV 3 socket  4 user  5 info  6 seconds the keys are kept  7 1 if the user may come back and is to linger, else 0
-- Returns 0 if the user is still in the room, 1 if that was the last socket, 2 if the user lingers now
local user, info, seconds = ARGV[4], ARGV[5], ARGV[6]
if redis.call('HDEL', base .. 'm:' .. inc, ARGV[3]) == 1
  and redis.call('HINCRBY', base .. 'u:' .. inc, user, -1) <= 0 then
  redis.call('HDEL', base .. 'u:' .. inc, user)
end
if is_here(incarnations(), user) then
  tidy()
  return 0
end
if ARGV[7] == '1' then
  put('l:', user, info, seconds)
  return 2
end
-- Kept until it has been reported: if the answer or the node that asked is lost, another one reports it.
put('t:', user, info, seconds)
return 1
