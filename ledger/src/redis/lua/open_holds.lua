local out = enter(true)
if out then return out end
local oldest = redis.call('ZRANGE', P .. 'since', 0, 0, 'WITHSCORES')[2]
local age = oldest and now - tonumber(oldest) or 0
return answer(redis.call('ZCARD', P .. 'leases'), int(age), redis.call('HGET', META, 'held') or '0')
