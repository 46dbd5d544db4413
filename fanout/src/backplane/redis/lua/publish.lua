-- Gives a broadcast its place in its room, keeps it for those who come back, and publishes it: all or nothing.
--
-- KEYS 1 meta (hash: e epoch, run, o offset)   2 stream   3 idempotency key, or the meta key where ARGV 8 is 0
-- ARGV 1 run id of the primary, empty: ask it  2 entries kept  3 seconds they are kept  4 seconds meta is kept
--      5 message id  6 payload, to be followed by the stamp  7 channel  8 seconds the idempotency key is kept,
--      0 for none  9 an epoch nobody has used
-- Returns {1 if it had been published before, else 0; epoch:offset; receivers}
--
-- The epoch is bound to the primary that gave the offsets: after a restart, a failover or a loss of data the
-- offsets go on under another epoch, so none is ever given twice within one.
if ARGV[8] ~= '0' then
  local before = redis.call('GET', KEYS[3])
  if before then return {1, before, 0} end
end
local run = ARGV[1]
if run == '' then run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '' end
local meta = redis.call('HMGET', KEYS[1], 'e', 'run')
local epoch = meta[1]
if not epoch or meta[2] ~= run then
  epoch = ARGV[9]
  redis.call('HSET', KEYS[1], 'e', epoch, 'run', run)
  redis.call('DEL', KEYS[2])
end
local stamp = epoch .. ':' .. redis.call('HINCRBY', KEYS[1], 'o', 1)
local offset = string.match(stamp, ':(%d+)$')
-- msgpack str 8: a stamp is always shorter than 256 bytes.
local message = ARGV[6] .. string.char(0xd9, #stamp) .. stamp
redis.call('XADD', KEYS[2], 'MAXLEN', '=', ARGV[2], offset .. '-0', 'i', ARGV[5], 'd', message)
redis.call('EXPIRE', KEYS[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
local receivers = redis.call('PUBLISH', ARGV[7], message)
if ARGV[8] ~= '0' then redis.call('SET', KEYS[3], stamp, 'EX', ARGV[8]) end
return {0, stamp, receivers}
