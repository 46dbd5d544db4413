-- Gives broadcasts their places in their rooms, keeps them for members that return, and publishes them, in their order: each of
-- them completely or not at all.
--
-- KEYS of each broadcast: 1 meta (hash: e epoch, run, o offset)  2 stream  3 idempotency key, or the meta key where it has none
-- ARGV 1 run id of the primary, empty: ask it  2 an epoch nobody has used
--   then of each broadcast: 1 payload, to be followed by the stamp  2 channel  3 1: renew the lifetimes of its room, else 0
-- Returns of each broadcast {0; epoch:offset; receivers}, {1; epoch:offset; 0} if it had been published before, or
-- {2; why it was refused; 0}, all in one list
--
-- The node puts numbers into the text: $entries that a stream keeps, $kept how many seconds, $meta_kept those of the meta key,
-- $key_kept those of an idempotency key. As arguments, or as variables that the functions share, they would cost each call more:
-- the script runs for every event, and what it allocates costs as much as what it does.
--
-- The epoch is bound to the primary that gave the offsets: after a restart, a failover or a loss of data the
-- offsets go on under another epoch, so none is ever given twice within one.
local run = ARGV[1]
if run == '' then run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or '' end
-- The rooms' epochs, where a call has several broadcasts: each is read once.
local epochs = #KEYS > 3 and {}

local function publish(meta, stream, key, payload, channel, renew)
  local call = redis.call
  local is_once = key ~= meta
  if is_once then
    local place = call('GET', key)
    if place then return 1, place, 0 end
  end
  local epoch = epochs and renew == '0' and epochs[meta]
  if not epoch then
    local known = call('HMGET', meta, 'e', 'run')
    epoch = known[1]
    if not epoch or known[2] ~= run then
      epoch = ARGV[2]
      call('HSET', meta, 'e', epoch, 'run', run)
      call('DEL', stream)
      call('EXPIRE', meta, '$meta_kept')
    elseif renew == '1' then
      call('EXPIRE', meta, '$meta_kept')
      call('EXPIRE', stream, '$kept')
    end
    if epochs then epochs[meta] = epoch end
  end
  -- Lua would format the number as a fraction, which takes longer.
  local offset = string.format('%d', call('HINCRBY', meta, 'o', '1'))
  local stamp = epoch .. ':' .. offset
  -- msgpack str 8: a stamp is always shorter than 256 bytes.
  local message = payload .. string.char(0xd9, #stamp) .. stamp
  local id = offset .. '-0'
  if not call('XADD', stream, 'NOMKSTREAM', 'MAXLEN', '~', '$entries', id, 'd', message) then
    call('XADD', stream, id, 'd', message)
    call('EXPIRE', stream, '$kept')
  end
  local receivers = call('PUBLISH', channel, message)
  if is_once then call('SET', key, stamp, 'EX', '$key_kept') end
  return 0, stamp, receivers
end

local answers = {}
for at = 0, #KEYS / 3 - 1 do
  local key, arg = 3 * at, 2 + 3 * at
  local is_done, state, place, receivers =
    pcall(publish, KEYS[key + 1], KEYS[key + 2], KEYS[key + 3], ARGV[arg + 1], ARGV[arg + 2], ARGV[arg + 3])
  if not is_done then
    local why = type(state) == 'table' and state.err or tostring(state)
    -- A server that takes no writes refuses all of them, and the node has to know it by its own error.
    if string.find(why, '^%-?READONLY') or string.find(why, '^%-?MASTERDOWN') then return redis.error_reply(why) end
    state, place, receivers = 2, why, 0
  end
  answers[key + 1], answers[key + 2], answers[key + 3] = state, place, receivers
end
return answers
