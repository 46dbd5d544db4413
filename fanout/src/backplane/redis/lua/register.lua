-- Writes members of an incarnation that are in the room already.
--
-- ARGV 3 seconds the keys are kept  then socket, user, info, …
-- Returns user, info, user, info, …: users of whom no socket was in the room and who did not linger
local others, firsts = incarnations(), {}
for i = 4, #ARGV, 3 do
  local user, info = ARGV[i + 1], ARGV[i + 2]
  if add(others, ARGV[i], user, info) then
    firsts[#firsts + 1] = user
    firsts[#firsts + 1] = info
  end
end
keep({'m:', 'u:'}, ARGV[3])
return firsts
