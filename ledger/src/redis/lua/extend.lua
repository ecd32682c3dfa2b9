-- ARGV[6..9]: number, lease, amount, how many ids; then the ids.
local out = enter()
if out then return out end
local number, lease, add = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]

-- Whether a hold may take more: only a strict limit and a session's say no.
local function allows(taken, session, finalize)
  local key, slot = budget_key(taken[1]), taken[2] .. ':' .. taken[3]
  local has = redis.call('HMGET', key, 'limit', 'enf', 'session', 'kept', 's:' .. slot, 'h:' .. slot)
  local limit = has[1]
  if not within(MOST_TEXT, has[6] or '0', add) then return false end
  if limit and limit ~= '-' and (has[2] or 'strict') == 'strict' then
    local kept = finalize and '0' or has[4] or '0'
    if not within(limit, has[5] or '0', has[6] or '0', add, kept) then return false end
  end
  if taken[4] ~= 1 or not session or limit == '-' or (has[3] or '') == '' then return true end
  local of = redis.call('HMGET', P .. 'session:' .. taken[1] .. ':' .. taken[2] .. ':' .. session, 's:', 'h:')
  return within(has[3], of[1] or '0', of[2] or '0', add)
end

local function extend(id)
  local state, hold = record(id)
  if state ~= 'hold' then return state or 'unknown' end
  if hold[1] ~= 'open' then return 'lapsed' end
  if number <= tonumber(hold[3]) then return 'done' end
  local amount = tonumber(hold[2]) + tonumber(add)
  if amount > 1e15 then return 'invalid' end
  redis.call('ZADD', P .. 'leases', int(now + lease), id)
  if add ~= '0' then
    local session = session_of(hold)
    if not within(MOST_TEXT, redis.call('HGET', META, 'held') or '0', add) then return 'denied:0' end
    for i, taken in ipairs(hold[8]) do
      if not allows(taken, session, hold[5] == '1') then return 'denied:' .. int(i - 1) end
    end
    for _, taken in ipairs(hold[8]) do
      each(taken, session, function(key, slot)
        redis.call('HINCRBY', key, 'h:' .. slot, add)
      end)
      correct_rate(taken, tonumber(hold[4]), tonumber(add))
    end
    redis.call('HINCRBY', META, 'held', add)
  end
  hold[2], hold[3] = int(amount), int(number)
  keep(id, hold)
  return 'extended'
end

local outcomes = {}
for i = 1, tonumber(ARGV[9]) do
  outcomes[i] = extend(ARGV[9 + i])
end
return answer(unpack(outcomes))
