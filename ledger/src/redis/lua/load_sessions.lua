-- ARGV[6]: how many sessions; then budget, generation, session, spend and last use of each.
local out = enter(false, true)
if out then return out end
for i = 0, tonumber(ARGV[6]) - 1 do
  local a = 7 + 5 * i
  local key = P .. 'session:' .. ARGV[a] .. ':' .. ARGV[a + 1] .. ':' .. ARGV[a + 2]
  redis.call('HSETNX', key, 'n:', '0')
  redis.call('HSETNX', key, 'h:', '0')
  redis.call('HSET', key, 's:', ARGV[a + 3], 'used', ARGV[a + 4])
  rest(key)
end
return answer()
