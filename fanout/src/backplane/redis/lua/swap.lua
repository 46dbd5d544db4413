-- Replaces a value, if it is still the one that the caller has read.
--
-- KEYS 1 the value
-- ARGV 1 what was read, with a 1 before it; 0 for none  2 the new value likewise  3 ms it is kept
-- Returns 1 if it was replaced, else 0
local now = redis.call('GET', KEYS[1])
if (now and '1' .. now or '0') ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
else
  redis.call('SET', KEYS[1], string.sub(ARGV[2], 2), 'PX', ARGV[3])
end
return 1
