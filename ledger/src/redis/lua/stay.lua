-- While a slot is being moved, some of an organisation's keys are here and some are not, and a script would fail at the
-- first that is not, perhaps after it has written. A key that never exists tells beforehand: looking for it fails then.
local stays = redis.pcall('EXISTS', string.sub(KEYS[1], 1, -5) .. 'elsewhere')
if type(stays) == 'table' then return { 'moving' } end
