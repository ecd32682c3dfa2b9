-- ARGV[6..7]: id, cost. Who asks again of a lapse is told again.
local out = enter()
if out then return out end
local was, amount = finish(ARGV[6], ARGV[7])
if was == 'done' and amount ~= '' then was = 'lapsed' end
return answer(was, amount)
