-- uses: base members
-- ARGV: connection, whether the peer is expelled. Returns whether no entry is left, and whether the node has one.
local epoch, seq, offset = open()
local found = redis.call('HGET', ENTRIES, ARGV[9])
local item = nil
if found then
  local entry = cmsgpack.unpack(found)
  local before = latest(entry[3])
  local _, was_told = drop(ARGV[9]), redis.call('HEXISTS', NODES, NODE) == 1
  local after = latest(entry[3])
  if after == nil then
    item = announce({}, {entry[3], ARGV[10]})
  elseif after ~= before then
    item = announce({entry[3], after}, {})
  end
  if item and not was_told then
    tell_own(item)
  end
end
if not item then
  tell_own(text('c', epoch, seq, offset, ''))
end
keep()
return {redis.call('HLEN', ENTRIES) == 0 and 1 or 0, redis.call('HEXISTS', NODES, NODE)}
