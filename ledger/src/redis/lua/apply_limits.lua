-- ARGV[6]: how many changes; then budget, revision, limit ("-" when deleted), enforcement, session limit (or nothing) and what is
-- kept back of each. A deleted budget's revision is kept for a month.
local out = enter(false, true)
if out then return out end
for i = 0, tonumber(ARGV[6]) - 1 do
  local a = 7 + 6 * i
  local budget, revision, limit = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  local key = budget_key(budget)
  local has = redis.call('HMGET', key, 'rev', 'limit')
  if not has[2] or tonumber(revision) > tonumber(has[1]) then
    redis.call('HSET', key, 'rev', revision, 'limit', limit)
    if limit == '-' then
      look_at(budget)
      redis.call('PEXPIRE', key, '2592000000')
    else
      redis.call('HSET', key, 'enf', ARGV[a + 3], 'session', ARGV[a + 4], 'kept', ARGV[a + 5])
      redis.call('PERSIST', key)
    end
  end
end
return answer()
