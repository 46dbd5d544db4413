-- The common part of the scripts about a room; it is put before each of them.
--
-- KEYS 1 set of incarnations with anything of the room
-- ARGV 1 base of the room's keys  2 incarnation
--
-- An incarnation has in a room: m: socket -> user \n info; u: user -> sockets; l: lingering user -> info;
-- t: user who is gone and not reported yet -> info. All have the room's hash tag. Incarnations whose lease has
-- lapsed still count here, until a survivor has settled their estate: that is what makes first and last right
-- across a crash.
local room, base, inc = KEYS[1], ARGV[1], ARGV[2]

local function incarnations() return redis.call('SMEMBERS', room) end

-- Whether a socket of the user is in the room, or (if that counts) the user may still come back.
local function is_here(others, user, or_lingers)
  for _, other in ipairs(others) do
    if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 then return true end
    if or_lingers and redis.call('HEXISTS', base .. 'l:' .. other, user) == 1 then return true end
  end
  return false
end

-- Keeps the incarnation's keys of these kinds, and the room's, for so many seconds.
local function keep(kinds, seconds)
  redis.call('SADD', room, inc)
  redis.call('EXPIRE', room, seconds)
  for _, kind in ipairs(kinds) do redis.call('EXPIRE', base .. kind .. inc, seconds) end
end

-- Adds a socket; its user does not linger any more. Answers whether the user was not in the room, nor lingered.
local function add(others, socket, user, info)
  local first = redis.call('HEXISTS', base .. 'u:' .. inc, user) == 0
  for _, other in ipairs(others) do
    if redis.call('HDEL', base .. 'l:' .. other, user) == 1 then first = false end
    redis.call('HDEL', base .. 't:' .. other, user)
    if redis.call('HEXISTS', base .. 'u:' .. other, user) == 1 then first = false end
  end
  if redis.call('HSET', base .. 'm:' .. inc, socket, user .. '\n' .. info) == 1 then
    redis.call('HINCRBY', base .. 'u:' .. inc, user, 1)
  end
  return first
end

-- Puts the user among those of a kind (l: or t:).
local function put(kind, user, info, seconds)
  redis.call('HSET', base .. kind .. inc, user, info)
  keep({kind}, seconds)
end

-- Forgets the incarnation where it has nothing left in the room.
local function tidy()
  if redis.call('EXISTS', base .. 'm:' .. inc, base .. 'l:' .. inc, base .. 't:' .. inc) == 0 then
    redis.call('SREM', room, inc)
  end
end
