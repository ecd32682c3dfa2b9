-- KEYS[1]: an organisation's meta hash, whose name less "meta" begins the names of all its other keys.
-- ARGV[1..5]: the epoch and the sequence the caller has seen (or nothing), the run they were seen in, the run of the
-- server it is connected to, and the token of its rebuild (or nothing).
local META = KEYS[1]
local P = string.sub(META, 1, -5)
local epoch, seq, run, now

local function int(number)
  return string.format('%.0f', number)
end

-- Whether something that the caller has seen is not here any more.
local function lost(was, floor)
  if ARGV[1] == '' then return false end
  if ARGV[1] ~= epoch then return tonumber(ARGV[1]) > tonumber(epoch) end
  local seen = tonumber(ARGV[2])
  if seen == 0 then return false end
  if seen > seq then return true end
  if ARGV[3] == run then return false end
  return ARGV[3] ~= was or seen > floor
end

-- What every call does first: answers why it must not go on, or moves the sequence and time forwards, unless it only
-- reads; what sets limits and totals happens at no time.
local function enter(reads, timeless)
  local meta = redis.call('HMGET', META, 'epoch', 'seq', 'time', 'run', 'was', 'floor', 'building')
  epoch, seq, run = meta[1], tonumber(meta[2] or '0'), meta[4] or ''
  now = math.max(clock(), tonumber(meta[3] or '-inf'))
  if ARGV[5] ~= '' then
    if epoch or meta[7] ~= ARGV[5] then return { 'taken' } end
    epoch = ''
    return
  end
  if not epoch then return { 'gone' } end
  local was, floor = meta[5] or '', tonumber(meta[6] or '0')
  if run ~= ARGV[4] then
    was, run, floor = run, ARGV[4], seq
    redis.call('HSET', META, 'run', run, 'was', was, 'floor', int(floor))
  end
  if lost(was, floor) then
    -- The next epoch comes after all that anybody has seen.
    redis.call('HSET', META, 'last', int(math.max(tonumber(epoch), tonumber(ARGV[1]))))
    redis.call('HDEL', META, 'epoch')
    return { 'gone' }
  end
  if reads then return end
  seq = seq + 1
  if timeless then
    redis.call('HSET', META, 'seq', int(seq))
  else
    redis.call('HSET', META, 'seq', int(seq), 'time', int(now))
  end
end

-- A reply: what the caller has now seen, then the answer.
local function answer(...)
  return { 'ok', epoch, int(seq), run, ... }
end
