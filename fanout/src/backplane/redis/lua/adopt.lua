-- Moves a known place to another node.
--
-- KEYS 1 exact places (hash: id -> text)
-- ARGV 1 id  2 the node
-- Returns 1 if the place was known, else 0
local text = redis.call('HGET', KEYS[1], ARGV[1])
if not text then return 0 end
-- In brackets: gsub returns how often it replaced, too.
redis.call('HSET', KEYS[1], ARGV[1], (string.gsub(text, '%S+$', ARGV[2])))
return 1
