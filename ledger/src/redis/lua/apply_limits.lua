-- ARGV[6]: how many changes; then budget, revision and limit ("-" when deleted) of each. A deleted budget's revision is
-- kept for a month.
local out = enter(false, true)
if out then return out end
for i = 0, tonumber(ARGV[6]) - 1 do
  local budget, revision, limit = ARGV[7 + 3 * i], ARGV[8 + 3 * i], ARGV[9 + 3 * i]
  local key = budget_key(budget)
  local has = redis.call('HMGET', key, 'rev', 'limit')
  if not has[2] or tonumber(revision) > tonumber(has[1]) then
    redis.call('HSET', key, 'rev', revision, 'limit', limit)
    if limit == '-' then
      look_at(budget)
      redis.call('PEXPIRE', key, '2592000000')
    else
      redis.call('PERSIST', key)
    end
  end
end
return answer()
