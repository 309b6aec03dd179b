-- uses: base log members
-- ARGV: known epoch, seq and offset, bounds (3), then peer, connection and metadata of each entry of the node
local epoch, seq, offset = open()
epoch = renew_if_behind(epoch, seq, offset, ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11]))
local joined = {}
for at = 15, #ARGV, 3 do
  if put(ARGV[at], ARGV[at + 1], ARGV[at + 2]) then
    joined[#joined + 1] = ARGV[at]
    joined[#joined + 1] = ARGV[at + 2]
  end
end
if #joined > 0 then
  announce(joined, {})
  seq = seq + 1
end
keep()
local replay = ARGV[9] ~= '' and missed(epoch, offset, ARGV[9], tonumber(ARGV[11]), limits_at(12)) or false
return {epoch, seq, offset, replay, members()}
