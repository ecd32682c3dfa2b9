-- Replaces a hold by what the call cost; answers what became of it, and an amount: when it was done before, what its
-- lapse had charged, or nothing.
local function finish(id, actual)
  local state, hold = record(id)
  if state ~= 'hold' then return state or 'unknown', hold or '' end
  local open, amount, since = hold[1] == 'open', hold[2], tonumber(hold[4])
  local session = session_of(hold)
  for _, taken in ipairs(hold[8]) do
    each(taken, session, function(key, slot)
      if open then
        redis.call('HINCRBY', key, 'h:' .. slot, negative(amount))
      else
        spend(key, 's:' .. slot, negative(amount))
      end
      spend(key, 's:' .. slot, actual)
      redis.call('HINCRBY', key, 'n:' .. slot, '-1')
    end)
    correct_rate(taken, since, tonumber(actual) - tonumber(amount))
  end
  keep_done(id, not open and amount)
  if open then
    redis.call('ZREM', P .. 'leases', id)
    redis.call('ZREM', P .. 'since', id)
    redis.call('HINCRBY', META, 'held', negative(amount))
    return 'settled', int(math.max(0, tonumber(actual) - tonumber(amount)))
  end
  redis.call('ZREM', P .. 'unreported', id)
  redis.call('ZREM', P .. 'lapses', id)
  return 'lapsed', amount
end
