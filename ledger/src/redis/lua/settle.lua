-- ARGV[6..7]: id, cost.
local out = enter()
if out then return out end
return answer(finish(ARGV[6], ARGV[7]))
