-- ARGV[6..13]: id, amount, lease, finalize, "=" and the session (or nothing), stub, "held" or "lapsed" when it is put back
-- (or nothing), how many scopes; then each scope. What is put back is so whatever limits and windows say; the amount of a
-- lapse is among the settled totals already.
local out = enter()
if out then return out end
local id, amount, lease, session, restore = ARGV[6], ARGV[7], tonumber(ARGV[8]), ARGV[10], ARGV[12] ~= ''
local lapsed = ARGV[12] == 'lapsed'
if record(id) then return answer('done') end
local scopes = scopes_from(14, tonumber(ARGV[13]))
local named = session ~= '' and string.sub(session, 2) or nil

for i, scope in ipairs(scopes) do
  read(scope)
  if not restore and is_ahead(scope) then return answer('stale', i - 1, int(scope.known_revision)) end
end
for _, scope in ipairs(scopes) do
  local current = tonumber(scope.start) <= now and (scope.ends == '' or now < tonumber(scope.ends))
  if not restore and not current then return answer('wrong_window', int(now)) end
end

local balances, denied_by = {}, nil
local held = redis.call('HGET', META, 'held') or '0'
for i, scope in ipairs(scopes) do
  learn(scope)
  local generation, start = tonumber(scope.generation), tonumber(scope.start)
  -- A window that has not begun, of what is put back and was taken by a clock that ran ahead, makes no present one old.
  if start <= now and (generation > scope.latest_generation
    or (generation == scope.latest_generation and start > scope.latest_start)) then
    redis.call('HSET', scope.key, 'latest:gen', scope.generation, 'latest:start', scope.start)
    look_at(scope.budget)
  end
  local limit = scope.known_limit == '-' and '0' or scope.known_limit
  balances[#balances + 1], balances[#balances + 2], balances[#balances + 3] = limit, scope.settled, scope.held
  local kept = ARGV[9] == '1' and '0' or scope.kept
  if scope.enforcement == 'strict' and not denied_by
    and not within(limit, scope.settled, scope.held, amount, kept) then
    denied_by = i
  end
  if not within(MOST_TEXT, scope.held, amount) then held = MOST_TEXT end
end
if not within(MOST_TEXT, held, amount) then return { 'full' } end

local rates = {}
if not restore then
  for i, scope in ipairs(scopes) do
    if named and scope.session_limit ~= '' then
      local key = P .. 'session:' .. scope.budget .. ':' .. scope.generation .. ':' .. named
      local has = redis.call('HMGET', key, 's:', 'h:', 'n:', 'used')
      if over(has[3], has[4]) then has = {} end
      local settled, taken = has[1] or '0', has[2] or '0'
      if not within(scope.session_limit, settled, taken, amount) then
        return answer('denied', i - 1, 'session', settled, taken, unpack(balances))
      end
    end
  end
  for i, scope in ipairs(scopes) do
    if scope.rate_limit ~= '' then
      local rate = rate_now(scope.key, scope.generation, scope.window, scope.cooldown)
      rates[i] = rate
      local at = rate_at(rate)
      if rate.tripped or at + tonumber(amount) > tonumber(scope.rate_limit) then
        rate.tripped = rate.tripped or now
        for j, asked in pairs(rates) do write_rate(scopes[j].key, asked) end
        return answer('denied', i - 1, 'velocity', int(at), int(scope.cooldown - (now - rate.tripped)),
          unpack(balances))
      end
    end
  end
  if denied_by then
    for j, asked in pairs(rates) do write_rate(scopes[j].key, asked) end
    return answer('denied', denied_by - 1, 'budget', int(now), '0', unpack(balances))
  end
end

local taken = {}
for i, scope in ipairs(scopes) do
  if scope.known_ends ~= scope.ends then open_slot(scope.budget, scope.slot, scope.ends) end
  local of_session = named and scope.session_limit ~= '' and 1 or 0
  local of_rate = scope.rate_limit ~= '' and 1 or 0
  taken[i] = { scope.budget, scope.generation, scope.start, of_session, of_rate }
  each(taken[i], named, function(key, slot)
    if not lapsed then redis.call('HINCRBY', key, 'h:' .. slot, amount) end
    redis.call('HINCRBY', key, 'n:' .. slot, '1')
  end)
  if of_rate == 1 then
    local rate = rates[i] or rate_now(scope.key, scope.generation, scope.window, scope.cooldown)
    rate.current = in_bucket(rate.current + (lapsed and 0 or tonumber(amount)))
    write_rate(scope.key, rate)
  end
end
keep(id, { lapsed and 'lapsed' or 'open', amount, '0', int(now), ARGV[9], session, ARGV[11], taken })
if lapsed then
  redis.call('ZADD', P .. 'lapses', int(now), id)
  return answer('reserved', unpack(balances))
end
redis.call('ZADD', P .. 'leases', int(now + lease), id)
redis.call('ZADD', P .. 'since', int(now), id)
redis.call('HINCRBY', META, 'held', amount)
return answer('reserved', unpack(balances))
