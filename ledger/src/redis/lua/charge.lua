-- ARGV[6..9]: id, cost, "=" and the session (or nothing), how many scopes; then each scope.
local out = enter()
if out then return out end
local id, actual = ARGV[6], ARGV[7]
local session = ARGV[8] ~= '' and string.sub(ARGV[8], 2) or nil
local scopes = scopes_from(10, tonumber(ARGV[9]))
-- What a call cost is never less than nothing: what takes spend back has an id of its own.
if tonumber(actual) < 0 and record(id) == 'hold' then return answer('invalid') end
local was = finish(id, actual)
if was == 'done' then return answer('done') end
if was == 'unknown' then
  for _, scope in ipairs(scopes) do
    read(scope)
    learn(scope)
    spend(open_slot(scope.budget, scope.slot, scope.ends), 's:' .. scope.slot, actual)
    if session and scope.session_limit ~= '' then
      local key = touch(scope.budget, scope.generation, session)
      spend(key, 's:', actual)
      rest(key)
    end
    if scope.rate_limit ~= '' then
      local rate = rate_now(scope.key, scope.generation, scope.window, scope.cooldown)
      rate.current = in_bucket(rate.current + math.max(0, tonumber(actual)))
      write_rate(scope.key, rate)
    end
  end
  keep_done(id)
end
local balances = {}
for _, scope in ipairs(scopes) do
  read(scope)
  local limit = scope.known_limit or '0'
  balances[#balances + 1] = limit == '-' and '0' or limit
  balances[#balances + 1], balances[#balances + 2] = scope.settled, scope.held
end
return answer('charged', unpack(balances))
