-- Names the server's process, unless another node has named it since the name was read.
--
-- KEYS 1 the name
-- ARGV 1 the name that was read, empty for none  2 the new one
-- Returns 1 if it was set, else 0
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
