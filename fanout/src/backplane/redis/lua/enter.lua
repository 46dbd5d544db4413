-- Adds a socket to a room.
--
-- ARGV 3 socket  4 user  5 info  6 seconds the keys are kept
-- Returns 1 if no socket of the user was in the room and none lingered, else 0
local first = add(incarnations(), ARGV[3], ARGV[4], ARGV[5])
keep({'m:', 'u:'}, ARGV[6])
return first and 1 or 0
