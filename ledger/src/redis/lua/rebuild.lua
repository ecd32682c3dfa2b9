-- ARGV[6]: "give_up", "begin", "clear" or "finish". Give up takes the epoch away, as a loss does. Begin takes the token
-- in ARGV[7], and is answered "whole" when there is nothing to do; clear deletes as many keys as ARGV[7] says, named after
-- it; finish makes the books whole, in an epoch after the one in ARGV[7].
if ARGV[6] == 'give_up' then
  local out = enter(true)
  if out then return out end
  redis.call('HSET', META, 'last', epoch)
  redis.call('HDEL', META, 'epoch')
  return answer()
end
if ARGV[6] == 'begin' then
  local out = enter(true)
  if not out then return answer('whole') end
  redis.call('HSET', META, 'building', ARGV[7], 'held', '0')
  -- Time goes too: after a clock that ran ahead the books would else stay ahead for ever.
  redis.call('HDEL', META, 'seq', 'run', 'was', 'floor', 'time')
  return { 'ok', '', '0', '', 'begun' }
end
local out = enter()
if out then return out end
if ARGV[6] == 'clear' then
  for i = 7, 6 + tonumber(ARGV[7]) do redis.call('UNLINK', ARGV[i + 1]) end
  return answer()
end
local last = math.max(tonumber(redis.call('HGET', META, 'last') or '0'), tonumber(ARGV[7]))
epoch, seq, run = int(math.max(now, last + 1)), 1, ARGV[4]
redis.call('HSET', META, 'epoch', epoch, 'seq', '1', 'run', run, 'floor', '1', 'was', '')
redis.call('HDEL', META, 'building')
return answer()
