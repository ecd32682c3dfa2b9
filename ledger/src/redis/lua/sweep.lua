-- ARGV[6..9]: how many at most, for how long what is handed out is not handed out again, budgets to pass over, how many
-- ids were received; then those ids. Answers whether there is more, budgets to pass over next, and for each lapse its
-- id, amount and stub.
local LAPSE_KEPT = 2592000000
local out = enter()
if out then return out end
local most, claim, passed = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

for i = 1, tonumber(ARGV[9]) do
  local id = ARGV[9 + i]
  if redis.call('ZREM', P .. 'unreported', id) == 1 then
    local state, hold = record(id)
    if state == 'hold' then
      hold[7] = ''
      keep(id, hold)
    end
  end
end

-- Charges a hold in full, until its owner tells the truth.
local function lapse(id, hold)
  local amount = hold[2]
  for _, taken in ipairs(hold[8]) do
    each(taken, session_of(hold), function(key, slot)
      redis.call('HINCRBY', key, 'h:' .. slot, negative(amount))
      spend(key, 's:' .. slot, amount)
    end)
  end
  redis.call('HINCRBY', META, 'held', negative(amount))
  redis.call('ZADD', P .. 'lapses', int(now), id)
  hold[1] = 'lapsed'
  keep(id, hold)
end

local lapsed = {}
local function hand_out(id, hold)
  redis.call('ZADD', P .. 'unreported', int(now + claim), id)
  lapsed[#lapsed + 1], lapsed[#lapsed + 2], lapsed[#lapsed + 3] = id, hold[2], hold[7]
end

local due = redis.call('ZRANGEBYSCORE', P .. 'leases', '-inf', int(now), 'LIMIT', 0, most)
for _, id in ipairs(due) do
  redis.call('ZREM', P .. 'leases', id)
  redis.call('ZREM', P .. 'since', id)
  local state, hold = record(id)
  if state == 'hold' then
    lapse(id, hold)
    hand_out(id, hold)
  end
end
local again = redis.call('ZRANGEBYSCORE', P .. 'unreported', '-inf', int(now), 'LIMIT', 0, most - #due)
for _, id in ipairs(again) do
  local state, hold = record(id)
  if state == 'hold' then hand_out(id, hold) else redis.call('ZREM', P .. 'unreported', id) end
end
if #due + #again == most then return answer(1, 0, unpack(lapsed)) end

-- A lapse that nobody corrects stays as it was charged, and names its counters no more.
local function give_up(id, hold)
  for _, taken in ipairs(hold[8]) do
    each(taken, session_of(hold), function(key, slot)
      redis.call('HINCRBY', key, 'n:' .. slot, '-1')
    end)
  end
  redis.call('DEL', P .. 'id:' .. id)
end

-- One whose stub nobody has confirmed waits.
local given_up = 0
local old = redis.call('ZRANGEBYSCORE', P .. 'lapses', '-inf', int(now - LAPSE_KEPT), 'LIMIT', 0, most)
for _, id in ipairs(old) do
  if not redis.call('ZSCORE', P .. 'unreported', id) then
    local state, hold = record(id)
    if state == 'hold' then give_up(id, hold) end
    redis.call('ZREM', P .. 'lapses', id)
    given_up = given_up + 1
  end
end
if given_up == most then return answer(1, 0, unpack(lapsed)) end

-- Drops counters that can bind nothing any more. True when one waits for its holds only.
local function drop(budget)
  local key, has = budget_key(budget), {}
  local all = redis.call('HGETALL', key)
  for i = 1, #all, 2 do has[all[i]] = all[i + 1] end
  local waits, next_end = false, nil
  for field, names in pairs(has) do
    local generation, start = string.match(field, '^n:(%d+):(%-?%d+)$')
    if generation then
      local slot = generation .. ':' .. start
      local ends = tonumber(has['x:' .. slot])
      local latest_generation = tonumber(has['latest:gen'] or '-1')
      local old = tonumber(generation) < latest_generation or (tonumber(generation) == latest_generation
        and tonumber(start) < tonumber(has['latest:start']))
      if not (old or has['limit'] == '-' or (ends and ends <= now)) then
        if ends and ends < (next_end or math.huge) then next_end = ends end
      elseif names == '0' then
        redis.call('HDEL', key, 's:' .. slot, 'h:' .. slot, 'n:' .. slot, 'x:' .. slot)
      else
        waits = true
      end
    end
  end
  if waits then
    redis.call('ZADD', P .. 'ends', '0', budget)
  elseif next_end then
    redis.call('ZADD', P .. 'ends', int(next_end), budget)
  else
    redis.call('ZREM', P .. 'ends', budget)
  end
  return waits
end

local ended = redis.call('ZRANGEBYSCORE', P .. 'ends', '-inf', int(now), 'LIMIT', passed, most)
for _, budget in ipairs(ended) do
  if drop(budget) then passed = passed + 1 end
end
return answer(#ended == most and 1 or 0, passed, unpack(lapsed))
