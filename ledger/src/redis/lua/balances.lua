-- ARGV[6]: how many counters; then budget and slot of each.
local out = enter(true)
if out then return out end
local balances = {}
for i = 1, tonumber(ARGV[6]) do
  local budget, slot = ARGV[5 + 2 * i], ARGV[6 + 2 * i]
  local has = redis.call('HMGET', budget_key(budget), 'limit', 's:' .. slot, 'h:' .. slot)
  local limit = has[1] or '0'
  balances[#balances + 1] = limit == '-' and '0' or limit
  balances[#balances + 1], balances[#balances + 2] = has[2] or '0', has[3] or '0'
end
return answer(unpack(balances))
