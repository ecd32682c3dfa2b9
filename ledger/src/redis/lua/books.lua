-- Counters: fields s: (settled), h: (held) and n: (holds that name it), then the window's slot, or nothing in a
-- session's hash. A budget's hash has its limit too, and its rate.
local IDLE, REMEMBER, MOST_IN_BUCKET = 86400000, 3600000, 4e15

local function budget_key(budget)
  return P .. 'budget:' .. budget
end

local function look_at(budget)
  redis.call('ZADD', P .. 'ends', '0', budget)
end

-- Makes a window's counter if need be, and notes its end.
local function open_slot(budget, slot, ends)
  local key = budget_key(budget)
  local made = redis.call('HSETNX', key, 'n:' .. slot, '0')
  if made == 1 then redis.call('HSET', key, 's:' .. slot, '0', 'h:' .. slot, '0') end
  if made == 1 or redis.call('HGET', key, 'x:' .. slot) ~= ends then
    redis.call('HSET', key, 'x:' .. slot, ends)
    look_at(budget)
  end
  return key
end

local function over(names, used)
  return (tonumber(names or '0')) == 0 and now - tonumber(used or '-inf') >= IDLE
end

-- The counter of a session to be changed, made or begun again if need be.
local function touch(budget, generation, session)
  local key = P .. 'session:' .. budget .. ':' .. generation .. ':' .. session
  local has = redis.call('HMGET', key, 'n:', 'used')
  if over(has[1], has[2]) then redis.call('HSET', key, 's:', '0', 'h:', '0', 'n:', '0') end
  redis.call('HSET', key, 'used', int(now))
  return key
end

-- A session without holds may be forgotten once it has idled; expiry only frees memory.
local function rest(key)
  if redis.call('HGET', key, 'n:') == '0' then
    redis.call('PEXPIRE', key, int(IDLE + REMEMBER))
  else
    redis.call('PERSIST', key)
  end
end

-- Changes every counter that a hold has taken from.
local function each(taken, session, change)
  local key, slot = budget_key(taken[1]), taken[2] .. ':' .. taken[3]
  if redis.call('HEXISTS', key, 'n:' .. slot) == 1 then change(key, slot) end
  if taken[4] == 1 and session then
    key = touch(taken[1], taken[2], session)
    change(key, '')
    rest(key)
  end
end

local function bucket(at, window)
  return at - at % window
end

local function read_rate(key)
  local v = redis.call('HMGET', key, 'v:gen', 'v:window', 'v:since', 'v:start', 'v:current', 'v:previous', 'v:tripped')
  if not v[1] then return end
  return { generation = v[1], window = tonumber(v[2]), since = tonumber(v[3]), start = tonumber(v[4]),
    current = tonumber(v[5]), previous = tonumber(v[6]), tripped = tonumber(v[7]) }
end

local function write_rate(key, rate)
  redis.call('HSET', key, 'v:gen', rate.generation, 'v:window', int(rate.window), 'v:since', int(rate.since),
    'v:start', int(rate.start), 'v:current', int(rate.current), 'v:previous', int(rate.previous),
    'v:tripped', rate.tripped and int(rate.tripped) or '')
end

-- A budget's rate brought to now.
local function rate_now(key, generation, window, cooldown)
  local rate = read_rate(key)
  local start = bucket(now, window)
  if not rate or rate.generation ~= generation or rate.window ~= window
    or (rate.tripped and now - rate.tripped >= cooldown) then
    return { generation = generation, window = window, since = now, start = start, current = 0, previous = 0 }
  end
  if rate.start ~= start then
    rate.previous = rate.start + window == start and rate.current or 0
    rate.current, rate.start = 0, start
  end
  return rate
end

-- What counts now, exactly (core's rate.rs has the formula).
local function rate_at(rate)
  local left = rate.window - (now - rate.start)
  local over_whole = math.fmod(rate.previous, rate.window)
  local product = over_whole * left
  return (rate.previous - over_whole) / rate.window * left
    + (product - math.fmod(product, rate.window)) / rate.window + rate.current
end

local function in_bucket(amount)
  return math.max(0, math.min(amount, MOST_IN_BUCKET))
end

-- Changes what a hold counts towards its budget's rate, while its bucket is in view.
local function correct_rate(taken, since, by)
  if taken[5] ~= 1 then return end
  local key = budget_key(taken[1])
  local rate = read_rate(key)
  if not rate or rate.generation ~= taken[2] or since < rate.since then return end
  local start = bucket(since, rate.window)
  if start == rate.start then
    redis.call('HSET', key, 'v:current', int(in_bucket(rate.current + by)))
  elseif start + rate.window == rate.start then
    redis.call('HSET', key, 'v:previous', int(in_bucket(rate.previous + by)))
  end
end

-- An id's record: nothing, the time it was done, or its hold: state, amount, extension, since, finalize, session, stub
-- and what it has taken: budget, generation, window's start, whether of a session, whether of a rate.
local function record(id)
  local text = redis.call('GET', P .. 'id:' .. id)
  if not text then return end
  if string.sub(text, 1, 1) ~= 'D' then return 'hold', cmsgpack.unpack(text) end
  local at, charged = string.match(text, '^D(%-?%d+)L?(%d*)$')
  if now - tonumber(at) < REMEMBER then return 'done', charged end
end

local function session_of(hold)
  return hold[6] ~= '' and string.sub(hold[6], 2) or nil
end

local function keep(id, hold)
  redis.call('SET', P .. 'id:' .. id, cmsgpack.pack(hold))
end

-- With what its lapse had charged, if it had lapsed before.
local function keep_done(id, charged)
  local text = 'D' .. int(now) .. (charged and 'L' .. charged or '')
  redis.call('SET', P .. 'id:' .. id, text, 'PX', int(REMEMBER + 60000))
end

-- The scopes among the arguments.
local function scopes_from(first, count)
  local scopes = {}
  for i = 0, count - 1 do
    local a = first + i * 12
    scopes[i + 1] = { budget = ARGV[a], generation = ARGV[a + 1], start = ARGV[a + 2], ends = ARGV[a + 3],
      limit = ARGV[a + 4], revision = tonumber(ARGV[a + 5]), enforcement = ARGV[a + 6], session_limit = ARGV[a + 7],
      rate_limit = ARGV[a + 8], window = tonumber(ARGV[a + 9]), cooldown = tonumber(ARGV[a + 10]),
      kept = ARGV[a + 11], slot = ARGV[a + 1] .. ':' .. ARGV[a + 2], key = budget_key(ARGV[a]) }
  end
  return scopes
end

-- What the ledger knows of a scope's budget and counter.
local function read(scope)
  local has = redis.call('HMGET', scope.key, 'rev', 'limit', 'enf', 'session', 'kept', 'latest:gen', 'latest:start',
    's:' .. scope.slot, 'h:' .. scope.slot, 'x:' .. scope.slot)
  scope.known_revision, scope.known_limit = tonumber(has[1] or '0'), has[2]
  scope.enf, scope.session, scope.kept_known = has[3], has[4], has[5]
  scope.latest_generation, scope.latest_start = tonumber(has[6] or '-1'), tonumber(has[7] or '-inf')
  scope.settled, scope.held, scope.known_ends = has[8] or '0', has[9] or '0', has[10]
end

-- Whether the ledger knows a later limit than the scope brings, or that the budget is gone.
local function is_ahead(scope)
  if not scope.known_limit then return false end
  if scope.known_limit == '-' then return scope.known_revision >= scope.revision end
  return scope.known_revision > scope.revision
end

-- Takes over a scope's limit when it is the latest.
local function learn(scope)
  if is_ahead(scope) then return end
  local newer = not scope.known_limit or scope.revision > scope.known_revision
  if newer then
    if scope.known_limit == '-' then redis.call('PERSIST', scope.key) end
    scope.known_revision, scope.known_limit = scope.revision, scope.limit
  end
  if newer or scope.enf ~= scope.enforcement or scope.session ~= scope.session_limit
    or scope.kept_known ~= scope.kept then
    redis.call('HSET', scope.key, 'rev', int(scope.known_revision), 'limit', scope.known_limit,
      'enf', scope.enforcement, 'session', scope.session_limit, 'kept', scope.kept)
  end
end
