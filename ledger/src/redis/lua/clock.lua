-- The ledger's time in milliseconds, before it is kept from running backwards.
local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
