-- ARGV[6]: how many ids; then the ids.
local out = enter()
if out then return out end
for i = 1, tonumber(ARGV[6]) do
  if not record(ARGV[6 + i]) then keep_done(ARGV[6 + i]) end
end
return answer()
