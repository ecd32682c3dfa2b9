-- Money is decimal text, which only Redis adds up: Lua's numbers are doubles, exact below EXACT.
local EXACT = 9007199254740992
local MOST, MOST_TEXT = 4611686018427387904, '4611686018427387904'

local function negative(amount)
  return amount == '0' and '0' or '-' .. amount
end

-- A number in two parts, the lower one of nine digits.
local function parts(text)
  local cut = #text - 9
  if cut <= 0 then return 0, tonumber(text) end
  return tonumber(string.sub(text, 1, cut)), tonumber(string.sub(text, cut + 1))
end

-- Whether the sum of some numbers, none negative, is at most the limit. The sum of doubles is below EXACT only if each
-- step to it was exact.
local function within(limit, ...)
  local sum = 0
  for _, text in ipairs({ ... }) do sum = sum + tonumber(text) end
  if sum < EXACT then return sum <= tonumber(limit) end
  if tonumber(limit) < EXACT then return false end
  local high, low = 0, 0
  for _, text in ipairs({ ... }) do
    local h, l = parts(text)
    high, low = high + h, low + l
  end
  local most_high, most_low = parts(limit)
  high, low = high + math.floor(low / 1e9), low % 1e9
  return high < most_high or (high == most_high and low <= most_low)
end

-- Adds to a total, which stays between nothing and MOST.
local function spend(key, field, amount)
  local sum = redis.call('HINCRBY', key, field, amount)
  if sum < 0 then
    redis.call('HSET', key, field, '0')
  elseif sum >= MOST and redis.call('HGET', key, field) > MOST_TEXT then
    redis.call('HSET', key, field, MOST_TEXT)
  end
end
