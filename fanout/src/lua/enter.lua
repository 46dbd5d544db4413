-- A socket enters a room.
--
-- KEYS 1 set of incarnations with members or lingering users in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 socket  4 user  5 info  6 seconds the keys are kept
-- Returns 1 if no socket of the user was in the room and none lingered, else 0
--
-- Keys of an incarnation in the room: base m: socket -> user \n info; base u: user -> sockets; base l: lingering
-- user -> info; base t: user who is gone and about to be told -> info. All have the room's hash tag. Incarnations whose lease has lapsed still count here, until a
-- survivor has settled their estate: that is what makes first and last right across a crash.
local base, inc, user = ARGV[1], ARGV[2], ARGV[4]
local first = 1
for _, other in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('HDEL', base .. 'l:' .. other, user) == 1 then first = 0 end
  redis.call('HDEL', base .. 't:' .. other, user)
  if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 then first = 0 end
end
if redis.call('HSET', base .. 'm:' .. inc, ARGV[3], user .. '\n' .. ARGV[5]) == 1 then
  redis.call('HINCRBY', base .. 'u:' .. inc, user, 1)
end
redis.call('SADD', KEYS[1], inc)
redis.call('EXPIRE', KEYS[1], ARGV[6])
redis.call('EXPIRE', base .. 'm:' .. inc, ARGV[6])
redis.call('EXPIRE', base .. 'u:' .. inc, ARGV[6])
return first
