-- Ends a user's hold-back.
--
-- ARGV 3 user  4 info  5 seconds the keys are kept  6 1: answer also where the user did not linger
-- Returns 1 if the user is gone and had not come back, else 0; asked again, the same until it is forgotten
local user = ARGV[3]
local waits = redis.call('HDEL', base .. 'l:' .. inc, user) == 1
  or redis.call('HEXISTS', base .. 't:' .. inc, user) == 1 or ARGV[6] == '1'
if waits and not is_here(incarnations(), user, true) then
  put('t:', user, ARGV[4], ARGV[5])
  return 1
end
tidy()
return 0
