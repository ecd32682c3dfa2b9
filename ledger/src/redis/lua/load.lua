-- ARGV[6]: how many counters; then budget, slot and spend of each.
local out = enter(false, true)
if out then return out end
for i = 0, tonumber(ARGV[6]) - 1 do
  local budget, slot, settled = ARGV[7 + 3 * i], ARGV[8 + 3 * i], ARGV[9 + 3 * i]
  local ends = redis.call('HGET', budget_key(budget), 'x:' .. slot) or ''
  redis.call('HSET', open_slot(budget, slot, ends), 's:' .. slot, settled)
end
return answer()
