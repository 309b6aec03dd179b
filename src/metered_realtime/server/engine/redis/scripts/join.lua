-- uses: base log members
-- ARGV: peer, connection, metadata, whether the members are wanted, bounds (3), position (2, or none)
local epoch, seq, offset = open()
local peer = ARGV[9]
local changed, had = put(peer, ARGV[10], ARGV[11])
if changed then
  announce({peer, ARGV[11]}, {})
  seq = seq + 1
else
  tell_own(text('c', epoch, seq, offset, ''))
end
keep()
local is_first = not had and redis.call('HLEN', ENTRIES) == 1
local replay = ARGV[16] and missed(epoch, offset, ARGV[16], tonumber(ARGV[17]), limits_at(13)) or false
return {is_first and 1 or 0, replay, epoch, seq, offset, ARGV[12] == '1' and members() or false}
