-- uses: usage
-- ARGV: messages wanted, below 0 if they are given back, limit (-1: none). Returns how many are granted.
local wanted, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local used = turn(tonumber(ARGV[2]))
if not used then
  return wanted
end
local granted = math.max(wanted, -used)
if limit >= 0 and wanted > 0 then
  granted = math.max(0, math.min(wanted, limit - used))
end
redis.call('HSET', KEYS[2], 'messages', used + granted)
keep()
return granted
