-- Writes members of an incarnation that already are in the room, without asking who is first.
--
-- KEYS 1 set of incarnations in the room
-- ARGV 1 base of the room's keys  2 incarnation  3 seconds the keys are kept  then socket, user, info, …
local base, inc = ARGV[1], ARGV[2]
for i = 4, #ARGV, 3 do
  if redis.call('HSET', base .. 'm:' .. inc, ARGV[i], ARGV[i + 1] .. '\n' .. ARGV[i + 2]) == 1 then
    redis.call('HINCRBY', base .. 'u:' .. inc, ARGV[i + 1], 1)
  end
end
redis.call('SADD', KEYS[1], inc)
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('EXPIRE', base .. 'm:' .. inc, ARGV[3])
redis.call('EXPIRE', base .. 'u:' .. inc, ARGV[3])
return 1
